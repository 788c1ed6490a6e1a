package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	hostfleet "github.com/portmon/portmon/internal/fleet"
	"github.com/portmon/portmon/internal/fleet/wire"
	"github.com/portmon/portmon/netnstest"
	"github.com/portmon/portmon/ruleset"
)

// lights are clients of a fleet without kernels of their own, many in a process and
// a namespace. A line of their input has them see sources, or say how many bans
// they have put; a line of their output is that number, or when a ban of a source
// whose way is timed was put.
type lights struct {
	t      testing.TB
	n      int // of its clients
	host   *netnstest.Host
	link   netnstest.End // towards it
	cmd    *exec.Cmd
	in     io.Writer
	counts chan int
	on     func(n int, at time.Time) // set before the first source is seen
}

// newLights has n clients join, in so many halls, and waits until they have.
func (i *internet) newLights(halls, n int) (all []*lights) {
	i.t.Helper()
	tokens := i.inviteAll(n)
	for hall := range halls {
		i.hosts++
		first, end := hall*n/halls, (hall+1)*n/halls
		l := &lights{t: i.t, n: end - first, host: netnstest.NewHost(i.t, fmt.Sprintf("hall-%d", hall)), counts: make(chan int, 1)}
		link := netnstest.Connect(i.t, i.host, l.host, fmt.Sprintf("192.0.2.%d/30", 4*i.hosts))
		l.host.DefaultVia(link.A.IPv4)
		l.link = link.A
		l.cmd = exec.Command(os.Args[0])
		l.cmd.Env = append(os.Environ(), "PORTMON_HUB_TEST=lights")
		l.cmd.Stderr = os.Stderr
		in, err := l.cmd.StdinPipe()
		out, outErr := l.cmd.StdoutPipe()
		if err != nil || outErr != nil {
			i.t.Fatal(err, outErr)
		}
		l.in = in
		l.host.Do(func() { err = l.cmd.Start() })
		if err != nil {
			i.t.Fatal(err)
		}
		i.t.Cleanup(func() { _ = l.cmd.Process.Kill(); _ = l.cmd.Wait() })
		go l.read(out)
		l.send("%s\n", strings.Join(tokens[first:end], "\n"))
		all = append(all, l)
	}
	for _, l := range all {
		<-l.counts // it has joined
	}
	return all
}

func (l *lights) read(out io.Reader) {
	defer close(l.counts)
	for lines := bufio.NewScanner(out); lines.Scan(); {
		var n int
		var at int64
		if _, err := fmt.Sscanf(lines.Text(), "held %d", &n); err == nil {
			l.counts <- n
		} else if _, err := fmt.Sscanf(lines.Text(), "put %d %d", &n, &at); err == nil {
			l.on(n, time.Unix(0, at))
		}
	}
}

func (l *lights) send(format string, args ...any) {
	if _, err := fmt.Fprintf(l.in, format+"\n", args...); err != nil {
		l.t.Error(err)
	}
}

// held returns how many bans its clients have put and not lifted, together.
func (l *lights) held() int {
	l.t.Helper()
	l.send("held")
	n, ok := <-l.counts
	if !ok {
		l.t.Fatal("the clients have ended")
	}
	return n
}

// awaitHeld waits until all clients have so many bans together.
func awaitHeld(n int, all ...*lights) {
	all[0].t.Helper()
	for begun := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		held := 0
		for _, l := range all {
			held += l.held()
		}
		if held == n {
			return
		}
		if time.Since(begun) > patience {
			all[0].t.Fatalf("%d bans are held, want %d", held, n)
		}
	}
}

// reach connects the clients to the hub, or cuts them off.
func (i *internet) reach(l *lights, up bool) {
	i.t.Helper()
	var err error
	i.host.Do(func() {
		var fd int
		if fd, err = unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0); err != nil {
			return
		}
		defer unix.Close(fd)
		var flags *unix.Ifreq
		if flags, err = unix.NewIfreq(l.link.Dev); err == nil {
			err = unix.IoctlIfreq(fd, unix.SIOCGIFFLAGS, flags)
		}
		if err == nil {
			flags.SetUint16(flags.Uint16() &^ unix.IFF_UP)
			if up {
				flags.SetUint16(flags.Uint16() | unix.IFF_UP)
			}
			err = unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, flags)
		}
	})
	if err != nil {
		i.t.Fatal(err)
	}
}

// inviteAll returns tokens of n hosts.
func (i *internet) inviteAll(n int) []string {
	i.t.Helper()
	tokens, errs := make([]string, n), make([]error, n)
	err := make(chan error, 1)
	i.host.Do(func() {
		p := &cli{ui: newUI(io.Discard, io.Discard), dir: i.dir}
		err <- p.withFleet(i.t.Context(), func(c *config, f *fleet, _ map[string]record) error {
			var all sync.WaitGroup
			turns := make(chan struct{}, 16)
			for k := range n {
				turns <- struct{}{}
				all.Go(func() {
					var token *wire.Token
					if token, errs[k] = f.invite(i.t.Context(), c, record{}, fmt.Sprintf("light-%d", k), time.Hour); errs[k] == nil {
						tokens[k] = token.String()
					}
					<-turns
				})
			}
			all.Wait()
			return nil
		})
	})
	for _, err := range append(errs, <-err) {
		if err != nil {
			i.t.Fatal(err)
		}
	}
	return tokens
}

// light is a table of a client that counts.
type light struct {
	mu   sync.Mutex
	held map[netip.Prefix]bool
}

// PutFleet implements [hostfleet.Table].
func (l *light) PutFleet(bans []ruleset.Record) ([]error, int, error) {
	now := time.Now().UnixNano()
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range bans {
		p := bans[i].Source
		if n := numberOf(p.Addr()); n >= probeBase && !l.held[p] {
			say("put %d %d", n-probeBase, now)
		}
		l.held[p] = true
	}
	return nil, 0, nil
}

// LiftFleet implements [hostfleet.Table].
func (l *light) LiftFleet(sources ...netip.Prefix) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, p := range sources {
		delete(l.held, p)
	}
	return nil
}

// CountFleet implements [hostfleet.Table].
func (l *light) CountFleet() (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.held), nil
}

var said sync.Mutex

func say(format string, args ...any) {
	said.Lock()
	defer said.Unlock()
	fmt.Printf(format+"\n", args...)
}

// runLights is the process of [lights].
func runLights() {
	var clients []*hostfleet.Client
	var tables []*light
	dir, err := os.MkdirTemp("", "lights")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	var joining sync.WaitGroup
	var mu sync.Mutex
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() && in.Text() != "" {
		text := in.Text()
		joining.Go(func() {
			token, err := wire.ParseToken(text)
			if err != nil {
				panic(err)
			}
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			state := filepath.Join(dir, token.Host, "state.jsonl")
			_, err = hostfleet.Join(ctx, token, state)
			if err != nil {
				panic(err)
			}
			m, err := hostfleet.ReadWithKey(state)
			if err != nil {
				panic(err)
			}
			table := &light{held: make(map[netip.Prefix]bool)}
			connected := make(chan struct{}, 100)
			c := hostfleet.New(hostfleet.Config{
				Member: m, State: state, MaxBan: 72 * time.Hour, Version: "test", Observe: func() bool { return false }, Table: table,
				Info: func(string, ...any) { connected <- struct{}{} }, Warn: func(string, ...any) {},
			})
			go c.Run(context.Background())
			<-connected
			mu.Lock()
			defer mu.Unlock()
			clients, tables = append(clients, c), append(tables, table)
		})
	}
	joining.Wait()
	say("held 0")
	for in.Scan() {
		var first, n, each, rate int
		if in.Text() == "held" {
			held := 0
			for _, t := range tables {
				n, _ := t.CountFleet()
				held += n
			}
			say("held %d", held)
		} else if _, err := fmt.Sscanf(in.Text(), "see %d %d %d %d", &first, &n, &each, &rate); err != nil {
			panic(err)
		}
		go func() {
			begun := time.Now()
			for k := range n {
				if rate > 0 {
					time.Sleep(time.Until(begun.Add(time.Duration(k) * time.Second / time.Duration(rate))))
				}
				clients[k%len(clients)].Share(wire.Sighting{Source: source(first + k/each), Step: 1, Cause: wire.Trap, Proto: 6, Port: 23, At: time.Now()})
			}
		}()
	}
}
