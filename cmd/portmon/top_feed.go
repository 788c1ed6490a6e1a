package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/portmon/portmon/internal/control"
	"github.com/portmon/portmon/internal/events"
	"github.com/portmon/portmon/internal/geo"
	"github.com/portmon/portmon/internal/nflog"
	"github.com/portmon/portmon/internal/text"
	"github.com/portmon/portmon/internal/top"
	"github.com/portmon/portmon/ruleset"
)

const (
	// topEvery is how often top shows what has happened, and topLook how often
	// it looks at the counters.
	topEvery = 250 * time.Millisecond
	topLook  = time.Second
	// topBansEvery is how often it reads the bans, if that takes little time.
	topBansEvery = 10 * time.Second
	// topShare is the part of the time that reading sets may take: one in so
	// many.
	topShare = 400
	// topListed is how many events are listed each time; more are only counted.
	topListed = 50
)

// feedTop sends to the screen what it shows, until the context ends.
func (p *cli) feedTop(ctx context.Context, places *geo.DB, show func(any)) {
	var parts sync.WaitGroup
	waiting := &batch{}
	parts.Go(func() { p.lookForTop(ctx, show) })
	parts.Go(func() { p.listForTop(ctx, places, show) })
	parts.Go(func() { p.hearForTop(ctx, places, show, waiting) })
	parts.Go(func() {
		for wait(ctx, topEvery) {
			if all := waiting.take(p.now()); len(all) > 0 {
				show(all)
			}
		}
	})
	parts.Wait()
}

// batch holds the last events until they are shown, as what decodes them: most of
// very many are never looked at.
type batch struct {
	mu      sync.Mutex
	last    []func() (events.Event, error)
	leftOut int
}

func (b *batch) add(e func() (events.Event, error)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.last = append(b.last, e); len(b.last) > topListed {
		b.last = b.last[1:]
		b.leftOut++
	}
}

func (b *batch) take(now time.Time) (all top.Batch) {
	b.mu.Lock()
	last, leftOut := b.last, b.leftOut
	b.last, b.leftOut = nil, 0
	b.mu.Unlock()
	if leftOut > 0 {
		all = append(all, events.Event{Time: events.Time{Time: now}, Event: "not_listed", Count: leftOut})
	}
	for _, decode := range last {
		if e, err := decode(); err == nil {
			all = append(all, e)
		}
	}
	return all
}

// lookForTop sends what the table says of itself.
func (p *cli) lookForTop(ctx context.Context, show func(any)) {
	var sets []top.Set
	var nextFill time.Time
	p.againAndAgain(ctx, show, func(h *ruleset.Handle) (time.Duration, error) {
		if err := h.Recount(); err != nil {
			return topLook, err
		}
		s := top.Snapshot{Time: p.now(), State: "enforcing", Good: true, Dropped: h.Counters[ruleset.CounterDropped].Packets}
		if s.Observing = h.Observe; h.Observe {
			s.State, s.Good = "observing", false
		}
		switch idle := h.Idle(); {
		case !h.Exists:
			s.State, s.Good = "no table", false
		case idle != "":
			s.State, s.Good = "not in force: "+text.Printable(idle), false
		}
		if start := time.Now(); h.Exists && !start.Before(nextFill) {
			fill, err := h.Fill()
			if err != nil && !errors.Is(err, os.ErrNotExist) {
				return topLook, err
			}
			sets = sets[:0:0]
			for _, f := range fill {
				sets = append(sets, top.Set{Name: f.Set, Count: f.Count, Size: int(f.Size)})
			}
			nextFill = start.Add(max(2*topLook, topShare*time.Since(start))) // old kernels have them read
		}
		s.Sets = sets
		show(s)
		return topLook, nil
	})
}

// listForTop sends the longest bans.
func (p *cli) listForTop(ctx context.Context, places *geo.DB, show func(any)) {
	var last time.Time
	p.againAndAgain(ctx, show, func(h *ruleset.Handle) (time.Duration, error) {
		start := time.Now()
		if err := h.Recount(); err != nil || !h.Exists {
			return topBansEvery, err
		}
		var bans top.Bans
		now := p.now()
		err := withSets(h, func() (err error) { bans, err = p.readBans(h, places, last); return err })
		if err == nil {
			last = now
			show(bans)
		}
		return max(topBansEvery, topShare*time.Since(start)), err
	})
}

// againAndAgain calls f with a table of its own after each of the times that it
// returns, and shows what is wrong.
func (p *cli) againAndAgain(ctx context.Context, show func(any), f func(h *ruleset.Handle) (time.Duration, error)) {
	trouble := ""
	for ok := true; ok; {
		c, h, err := p.open()
		for err == nil && ok {
			var pause time.Duration
			if pause, err = f(h); err == nil {
				if trouble != "" {
					trouble = ""
					show(top.Trouble(""))
				}
				ok = wait(ctx, pause)
			}
		}
		if c != nil {
			c.Close()
		}
		if err != nil {
			trouble = text.Printable(err.Error())
			show(top.Trouble(trouble))
			ok = wait(ctx, topLook)
		}
	}
}

// hearForTop collects events: from the watcher, or from the log group if there
// is none and nobody else listens. It tries both again while it has neither.
func (p *cli) hearForTop(ctx context.Context, places *geo.DB, show func(any), to *batch) {
	first := topListed
	for ok := true; ok; ok = wait(ctx, topLook) {
		w, err := p.wantWatcher()
		switch {
		case err == nil:
			show(top.Source("the watcher"))
			_ = w.Events(ctx, first, true, func(line []byte) error { // it may have ended
				line = bytes.Clone(line)
				to.add(func() (events.Event, error) { return events.Decode(line) })
				return nil
			})
			first = 0
			w.Close()
		case errors.Is(err, control.ErrNone):
			if conn, err := nflog.Dial(&nflog.Config{Group: ruleset.Default().LogGroup}); err == nil {
				show(top.Source("the log group"))
				p.hearLog(ctx, conn, places, to)
				conn.Close()
			}
		}
		show(top.Source(""))
	}
}

// hearLog collects what the packet path logs.
func (p *cli) hearLog(ctx context.Context, conn *nflog.Conn, places *geo.DB, to *batch) {
	c, h, err := p.open()
	if err != nil {
		return
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	var batch []nflog.Message
	for {
		var lost nflog.Lost
		batch, lost, err = conn.Receive(batch[:0])
		if errors.Is(err, os.ErrClosed) || err == io.EOF {
			return
		}
		ladder, _ := h.Ladder()
		for _, m := range batch {
			cause, step, ok := ruleset.ParseLogPrefix(m.Prefix)
			source, err := h.Source(m.Src)
			if !ok || err != nil {
				continue
			}
			e := loggedEvent(&m, cause, step, source, h.Mode(), ladder, p.now())
			e.Place = places.Of(source)
			to.add(func() (events.Event, error) { return e, nil })
		}
		if lost.Messages > 0 {
			e := events.Event{Time: events.Time{Time: p.now()}, Event: events.Lost, Count: lost.Messages}
			to.add(func() (events.Event, error) { return e, nil })
		}
	}
}

// loggedEvent makes an event of a message of the packet path.
func loggedEvent(
	m *nflog.Message, cause ruleset.Cause, step int, source netip.Prefix, mode string, ladder []time.Duration, now time.Time,
) events.Event {
	e := events.Event{
		Time: events.Time{Time: now}, Event: "banned", Mode: mode, Prefix: source, Cause: cause.String(), Tier: step,
		Protocol: text.Protocol(m.Proto), Port: m.DstPort,
	}
	if step > 1 {
		e.Event = "escalated"
	}
	if mode == ruleset.Mode(true) {
		e.Event = "would_be_" + e.Event
	}
	if step > 0 && step <= len(ladder) {
		e.Until = now.Add(ladder[step-1])
	}
	return e
}

// wait returns when the time has passed, or false when the context has ended.
func wait(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}
