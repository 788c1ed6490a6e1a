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
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/portmon/portmon/internal/book"
)

// stateVariable makes the test binary a watcher, of that state.
const (
	stateVariable = "PORTMON_WATCH_TEST_STATE"
	readyLine     = "ready\n"
)

// killLadder has steps that some watchers live and die in, and that are not over
// before the test has seen on a busy machine that their sources are cut.
var killLadder = []time.Duration{5 * time.Second, 8 * time.Second, time.Hour, 2 * time.Hour}

func watchUntilKilled() error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	var faults error
	w, err := Open(Config{
		Spec: testSpec(killLadder...), State: os.Getenv(stateVariable), Ready: func() { fmt.Print(readyLine) },
		Fault: func(err error) { faults = errors.Join(faults, err) },
	})
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

func (l *fixture) start(path string) *process {
	l.T.Helper()
	self, err := os.Executable()
	if err != nil {
		l.T.Fatal(err)
	}
	p := &process{Cmd: exec.Command(self), t: l.T}
	p.Env = append(os.Environ(), stateVariable+"="+path)
	p.Stderr = &p.stderr
	out, err := p.StdoutPipe()
	if err != nil {
		l.T.Fatal(err)
	}
	p.out = bufio.NewReader(out)
	l.Host.Do(func() { err = p.Start() })
	if err != nil {
		l.T.Fatal(err)
	}
	l.T.Cleanup(func() { p.Process.Kill() })
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

// end ends the watcher by a signal, and returns when it has ended.
func (p *process) end(s syscall.Signal) {
	p.t.Helper()
	p.Process.Signal(s)
	err := p.Wait()
	if s == syscall.SIGTERM && err != nil || p.stderr.Len() > 0 {
		p.t.Errorf("the watcher ended by %v: %v: %s", s, err, p.stderr.String())
	}
}

// saved returns the rows of a state file.
func (l *fixture) saved(path string) map[netip.Prefix]book.Row {
	l.T.Helper()
	b, report, err := book.Read(book.Config{Path: path, Here: book.Here(0), Now: book.ReadClock()})
	if err != nil {
		l.T.Fatal(err)
	}
	if text := report.String(); text != "" {
		l.T.Error(text)
	}
	rows := make(map[netip.Prefix]book.Row)
	for row := range b.Rows() {
		rows[row.Source] = row
	}
	return rows
}

// However often the watcher is killed, and for however long there is none,
// every source climbs by one step for each offence, and is remembered with it.
func TestKilled(t *testing.T) {
	t.Parallel()
	const kills, repeaters = 100, 8
	l := newLab(t, killLadder...)
	path := t.TempDir() + "/state.jsonl"
	offences := make(map[netip.Addr]int)
	bystanders := l.Sources(1)
	again := l.Sources(repeaters)
	moment := func() time.Duration { return time.Duration(rand.IntN(60_000)) * time.Microsecond }
	for cycle := range kills {
		p := l.start(path)
		if cycle%3 == 0 {
			p.awaitReady()
		} else {
			time.Sleep(moment()) // it may be killed at any point of its start
		}
		sources := l.Sources(1)
		for _, src := range again {
			if offences[src] < 3 && len(l.Lookup(src).Bans) == 0 {
				sources = append(sources, src)
			}
		}
		for _, src := range sources {
			offences[src]++
		}
		l.Offend(sources...)
		time.Sleep(moment() / 4)
		p.end(syscall.SIGKILL)
		l.Cut(sources[rand.IntN(len(sources))]) // all take longer than a ban, on a busy machine
		l.Served(bystanders...)
	}
	for _, src := range again {
		for offences[src] < 3 {
			l.AwaitFree(src)
			l.Offend(src)
			offences[src]++
		}
	}
	p := l.start(path)
	p.awaitReady()
	p.end(syscall.SIGTERM)
	rows := l.saved(path)
	if len(rows) != len(offences) {
		t.Errorf("the book has %d sources, want %d", len(rows), len(offences))
	}
	for src, n := range offences {
		row, st := rows[l.source(src)], l.Lookup(src)
		if row.Step != n || st.Step != n || row.Offences != n || slices.Contains(again, src) && (!row.Banned || len(st.Bans) != 1) {
			t.Errorf("%v has offended %d times: %+v, in the kernel %+v", src, n, row, st)
		}
	}
	l.Served(bystanders...)
}
