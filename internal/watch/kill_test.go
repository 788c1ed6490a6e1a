package watch

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/portmon/portmon/internal/state"
	"github.com/portmon/portmon/ruleset"
)

const (
	stateVariable = "PORTMON_WATCH_TEST_STATE"
	readyLine     = "ready\n"
)

// killLadder has a first tier that a few watchers live and die in.
var killLadder = []time.Duration{4 * time.Second, time.Hour, 2 * time.Hour}

func watchUntilKilled() error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	config := Config{
		Spec: ruleset.Default(), Forget: 24 * time.Hour, State: os.Getenv(stateVariable),
		Ready: func() { fmt.Print(readyLine) },
	}
	config.Spec.BanTime = killLadder
	var faults error
	config.Fault = func(err error) { faults = errors.Join(faults, err) }
	w, err := Open(config)
	if err != nil {
		return err
	}
	defer w.Close()
	return errors.Join(w.Run(ctx, nil), faults)
}

// process is a watcher that can be killed.
type process struct {
	*exec.Cmd
	t      testing.TB
	out    *bufio.Reader
	stderr strings.Builder
}

func (l *lab) start(path string) *process {
	l.t.Helper()
	self, err := os.Executable()
	if err != nil {
		l.t.Fatal(err)
	}
	p := &process{Cmd: exec.Command(self), t: l.t}
	p.Env = append(os.Environ(), roleVariable+"="+roleWatch, stateVariable+"="+path)
	p.Stderr = &p.stderr
	out, err := p.StdoutPipe()
	if err != nil {
		l.t.Fatal(err)
	}
	p.out = bufio.NewReader(out)
	l.host.Do(func() { err = p.Start() })
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { p.Process.Kill() })
	return p
}

func (p *process) awaitReady() {
	p.t.Helper()
	if line, err := p.out.ReadString('\n'); line != readyLine {
		p.Process.Kill()
		p.Wait()
		p.t.Fatalf("the watcher said %q, error %v: %s", line, err, p.stderr.String())
	}
}

// end ends the watcher, by a signal, and returns when it has ended.
func (p *process) end(s syscall.Signal) {
	p.t.Helper()
	p.Process.Signal(s)
	err := p.Wait()
	if s == syscall.SIGTERM && err != nil || p.stderr.Len() > 0 {
		p.t.Errorf("the watcher ended by %v: %v: %s", s, err, p.stderr.String())
	}
}

func TestKilled(t *testing.T) {
	const kills, waves = 100, 10
	l := newLab(t, killLadder...)
	path := filepath.Join(t.TempDir(), "state.jsonl")
	offences := make(map[netip.Addr]int)
	var repeaters []netip.Addr // that have offended once yet
	bystanders := l.pair()
	moment := func() time.Duration { return time.Duration(rand.IntN(60_000)) * time.Microsecond }
	cycle := 0
	for ; cycle < kills || len(repeaters) > 0; cycle++ {
		p := l.start(path)
		if cycle%3 == 0 {
			p.awaitReady() // and has saved what it found
		} else {
			time.Sleep(moment())
		}
		sources := l.pair()
		if cycle < waves {
			repeaters = append(repeaters, sources...)
		}
		repeaters = slices.DeleteFunc(repeaters, func(src netip.Addr) bool {
			tiers, _ := l.bans(src)
			if offences[src] == 1 && len(tiers) == 0 {
				sources = append(sources, src)
				return true
			}
			return false
		})
		for _, src := range sources {
			offences[src]++
		}
		l.offend(sources...)
		time.Sleep(moment() / 4)
		p.end(syscall.SIGKILL)
		l.cut(sources...)
		l.served(bystanders...)
	}
	p := l.start(path)
	p.awaitReady()
	p.end(syscall.SIGTERM)
	t.Logf("%d kills, %d sources", cycle, len(offences))

	f, err := state.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	got := make(map[netip.Prefix]state.Record)
	for rec := range f.Records() {
		got[rec.Prefix] = rec
	}
	if len(got) != len(offences) {
		t.Errorf("the state has %d sources, want %d", len(got), len(offences))
	}
	twice := 0
	for src, n := range offences {
		rec := got[l.read().Source(src)]
		if rec.Offences != n {
			t.Errorf("%v has offended %d times: %+v", src, n, rec)
		}
		if n == 2 {
			twice++
			if tiers, _ := l.bans(src); !slices.Contains(tiers, 2) || !rec.Banned || rec.Tier != 2 {
				t.Errorf("%v is in tiers %v, want 2: %+v", src, tiers, rec)
			}
		}
	}
	if twice != 2*waves {
		t.Errorf("%d sources have offended twice, want %d", twice, 2*waves)
	}
}
