package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/portmon/portmon/internal/book"
	"github.com/portmon/portmon/internal/control"
	"github.com/portmon/portmon/internal/events"
	"github.com/portmon/portmon/internal/geo"
	"github.com/portmon/portmon/internal/nflog"
	"github.com/portmon/portmon/internal/text"
	"github.com/portmon/portmon/internal/top"
	"github.com/portmon/portmon/internal/watch"
	"github.com/portmon/portmon/ruleset"
)

const (
	// topEvery is how often top shows new events, and topLook how often it reads
	// the counters.
	topEvery = 250 * time.Millisecond
	topLook  = time.Second
	// topBansEvery is how often it reads the bans, unless that takes long.
	topBansEvery = 10 * time.Second
	// topShare bounds the time spent on reading sets to one part in so many.
	topShare = 400
	// topRest is the longest that they are left unread: a read that took long may
	// have been one in which the process was stopped.
	topRest = 5 * time.Minute
	// topListed is how many events are listed each time. The rest are counted.
	topListed = 50
)

// feedTop sends the screen what it shows, until the context ends.
func (p *cli) feedTop(ctx context.Context, places *geo.DB, show func(any)) {
	var parts sync.WaitGroup
	waiting := &batch{}
	banned := new(atomic.Int64)
	parts.Go(func() { p.lookForTop(ctx, show, banned) })
	parts.Go(func() { p.listForTop(ctx, places, show, banned) })
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

// batch holds the last events until they are shown. It holds functions that
// decode them, because under load most are never shown.
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

// lookForTop sends snapshots of the table, and counts the bans.
func (p *cli) lookForTop(ctx context.Context, show func(any), banned *atomic.Int64) {
	var sets []top.Set
	var nextFill time.Time
	p.againAndAgain(ctx, show, func(h *ruleset.Handle) (time.Duration, error) {
		if err := h.Recount(); err != nil {
			return topLook, err
		}
		s := top.Snapshot{Time: p.now(), State: "enforcing", Good: true}
		for name, c := range h.Counters {
			if ruleset.CountsDrops(name) {
				s.Dropped += c.Packets
			}
		}
		if ladder, _ := h.Ladder(); len(ladder) > 0 {
			s.BanFor = ladder[0]
		}
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
			bans := 0
			for _, f := range fill {
				if role, _ := ruleset.RoleOf(f.Set); role.Bans() {
					bans += f.Count
				}
				sets = append(sets, top.Set{Name: f.Set, Count: f.Count, Size: int(f.Size)})
			}
			banned.Store(int64(bans))
			nextFill = start.Add(rest(start, 2*topLook)) // on old kernels this reads the sets
		}
		s.Sets = sets
		show(s)
		return topLook, nil
	})
}

// listForTop sends the longest bans. It reads them again early once half of them
// have been lifted.
func (p *cli) listForTop(ctx context.Context, places *geo.DB, show func(any), banned *atomic.Int64) {
	var last, next time.Time
	total := 0
	p.againAndAgain(ctx, show, func(h *ruleset.Handle) (time.Duration, error) {
		start := time.Now()
		if start.Before(next) && int(banned.Load()) > total/2 {
			return topBansEvery, nil
		}
		places.Refresh() // what is wrong is said by portmon config check
		if err := h.Recount(); err != nil || !h.Exists {
			return topBansEvery, err
		}
		var bans top.Bans
		now := p.now()
		err := withSets(h, func() (err error) { bans, err = p.readBans(h, places, last); return err })
		if err == nil {
			last, total = now, bans.Total
			show(bans)
		}
		next = start.Add(rest(start, topBansEvery))
		return topBansEvery, err
	})
}

// rest returns how long to wait after the start of a read until the next.
func rest(start time.Time, least time.Duration) time.Duration {
	return min(max(least, topShare*time.Since(start)), topRest)
}

// againAndAgain calls f with a handle of its own, again after each pause that
// it returns, and shows what goes wrong.
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

// hearForTop collects events from the watcher, or from the log group if there
// is no watcher and nobody else listens. While it has neither, it keeps trying.
// Once there has been a watcher, it leaves the group alone for when that comes
// back. What the watcher knows of before is shown unless it was seen in the group.
func (p *cli) hearForTop(ctx context.Context, places *geo.DB, show func(any), to *batch) {
	first, pause, watched := topListed, topLook, false
	var source top.Source
	var trouble top.Trouble
	for ok := true; ok; ok = wait(ctx, pause) {
		from, wrong := top.Source(""), top.Trouble("")
		hear := func(name top.Source) {
			if from = name; source != name {
				source = name
				show(source)
			}
		}
		pause = topLook
		w, err := p.wantWatcher()
		switch {
		case err == nil:
			hear(top.Watcher)
			_ = w.Events(ctx, first, true, func(line []byte) error { // it fails when the watcher ends
				line = bytes.Clone(line)
				to.add(func() (events.Event, error) { return events.Decode(line) })
				return nil
			})
			first, from, watched = 0, "", true
			w.Close()
		case errors.Is(err, control.ErrNone) && !watched:
			conn, err := nflog.Dial(&nflog.Config{Group: ruleset.Default().LogGroup})
			if err == nil {
				hear(top.LogGroup)
				first = 0
				err = p.hearLog(ctx, conn, places, to)
				conn.Close()
				pause = nflog.Gap
			}
			if err != nil && !errors.Is(err, nflog.ErrBusy) {
				from, wrong, pause = "", top.Trouble(text.Printable(err.Error())), topLook
			}
		}
		if source != from {
			source = from
			show(source)
		}
		if trouble != wrong {
			trouble = wrong
			show(trouble)
		}
	}
}

// hearLog collects what the packet path logs, for one turn.
func (p *cli) hearLog(ctx context.Context, conn *nflog.Conn, places *geo.DB, to *batch) error {
	c, h, err := p.open()
	if err != nil {
		return err
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	if err := conn.SetReadDeadline(time.Now().Add(nflog.Turn)); err != nil {
		return err
	}
	looked := time.Now()
	for batch := []nflog.Message(nil); ; {
		var lost nflog.Lost
		batch, lost, err = conn.Receive(batch[:0])
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, os.ErrClosed):
			return nil
		case err != nil:
			return err
		}
		now := book.ReadClock()
		if lost.Overrun || lost.Messages > 0 {
			e := events.Event{Time: events.Time{Time: now.Wall}, Event: events.Lost, Count: lost.Messages}
			to.add(func() (events.Event, error) { return e, nil })
		}
		if time.Since(looked) > topLook { // the ladder, the mode and the prefixes may have changed
			if err := h.Recount(); err != nil {
				return err
			}
			looked = time.Now()
		}
		ladder, _ := h.Ladder()
		for _, m := range batch {
			cause, step, ok := ruleset.ParseLogPrefix(m.Prefix)
			source, err := h.Source(m.Src)
			if !ok || err != nil {
				continue
			}
			n := watch.News{
				Kind: watch.KindOf(cause, step), Source: source, Place: places.Of(source), Cause: cause, Step: step,
				Proto: m.Proto, Port: m.DstPort, Observed: h.Observe,
			}
			if step > 0 && step <= len(ladder) {
				n.Until = now.Boot.Add(ladder[step-1])
			}
			e := events.New(&n, now)
			to.add(func() (events.Event, error) { return e, nil })
		}
	}
}

// wait returns true after d, or false when the context ends.
func wait(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}
