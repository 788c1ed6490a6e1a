package main

import (
	"cmp"
	"net/netip"
	"runtime/debug"
	"slices"
	"time"

	"github.com/portmon/portmon/internal/book"
	"github.com/portmon/portmon/internal/control"
	"github.com/portmon/portmon/ruleset"
)

// knowledge is what is remembered of sources that the kernel does not hold: last
// ports, the number of offences and when they were.
type knowledge struct {
	*book.Book
	clock   book.Clock
	watched bool // it comes from a watcher rather than from the file
}

// maxKnown is up to how many bans a list shows what is remembered of them. To
// read a larger book takes as much memory as all bans.
const maxKnown = 100_000

// knownOf returns a function that returns what is remembered of targets, of all
// sources if there are none. That one does not ask the kernel any more.
func (p *cli) knownOf(h *ruleset.Handle, only []target, nothing bool) (func() (*knowledge, error), error) {
	none := func() (*knowledge, error) { return nil, nil }
	if nothing {
		return none, nil
	}
	if len(only) == 0 {
		if n, err := countBans(h); err != nil || n > maxKnown {
			if err == nil {
				debug.SetGCPercent(10) // most of what is allocated for so many is garbage at once
				p.note("more than %d bans: offences and ports are left out; name addresses to see theirs", maxKnown)
			}
			return none, err
		}
	}
	if err := resolve(h, only); err != nil {
		return nil, err
	}
	sources := sourcesOf(only)
	if slices.ContainsFunc(only, func(t target) bool { return !t.address }) {
		sources = nil // all
	}
	return func() (*knowledge, error) { return p.knowledge(h, sources...) }, nil
}

// knowledge asks the watcher, or reads the file: about some sources, or about
// all if none is named. It warns of what cannot be read, and goes on without;
// but a --config that cannot be read is an error.
func (p *cli) knowledge(h *ruleset.Handle, sources ...netip.Prefix) (*knowledge, error) {
	k := &knowledge{book.New(0), book.ReadClock(), false}
	path, err := p.statePath()
	if err != nil {
		if p.configFile != "" {
			return nil, err
		}
		p.warn("what is remembered of offences is left out: %v", err)
		return k, nil
	}
	conf := bookConfig(path, h)
	// One question is enough: each can wait for the kernel to give the watcher a
	// CPU, which takes long while that reads a large set.
	w, err := p.env.watcher(control.Path(path))
	if err == nil {
		defer w.Close()
		var b *book.Book
		if b, err = w.Book(conf.MaxRows, sources...); err == nil {
			return &knowledge{b, k.clock, true}, nil
		}
	}
	p.withoutWatcher(err)
	b, report, err := book.Read(conf, sources...)
	if err := cmp.Or(err, originError(report)); err != nil {
		p.warn("what is remembered of offences is left out: %v", err)
		return k, nil
	}
	k.Book = b
	return k, nil
}

// explain adds to a ban what is known of the offence that led to it. What is
// known of another ban of the same source says nothing.
func (k *knowledge) explain(b ban) ban {
	const tolerance = 2 * time.Second
	if k == nil || b.Remaining == 0 {
		return b
	}
	row, ok := k.Get(b.prefix)
	if !ok || row.Offences == 0 || row.ByHand || !row.Banned {
		return b
	}
	if until := k.clock.Time(row.Until); until.Sub(b.read.Add(b.Remaining)).Abs() <= tolerance {
		b.known, b.clock = &row, k.clock
	}
	return b
}
