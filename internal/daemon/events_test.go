package daemon

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/portmon/portmon/internal/book"
	"github.com/portmon/portmon/internal/control"
	"github.com/portmon/portmon/internal/events"
	"github.com/portmon/portmon/internal/lab"
	"github.com/portmon/portmon/internal/watch"
	"github.com/portmon/portmon/netnstest"
	"github.com/portmon/portmon/ruleset"
)

// follow has a client follow the events, and returns the events as they come,
// and the error in the end. The client waits until each was taken.
func (p *process) follow(ctx context.Context, last int) (<-chan events.Event, <-chan error) {
	p.t.Helper()
	c := p.ask()
	came, ended := make(chan events.Event), make(chan error, 1)
	go func() {
		ended <- c.Events(ctx, last, true, func(line []byte) error {
			e, err := events.Decode(line)
			if err != nil {
				return err
			}
			select {
			case came <- e:
				return nil
			case <-p.t.Context().Done():
				return p.t.Context().Err()
			}
		})
	}()
	return came, ended
}

// take returns the next event.
func (p *process) take(came <-chan events.Event) (e events.Event) {
	p.t.Helper()
	select {
	case e = <-came:
	case <-time.After(lab.Patience):
		p.t.Fatal("no event comes")
	}
	return e
}

// TestEvents has events read while they come, and later.
func TestEvents(t *testing.T) {
	t.Parallel()
	l := newLab(t, "1h", "2h")
	p := l.start()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	l.Offend(offender)
	p.awaitOffenders(1)
	came, ended := p.follow(ctx, 1)
	start := time.Now()
	first := p.take(came)
	l.put(ruleset.Record{
		Source: netip.MustParsePrefix("203.0.113.0/24"), Banned: true, Cause: ruleset.CauseHand, Comment: "by \x1b[31mme",
	})
	second := p.take(came)
	if age := start.Sub(first.Time.Time); age < -lab.Patience || age > lab.Patience || second.Time.Before(first.Time.Time) {
		t.Errorf("they came at %v and %v", first.Time, second.Time)
	}
	if left := first.Until.Sub(first.Time.Time); left < 59*time.Minute || left > time.Hour+time.Second {
		t.Errorf("the ban ends after %v", left)
	}
	want := []events.Event{
		{
			Version: 1, Seq: 1, Time: first.Time, Event: "banned", Mode: "enforce", Prefix: prefixOf(offender), Cause: "trap", Tier: 1,
			Protocol: "tcp", Port: lab.TrapTCP, Offences: 1, Until: first.Until,
		},
		{
			Version: 1, Seq: 2, Time: second.Time, Event: "banned_by_hand", Mode: "enforce", Prefix: netip.MustParsePrefix("203.0.113.0/24"),
			Cause: "hand", Forever: true, Reason: "by \uFFFD[31mme",
		},
	}
	equal := cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })
	if diff := cmp.Diff(want, []events.Event{first, second}, equal); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
	for last, want := range map[int][]events.Event{0: nil, 1: want[1:], 1000: want} {
		var got []events.Event
		err := p.ask().Events(ctx, last, false, func(line []byte) error { e, err := events.Decode(line); got = append(got, e); return err })
		if diff := cmp.Diff(want, got, equal); diff != "" || err != nil {
			t.Errorf("the last %d: error %v, (-want +got):\n%s", last, err, diff)
		}
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error("the reader was stopped: ", err)
	}
	_, ended = p.follow(t.Context(), 0)
	p.stop()
	if err := <-ended; !errors.Is(err, control.ErrEnded) && !errors.Is(err, control.ErrNone) {
		t.Error("the watcher ended: ", err)
	}
}

// TestSlowReader has more events than are kept come while a reader does not
// read: the watcher goes on, and the reader is told what it has missed.
func TestSlowReader(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	p := l.start()
	came, _ := p.follow(t.Context(), 1) // should it come to ask only after the event
	l.Offend(offender)
	p.take(came)             // now it reads no more
	const n = 3 * keptEvents // more new offenders would be held back
	l.Internet.Burst(n, func(i int) netnstest.Packet {
		return netnstest.SYN(source(i+1000), netip.AddrPortFrom(l.Link.B.IPv4, lab.TrapTCP))
	})
	lab.Await(t, "all are known", func() bool { return p.status().Rows > n })
	l.Offend(offender6)
	p.awaitRows(n+2, n+2)
	lost := 0
	for seen, last := uint64(1), false; !last; {
		e := p.take(came)
		if seen++; e.Event == events.Lost {
			lost += e.Count
			seen += uint64(e.Count) - 1
		}
		if e.Seq != seen {
			t.Fatalf("event %d came as the one of number %d: %+v", seen, e.Seq, e)
		}
		last = e.Prefix == prefixOf(offender6)
	}
	if lost < keptEvents/2 {
		t.Errorf("only %d of %d events were lost", lost, n)
	}
}

// TestKindsOfEvents shows that the formats know every kind of news.
func TestKindsOfEvents(t *testing.T) {
	cef, err := events.NewFormat("cef", "1", "")
	if err != nil {
		t.Fatal(err)
	}
	for kind := range watch.Kinds {
		for _, observed := range []bool{false, true} {
			e := events.New(&watch.News{Kind: kind, Observed: observed}, book.ReadClock())
			if line := string(cef(&e)); strings.Contains(line, "||") || strings.Contains(line, "|0|") {
				t.Errorf("%v has no name or no severity: %s", kind, line)
			}
		}
	}
}
