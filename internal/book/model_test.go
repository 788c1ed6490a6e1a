package book

import (
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/portmon/portmon/ruleset"
)

// Random operations on a book and on a map of rows come to the same, however
// often the file is read again, by its owner or in another boot.
func TestModel(t *testing.T) {
	rng := random(t)
	for range 30 {
		m := model{T: t, c: config(statePath(t), 0), rows: make(map[netip.Prefix]Row)}
		m.b = open(t, m.c)
		for range 400 {
			m.step(rng)
			if t.Failed() {
				return
			}
		}
		m.b.Close()
	}
}

type model struct {
	*testing.T
	c    Config
	b    *Book
	rows map[netip.Prefix]Row
}

func (m *model) step(rng *rand.Rand) {
	now := m.c.Now.Boot
	source := address(rng.IntN(40))
	if rng.IntN(4) == 0 {
		source = netip.PrefixFrom(source.Addr(), 29+rng.IntN(3)).Masked()
	}
	switch rng.IntN(15) {
	default:
		r := m.row(rng, source)
		if rng.IntN(4) == 0 && !r.Allowed {
			before := m.row(rng, source)
			r.Observed, r.Before = true, &before
		}
		r.normalize()
		old, ok := m.rows[source]
		if changed := m.b.Put(r); changed != (!ok || old != r) {
			m.Errorf("put %+v: changed %t", r, changed)
		}
		m.rows[source] = r
	case 6, 7:
		r, _ := merge(m.rows[source], m.row(rng, source))
		m.b.Learn(m.row(rng, source)) // not the same one: the merged row is put
		m.b.Put(r)
		m.rows[source], _ = m.b.Get(source)
	case 8:
		r, ok := m.rows[source]
		if ok = ok && !r.Allowed; m.b.Free(source) != ok {
			m.Errorf("free %s, which is there: %t", source, ok)
		} else if ok {
			delete(m.rows, source)
		}
	case 9:
		wide := netip.PrefixFrom(source.Addr(), 28).Masked()
		m.b.FreeWithin(wide)
		maps.DeleteFunc(m.rows, func(p netip.Prefix, r Row) bool { return wide.Contains(p.Addr()) && !r.Allowed })
	case 14:
		wide, allows := netip.PrefixFrom(source.Addr(), 28).Masked(), false
		for p, r := range m.rows {
			allows = allows || r.AllowedAt(now) && p.Bits() <= source.Bits() && p.Contains(source.Addr())
		}
		if m.b.Allows(source, now) != allows {
			m.Errorf("%s is allowed: %t", source, !allows)
		}
		m.b.Disallow(wide)
		maps.DeleteFunc(m.rows, func(p netip.Prefix, r Row) bool { return wide.Contains(p.Addr()) && r.Allowed })
	case 10:
		if rng.IntN(20) == 0 {
			m.b.Clear()
			clear(m.rows)
		}
	case 11: // time goes by
		d := time.Duration(rng.IntN(3_600_000)) * time.Millisecond
		m.c.Now.Boot, m.c.Now.Wall = now.Add(d), m.c.Now.Wall.Add(d)
		if rng.IntN(5) == 0 {
			m.c.Now.Wall = m.c.Now.Wall.Add(time.Duration(rng.IntN(2e6)-1e6) * time.Second)
		}
		m.b.Sweep(m.c.Now)
		m.sweep()
	case 12:
		mustSync(m, m.b, m.c.Now)
		m.b.Sweep(m.c.Now)
		m.sweep()
		mustRead(m, m.c, m.list()...)
	case 13:
		m.reopen(rng)
	}
	checkRows(m, m.b, m.list()...)
}

// reopen reads the file as a next owner, in this boot or in the next.
func (m *model) reopen(rng *rand.Rand) {
	var err error
	if rng.IntN(2) == 0 {
		err = m.b.Compact(m.c.Now)
	} else {
		err = m.b.Sync(m.c.Now)
	}
	if err != nil {
		m.Fatal(err)
	}
	m.b.Close()
	learn, free := m.row(rng, address(rng.IntN(40))), address(rng.IntN(40))
	if rng.IntN(2) == 0 {
		if err := amend(m.c, []Row{learn}, []netip.Prefix{free}); err != nil {
			m.Fatal(err)
		}
		if !m.rows[free].Allowed {
			delete(m.rows, free)
		}
		alone := New(0)
		alone.Put(m.rows[learn.Source])
		alone.Learn(learn)
		m.rows[learn.Source], _ = alone.Get(learn.Source)
	}
	if rng.IntN(3) == 0 {
		// The next boot is some whole seconds later, as far as is known.
		shift := Moment(5 * time.Second).Sub(m.c.Now.Boot)
		m.c.Here.Boot += "x"
		m.c.Now.Boot = Moment(5 * time.Second)
		for p, r := range m.rows {
			r.shift(shift)
			m.rows[p] = r
		}
	}
	m.sweep()
	m.b = open(m, m.c)
}

func (r *Row) shift(by time.Duration) {
	if (r.Banned || r.Allowed) && r.Timeout > 0 {
		r.Until = r.Until.Add(by)
	}
	if r.Step > 0 {
		r.StepUntil = r.StepUntil.Add(by)
	}
	if r.Last != 0 {
		r.First, r.Last = r.First.Add(by), r.Last.Add(by)
	}
	if r.Before != nil {
		before := *r.Before
		before.shift(by)
		r.Before = &before
	}
}

func (m *model) sweep() {
	for p, r := range m.rows {
		if r.Observed && !r.lasts(m.c.Now.Boot) {
			r = r.Enforced()
		}
		if !r.BannedAt(m.c.Now.Boot) && !r.AllowedAt(m.c.Now.Boot) {
			r.Allowed, r.Banned, r.Timeout, r.Until, r.ByHand, r.Comment = false, false, 0, 0, false, ""
		}
		if r.StepAt(m.c.Now.Boot) == 0 {
			r.Step, r.StepUntil = 0, 0
		}
		if m.rows[p] = r; !r.Banned && !r.Allowed && r.Step == 0 {
			delete(m.rows, p)
		}
	}
}

func (m *model) list() []Row { return slices.Collect(maps.Values(m.rows)) }

// row returns a row that differs by more than a second from any other.
func (m *model) row(rng *rand.Rand, source netip.Prefix) Row {
	now := m.c.Now.Boot - m.c.Now.Boot%Moment(time.Second)
	soon := func(max int) Moment { return now.Add(time.Duration(1+rng.IntN(max)) * time.Minute) }
	r := Row{Source: source}
	if rng.IntN(3) > 0 {
		r.Banned, r.Timeout = true, time.Duration(300+rng.IntN(300))*time.Minute
		r.Until = soon(300)
		if rng.IntN(5) == 0 {
			r.Timeout, r.Until = 0, 0
		}
		if r.Cause = ruleset.Cause(rng.IntN(int(ruleset.CauseOther) + 1)); rng.IntN(3) == 0 {
			r.ByHand, r.Comment = true, "by <hand>"
		} else if rng.IntN(3) == 0 {
			r.Banned, r.Allowed, r.Comment = false, true, "root"
		}
	}
	if !r.Banned || rng.IntN(2) == 0 {
		r.Step, r.StepUntil = 1+rng.IntN(8), soon(1000)
		r.Offences = r.Step + rng.IntN(3)
		r.Last = now.Add(-time.Duration(1+rng.IntN(100))*time.Minute - time.Second/2) // never 0, which is not known
		r.First = r.Last.Add(-time.Duration(rng.IntN(2)) * time.Hour)
		r.Proto, r.Port = uint8(rng.IntN(20)), 0
		if r.Proto != 0 {
			r.Port = uint16(rng.IntN(65536))
		}
	}
	return r
}
