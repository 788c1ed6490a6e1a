package main

import (
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/portmon/portmon/internal/fleet/wire"
)

// BenchmarkJoining has a host join a fleet that bans 65,536 sources, be killed and
// started, and lift them all:
//
//	make bench-fleet
//
// It prints what benchstat reads: seconds until the last ban is in force.
func BenchmarkJoining(b *testing.B) {
	const n = 65_536
	i := newInternet(b)
	w := i.newHost("a")
	token, err := wire.ParseToken(i.invite("web-a"))
	if err != nil {
		b.Fatal(err)
	}
	hub := i.evil(token)
	for k := range n {
		source := source(k)
		_, err := hub.js.PublishAsync(hub.inlet+wire.Key(source), []byte(banOf(source.String(), time.Now())), jetstream.WithStallWait(time.Minute))
		if err != nil {
			b.Fatal(err)
		}
	}
	select {
	case <-hub.js.PublishAsyncComplete():
	case <-time.After(time.Minute):
		b.Fatal("the bans are not stored")
	}
	report := func(name string, took time.Duration) {
		fmt.Fprintln(os.Stdout, "BenchmarkJoining/"+name, 1, fmt.Sprintf("%.2f s-for-%d-bans", took.Seconds(), n))
	}
	begun := time.Now()
	w.portmon(token.String(), "fleet", "join", "-")
	joined := time.Since(begun)
	w.awaitBans(n)
	report("join", time.Since(begun))
	report("join_command", joined)
	begun = time.Now()
	w.portmon("", "fleet", "off")
	report("off", time.Since(begun))
	w.awaitBans(0)
	begun = time.Now()
	w.portmon("", "fleet", "on")
	w.awaitBans(n)
	report("on", time.Since(begun))
}
