package watch

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/portmon/portmon/internal/book"
	"github.com/portmon/portmon/internal/lab"
	"github.com/portmon/portmon/nftset"
	"github.com/portmon/portmon/ruleset"
)

// ends are the moments at which bans of addresses end.
type ends map[netip.Addr]time.Time

// many bans that many sources of both families at a step, as the packet path
// would have done it some time ago.
func (l *fixture) many(n, step int) ends {
	l.T.Helper()
	out := make(ends)
	var records []ruleset.Record
	for _, first := range l.Sources(1) {
		for i := range n / 2 {
			a := first.As16()
			at := len(a) - 4
			if first.Is6() {
				at = 4
			}
			binary.BigEndian.PutUint32(a[at:], binary.BigEndian.Uint32(a[at:])+uint32(i)<<4)
			addr := netip.AddrFrom16(a).Unmap()
			left := time.Hour + time.Duration(i)*time.Second
			records = append(records, ruleset.Record{
				Source: l.source(addr), Banned: true, Timeout: 8 * time.Hour, Remaining: left,
				Step: step, StepRemaining: left + l.spec.Forget, Cause: ruleset.CauseTrap,
			})
			out[addr] = time.Now().Add(left)
		}
	}
	if refused, err := l.Open().Put(records); err != nil || refused != nil {
		l.T.Fatal(err, refused)
	}
	return out
}

// wantAll fails the test unless all these are banned, until these moments, and
// at that step.
func (l *fixture) wantAll(want ends, step int) {
	l.T.Helper()
	const tolerance = 10 * time.Second // on a busy machine it may take that long from the one clock to the other
	wrong := 0
	h := l.Open()
	for a, end := range want {
		st, err := h.Lookup(a)
		if err != nil {
			l.T.Fatal(err)
		}
		if len(st.Bans) != 1 || st.Step != step || (time.Until(end)-st.Bans[0].Remaining).Abs() > tolerance {
			if wrong++; wrong < 5 {
				l.T.Errorf("%v is %+v, want it banned for %v at step %d", a, st, time.Until(end), step)
			}
		}
	}
	if wrong > 0 {
		l.T.Errorf("%d of %d bans are wrong", wrong, len(want))
	}
}

// swaps are ways to lose all that the table has, with the table there at the
// end.
var swaps = map[string]func(*fixture){
	"flush, then apply": func(l *fixture) {
		l.FlushRuleset()
		l.apply()
	},
	"one transaction": func(l *fixture) { l.NFT("flush ruleset\n" + l.compiled()) },
	"in pieces": func(l *fixture) {
		l.FlushRuleset()
		l.NFT("add table inet portmon")
		l.apply()
	},
	"deleted, nobody makes it again": (*fixture).deleteTable,
}

// compiled returns the table in nft's words.
func (l *fixture) compiled() string {
	l.T.Helper()
	return ruleset.Compile(l.spec).String()
}

// Whatever others do to the table, it comes back with its bans and its steps,
// and the time that they have left.
func TestSwapped(t *testing.T) {
	t.Parallel()
	const bans = 2_000
	for name, swap := range swaps {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t, ladder...)
			want := l.many(bans, 2)
			w := l.watch()
			w.awaitNews(Escalated, bans)
			offenders, bystanders := l.Sources(1), l.Sources(1)
			l.second(w, offenders...)
			once := l.Sources(1) // have a step, and no ban
			l.Offend(once...)
			w.want(Banned, 1, 1, once...)
			prefix := netip.MustParsePrefix("203.0.113.0/24")
			l.put(ruleset.Record{Source: prefix, Banned: true, Comment: "net"})
			w.awaitNews(ByHand, 1)
			l.AwaitFree(once...)
			for range 2 {
				swap(l)
				w.awaitNews(Restored, bans+len(offenders)+1)
				l.wantAll(want, 2)
				l.Cut(offenders...)
				l.Cut(netip.MustParseAddr("203.0.113.9"))
				l.Served(bystanders...)
				l.Served(once...)
			}
			l.Offend(once...)
			w.awaitNews(Escalated, len(once))
			l.awaitStep(2, once...)
			lab.Await(t, "the table is what it must be", func() bool { return w.stats().TableCurrent })
		})
	}
}

// What a source does not have in a table that was made anew while the kernel
// was asked means nothing.
func TestSwappedWhileAsked(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	offenders := l.Sources(1)
	l.Offend(offenders...)
	for _, swap := range []bool{false, true} {
		standings, same := 0, false
		ask(l.Conn, l.spec.Table, question{sources: l.prefixes(offenders...)}, func(a answer) bool {
			if a.layout != nil && swap {
				l.NFT("flush ruleset")
				l.apply()
			}
			standings, same = standings+len(a.standings), a.same
			return a.err == nil
		})
		if swap && (standings > 0 || same) || !swap && (standings != len(offenders) || !same) {
			t.Errorf("swapped %v: it says of %d sources what they have, the same table %v", swap, standings, same)
		}
	}
}

// A table that the watcher makes again knows the networks of this host: a ban
// of a neighbour is not one of all of them, be it by hand or by the packet
// path.
func TestNeighboursAfterFlush(t *testing.T) {
	t.Parallel()
	l := newBareLab(t)
	neighbours := netip.MustParsePrefix("2001:db8:aa::/64") // by another interface than offences come in by
	l.spec.Own6 = []netip.Prefix{neighbours}
	l.apply()
	w := l.watch()
	lab.Await(t, "it is current", func() bool { return w.stats().TableCurrent })
	guilty, innocent := netip.MustParseAddr("2001:db8:aa::1"), netip.MustParseAddr("2001:db8:aa::2")
	alone := netip.PrefixFrom(guilty, 128)
	l.FlushRuleset()
	lab.Await(t, "the table is back", func() bool { return l.Open().Exists })
	if source, err := l.Open().Source(guilty); err != nil || source != alone {
		t.Errorf("%v would be banned as %v (error %v), want it alone", guilty, source, err)
	}
	l.Offend(guilty)
	w.awaitNews(Banned, 1)
	if st := l.Lookup(guilty); len(st.Bans) != 1 || st.Bans[0].Interval != nftset.Prefix(alone).Interval {
		t.Errorf("it has %+v, want %v banned", st, alone)
	}
	l.Cut(guilty)
	l.Served(innocent)
	w.quiet()
}

// A network that the host has come to is told to the table, and nobody else.
func TestNewNeighbours(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	w := l.watch()
	lab.Await(t, "it is current", func() bool { return w.stats().TableCurrent })
	l.spec.Own6 = []netip.Prefix{netip.MustParsePrefix("2001:db8:aa::/64")}
	w.reload <- Config{Spec: l.spec}
	lab.Await(t, "the table knows it", func() bool {
		source, err := l.Open().Source(netip.MustParseAddr("2001:db8:aa::1"))
		return err == nil && source.IsSingleIP()
	})
	lab.Await(t, "it is current", func() bool { return w.stats().TableCurrent })
	if s := w.stats(); s.News[Repaired] != 0 {
		t.Errorf("%d repairs, want none", s.News[Repaired])
	}
	w.quiet()
}

func (l *fixture) put(records ...ruleset.Record) {
	l.T.Helper()
	if refused, err := l.Open().Put(records); err != nil || refused != nil {
		l.T.Fatal(err, refused)
	}
}

// Of what a saved ruleset brings back, what the watcher knows lasts as long as
// it should, and not as long as it did when it was saved.
func TestOldCopies(t *testing.T) {
	t.Parallel()
	l := newLab(t, 2*time.Second, time.Hour)
	w := l.watch()
	offenders, copies, bystanders := l.Sources(1), l.Sources(1), l.Sources(1)
	l.second(w, offenders...)
	script := "flush ruleset\n" + l.compiled()
	for i, src := range append(offenders, copies...) {
		left := []string{"8h", "5m"}[i%2]
		script += fmt.Sprintf("add element inet portmon %s { %v timeout 9h expires %s }\n", ruleset.RoleBan.Set(src, 0), l.source(src).Addr(), left)
	}
	l.NFT(script)
	w.awaitNews(Restored, len(offenders))
	for _, src := range offenders {
		if left := l.left(src); left > time.Hour || left < time.Hour-lab.Patience {
			t.Errorf("%v is banned for %v, want an hour", src, left)
		}
	}
	l.Cut(copies...) // somebody wants that, for all we know
	l.Served(bystanders...)
	for _, src := range offenders {
		if row := w.rows(src)[l.source(src)]; row.Offences != 2 || row.Step != 2 {
			t.Errorf("%v is remembered as %+v, want 2 offences", src, row)
		}
	}
}

// An offence in the time before the bans are back is dealt with by what is
// remembered.
func TestOffenceInNewTable(t *testing.T) {
	t.Parallel()
	l := newLab(t, ladder...)
	w := l.watch()
	offenders, bystanders := l.Sources(1), l.Sources(1)
	l.Offend(offenders...)
	w.want(Banned, 1, 1, offenders...)
	l.AwaitFree(offenders...)
	// The watcher does not hear of the new table before it has heard of the
	// offence in it.
	release := w.hang()
	l.FlushRuleset()
	l.apply()
	l.Offend(offenders...)
	release()
	w.awaitNews(Escalated, len(offenders))
	l.awaitStep(2, offenders...)
	l.Cut(offenders...)
	l.Served(bystanders...)
}

// awaitPatience returns when a watcher would have made a table that is missing.
func awaitPatience(t *testing.T) {
	t.Helper()
	begin := book.ReadClock().Boot
	lab.Await(t, "patience is over", func() bool { return book.ReadClock().Boot.Sub(begin) > patience+patience/2 })
}

// While a table is put back as it was, the watcher neither makes nor reads it,
// whatever it looks like in between. Then it goes on.
func TestSwapping(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	w := l.watch()
	l.deleteTable() // which it is about to make again
	w.awaitNews(TableGone, 1)
	if err := w.Swapping(t.Context()); err != nil {
		t.Fatal(err)
	}
	awaitPatience(t)
	if l.Open().Exists {
		t.Fatal("the watcher made a table that is being put back")
	}
	l.apply()
	if err := w.Swapped(t.Context(), l.Open().Handle, book.New(1)); err != nil {
		t.Fatal(err)
	}
	l.deleteTable()
	lab.Await(t, "the table is made again", func() bool { return l.Open().Exists })
}

// `portmon remove` announces itself, whatever the program is called: nothing is
// made again, the bans are forgotten, and the steps are not.
func TestRemove(t *testing.T) {
	t.Parallel()
	l := newLab(t, ladder...)
	path := t.TempDir() + "/state.jsonl"
	w := l.watch(func(c *Config) { c.State = path })
	offenders, bystanders := l.Sources(1), l.Sources(1)
	l.second(w, offenders...)
	if err := w.Removing(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := ruleset.Remove(l.Conn, l.spec.Table); err != nil {
		t.Fatal(err)
	}
	w.awaitNews(Removed, 1)
	for src, row := range w.rows(offenders...) {
		if row.Banned || row.Step != 2 {
			t.Errorf("%v is remembered as %+v, want a step and no ban", src, row)
		}
	}
	awaitPatience(t)
	if l.Open().Exists {
		t.Fatal("the watcher made a table that its owner had removed")
	}
	w.stop()
	w = l.watch(func(c *Config) { c.State = path }) // nor does the next one
	if l.Open().Exists || w.stats().Table {
		t.Fatal("the next watcher made a table that its owner had removed")
	}
	l.apply()
	lab.Await(t, "the table is heard of", func() bool { return w.stats().Table })
	l.Served(offenders...)
	lab.Await(t, "the steps are back", func() bool { return l.Lookup(offenders[0]).Step == 2 && l.Lookup(offenders[1]).Step == 2 })
	l.Offend(offenders...)
	w.want(Escalated, 3, 3, offenders...)
	l.Served(bystanders...)
	w.quiet()
}

// A table that is there but wrong is put right. That it is within two seconds,
// TestRepairs checks by a clock that no busy machine delays.
func TestRepair(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func(*fixture){
		"flushed": func(l *fixture) { l.NFT("flush table inet portmon") },
		"a chain": func(l *fixture) { l.NFT("flush chain inet portmon guard") },
		"dormant": func(l *fixture) { l.NFT("add table inet portmon { flags dormant; }") },
		"doubled": func(l *fixture) { l.NFT(l.compiled()) },
		"ports":   func(l *fixture) { l.NFT("flush set inet portmon trap_tcp") },
		"old rules": func(l *fixture) {
			old := *l
			old.spec.TrapTCP = []ruleset.Ports{{From: 99, To: 99}}
			old.spec.Scan.Ports = 0
			l.NFT("flush ruleset\n" + old.compiled())
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			w := l.watch()
			lab.Await(t, "it is current", func() bool { return w.stats().TableCurrent })
			offenders, bystanders := l.Sources(1), l.Sources(1)
			spoil(l)
			n, err := w.next()
			for err == nil && n.Kind != Repaired {
				n, err = w.next()
			}
			if err != nil || n.What == "" {
				t.Errorf("repaired: %+v, error %v", n, err)
			}
			l.Offend(offenders...)
			w.want(Banned, 1, 1, offenders...)
			l.Cut(offenders...)
			l.Served(bystanders...)
			lab.Await(t, "it is current", func() bool { return w.stats().TableCurrent })
			if s := w.stats(); s.News[Repaired] != 1 {
				t.Errorf("%d repairs, want 1", s.News[Repaired])
			}
			if r, err := ruleset.Prepare(l.Conn, l.spec); err != nil || !r.Empty() {
				t.Errorf("it is not what it must be: %v, error %v", r.Summary(), err)
			}
			w.quiet()
		})
	}
}

// While `portmon apply` is at work nothing is put right, and the reload that
// follows it makes what it did the right thing.
func TestApplying(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	w := l.watch()
	lab.Await(t, "it is current", func() bool { return w.stats().TableCurrent })
	if err := w.Applying(t.Context()); err != nil {
		t.Fatal(err)
	}
	l.spec.TrapTCP = []ruleset.Ports{{From: 99, To: 99}}
	l.apply()
	lab.Await(t, "it is seen to differ", func() bool { return !w.stats().TableCurrent })
	w.reload <- Config{Spec: l.spec}
	lab.Await(t, "it is current", func() bool { return w.stats().TableCurrent })
	if r, err := ruleset.Prepare(l.Conn, l.spec); err != nil || !r.Empty() {
		t.Errorf("what was applied was undone: %v, error %v", r.Summary(), err)
	}
	w.quiet()
}

// What others do elsewhere, and what portmon itself does to its sets, is no
// fault of the table.
func TestNothingToRepair(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	w := l.watch()
	lab.Await(t, "it is current", func() bool { return w.stats().TableCurrent })
	for _, src := range l.Sources(1) {
		wide, _ := src.Prefix(map[bool]int{true: 24, false: 48}[src.Is4()])
		l.put(ruleset.Record{Source: wide, Banned: true, Timeout: 4 * time.Second, Remaining: 4 * time.Second})
		w.awaitNews(ByHand, 1)
		l.Cut(src)
		l.AwaitFree(src)
		l.NFT("add table inet other; add chain inet other c; delete table inet other")
	}
	lab.Await(t, "it looks at what has become of the ruleset", func() bool {
		var looked uint32
		if err := w.call(t.Context(), func() { looked = w.core.table.seen.generation }); err != nil {
			t.Fatal(err)
		}
		now, err := l.Conn.Generation()
		return err != nil || looked == now
	})
	if s := w.stats(); s.News[Repaired] != 0 || !s.TableCurrent {
		t.Errorf("repaired %d times, current %v", s.News[Repaired], s.TableCurrent)
	}
	w.quiet()
}

// The table is made again if it was there when the host was last watched.
func TestTableGoneBeforeStart(t *testing.T) {
	t.Parallel()
	l := newLab(t, ladder...)
	path := t.TempDir() + "/state.jsonl"
	saves := func(c *Config) { c.State = path }
	want := l.many(10, 2)
	offenders := l.Sources(1)
	w := l.watch(saves)
	w.awaitNews(Escalated, len(want))
	l.second(w, offenders...)
	w.stop()
	l.FlushRuleset()
	w = l.watch(saves)
	w.awaitNews(Restored, len(offenders)+len(want))
	l.Cut(offenders...)
	l.wantAll(want, 2)
	l.Served(l.Sources(1)...)
}

// A switch of the mode is known when the reload after it returns: if the table is
// lost before it was looked at, what was observed is put back as it was to be.
func TestSwitchThenFlush(t *testing.T) {
	t.Parallel()
	for name, applied := range map[string]Applied{
		"enforce and keep": {Keep: true},
		"enforce":          {},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			l.spec.Observe = true
			l.apply()
			w := l.watch()
			observed, bystander := l.Source4(), l.Source6()
			l.Probe(observed, lab.TrapTCP)
			w.want(Banned, 1, 1, observed)
			if err := w.Applying(t.Context()); err != nil {
				t.Fatal(err)
			}
			l.spec.Observe, l.spec.KeepObserved = false, applied.Keep
			l.apply()
			err := w.call(t.Context(), func() { // before it can look
				if err := w.reconfigure(Config{Spec: l.spec, Applied: &applied}); err != nil {
					t.Error(err)
				}
				l.deleteTable()
			})
			if err != nil {
				t.Fatal(err)
			}
			lab.Await(t, "the table is back", func() bool { s := w.stats(); return s.Table && s.TableCurrent })
			if st := l.Open(); st.Observe {
				t.Error("it observes, though it was applied to enforce")
			}
			if applied.Keep {
				lab.Await(t, "the ban is back", func() bool { return l.left(observed) > 0 })
				l.Cut(observed)
			} else {
				l.Served(observed)
			}
			l.Served(bystander)
		})
	}
}
