package watch

import (
	"iter"
	"maps"
	"net/netip"
	"time"

	"github.com/portmon/portmon/internal/book"
	"github.com/portmon/portmon/ruleset"
)

// Stats are what a watcher has counted since it was opened, and what it knows
// now.
type Stats struct {
	counters

	// Table reports that there is a table, TableCurrent that it is what the
	// configuration says but for the mode; Wrong is what is not. Observing
	// reports that it drops nothing.
	Table, TableCurrent, Observing bool
	Wrong                          string
	// Steps is how many the ladder has.
	Steps int
	// Rows is how many sources are remembered, Bans are those that are banned,
	// and Offenders those whose step is on record. The last two are counted
	// every few seconds only if they are very many.
	Rows, Offenders int
	Bans            map[Place]int
	// Saves and SaveFailures are of the book's file; SaveError is why it cannot
	// be written, nil if it can.
	Saves, SaveFailures uint64
	SaveError           error
}

// Place is what bans are counted by.
type Place struct {
	Family int // 4 or 6
	Step   int // of the ladder; 0 for what it did not ban
}

// Port is where an offence was.
type Port struct {
	Proto uint8  // IP protocol, 0 for one that is not known
	Port  uint16 // 0 for one that is not known, or one too many to be counted apart
}

// Made is what bans are counted by as they are made.
type Made struct {
	Cause ruleset.Cause
	Step  int // of the ladder; 0 for what it did not ban
}

// counters only grow, but for Lag.
type counters struct {
	// News counts news by kind; of Restored, the bans.
	News [Kinds]uint64
	// Made counts the bans that were made, for offences and by hand.
	Made map[Made]uint64
	// Offences by port. No more than [maxPorts] are counted apart.
	Offences map[Port]uint64
	// LostMessages are those of the log group of which the kernel says that it
	// had no room for them. LogOverruns is how often the buffer of their socket
	// was full, EventOverruns how often that of the events was.
	LostMessages, LogOverruns, EventOverruns uint64
	// Resyncs is how often all sets were read, the first time included.
	Resyncs uint64
	// Lag is how old the last ban was when its message was received; 0 where
	// the kernel does not say when it was sent.
	Lag time.Duration
}

// Escalations returns how many sources came to a step, from 2.
func (c *counters) Escalations(step int) (n uint64) {
	for m := range c.Made {
		if m.Step == step {
			n += c.Made[m]
		}
	}
	return n
}

// maxPorts bounds what is counted by port: of scans, any port may be the last.
const maxPorts = 200

// count counts news.
func (c *counters) count(n *News) {
	if c.Made == nil {
		c.Made, c.Offences = make(map[Made]uint64), make(map[Port]uint64)
	}
	c.News[n.Kind] += uint64(max(n.Count, 1))
	switch n.Kind {
	case Banned, Escalated:
		c.Made[Made{n.Cause, n.Step}]++
		p := Port{n.Proto, n.Port}
		if _, known := c.Offences[p]; !known && len(c.Offences) >= maxPorts {
			p.Port = 0
		}
		c.Offences[p]++
	case ByHand:
		c.Made[Made{Cause: n.Cause}]++
	}
}

// census is a count of the rows of the book.
type census struct {
	bans      map[Place]int
	offenders int
	at        book.Moment
}

// To count a million rows takes a tenth of a second, and is done in a fiftieth
// of the time. A few are counted whenever somebody asks, so that what is said of
// them agrees.
const (
	few         = 10_000
	countPerRow = 5 * time.Microsecond
)

// stats returns what is counted and known.
func (k *core) stats(now book.Clock) Stats {
	rows := k.book.Len()
	if c := &k.census; c.bans == nil || rows <= few || now.Boot.Sub(c.at) >= time.Duration(rows)*countPerRow {
		*c = census{bans: make(map[Place]int), at: now.Boot}
		for r := range k.book.Rows() {
			if r.BannedAt(now.Boot) {
				p := Place{Family: 4}
				if r.Source.Addr().Is6() {
					p.Family = 6
				}
				if !r.ByHand {
					p.Step = r.StepAt(now.Boot)
				}
				c.bans[p]++
			}
			if r.StepAt(now.Boot) > 0 {
				c.offenders++
			}
		}
	}
	s := Stats{
		counters: k.counters, Table: k.table.state == present, TableCurrent: k.table.seen.current, Wrong: k.table.seen.wrong,
		Observing: k.book.Observes(),
		Steps:     len(k.spec.BanTime), Rows: rows, Bans: maps.Clone(k.census.bans), Offenders: k.census.offenders,
	}
	s.Made, s.Offences = maps.Clone(s.Made), maps.Clone(s.Offences)
	return s
}

// origin returns which table the book is about.
func (k *core) origin() book.Origin {
	o := book.Here(k.book.Table())
	o.Observe = k.book.Observes()
	return o
}

// rows yields what is remembered of sources, or all if none are named.
func (k *core) rows(of []netip.Prefix) iter.Seq[book.Row] {
	if len(of) == 0 {
		return k.book.Rows()
	}
	return func(yield func(book.Row) bool) {
		for _, source := range of {
			if row, ok := k.book.Get(source); ok && !yield(row) {
				return
			}
		}
	}
}
