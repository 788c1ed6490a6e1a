package main

import (
	"cmp"
	"net/netip"
	"time"

	"github.com/portmon/portmon/internal/book"
	"github.com/portmon/portmon/internal/config"
	"github.com/portmon/portmon/internal/control"
	"github.com/portmon/portmon/internal/geo"
	"github.com/portmon/portmon/ruleset"
)

// knowledge is what is remembered of sources that the kernel does not hold: last
// ports, the number of offences and when they were.
type knowledge struct {
	*book.Book
	clock   book.Clock
	watched bool // it comes from a watcher rather than from the file
}

// knowledge asks the watcher, or reads the file: about some sources, or about
// all if none is named. It warns of what cannot be read, and goes on without.
func (p *cli) knowledge(h *ruleset.Handle, sources ...netip.Prefix) *knowledge {
	k := &knowledge{book.New(0), book.ReadClock(), false}
	err := p.stateErr
	if err == nil {
		conf := p.bookConfig(h)
		// One question is enough: each can wait for the kernel to give the watcher
		// a CPU, which takes long while that reads a large set.
		w, absent := p.env.watcher(control.Path(p.state))
		if absent == nil {
			defer w.Close()
			var b *book.Book
			if b, absent = w.Book(conf.MaxRows, sources...); absent == nil {
				return &knowledge{b, k.clock, true}
			}
		}
		p.withoutWatcher(absent)
		var b *book.Book
		var report book.Report
		b, report, err = book.Read(conf, sources...)
		if err = cmp.Or(err, originError(report)); err == nil {
			k.Book = b
		}
	}
	if err != nil {
		p.warn("what is remembered of offences is left out: %v", err)
	}
	return k
}

// places opens the databases that tell countries and networks. It warns of what
// cannot be read, and goes on without.
func (p *cli) places() *geo.DB {
	db, err := geo.Open(p.databases...)
	if err != nil {
		p.warn("countries and networks of a database are left out: %v", err)
	}
	return db
}

// checkPlaces warns of what cannot be read of a configuration's databases.
func (p *cli) checkPlaces(conf *config.Config) {
	p.databases = conf.Geo
	p.places().Close()
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
