package watch

import (
	"math"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/portmon/portmon/internal/book"
	"github.com/portmon/portmon/internal/nflog"
	"github.com/portmon/portmon/internal/stats"
	"github.com/portmon/portmon/nftset"
	"github.com/portmon/portmon/ruleset"
)

func now() book.Clock { return book.ReadClock() }

var pair = []netip.Prefix{netip.MustParsePrefix("198.18.0.0/32"), netip.MustParsePrefix("2001:db8:1::/64")}

// told returns the kinds of the news since it was asked last.
func (m *model) told() (kinds []Kind) {
	m.core.release(math.MaxInt64)
	for _, n := range m.core.takeNews(m.now) {
		kinds = append(kinds, n.Kind)
	}
	return kinds
}

func (m *model) wantNews(want ...Kind) {
	m.t.Helper()
	if got := m.told(); !slices.Equal(got, want) {
		m.t.Errorf("news are %v, want %v", got, want)
	}
}

// offend has the packet path ban a source, and returns the message.
func (m *model) offend(p netip.Prefix) nflog.Message {
	d := m.core.spec.BanTime[0]
	m.bans[p] = timed{timeout: d, until: m.now.Boot.Add(d)}
	m.steps[p] = timed{step: 1, timeout: d + m.core.spec.Forget, until: m.now.Boot.Add(d + m.core.spec.Forget)}
	return nflog.Message{Src: p.Addr(), Prefix: "portmon trap 1", Time: m.now.Wall, Proto: 6, DstPort: 23}
}

func TestLogMessages(t *testing.T) {
	for _, p := range pair {
		for name, test := range map[string]struct {
			change func(*nflog.Message)
			want   []Kind
			rows   int
		}{
			"a ban":               {func(*nflog.Message) {}, []Kind{Banned}, 1},
			"without its time":    {func(m *nflog.Message) { m.Time = time.Time{} }, []Kind{Banned}, 1},
			"another's":           {func(m *nflog.Message) { m.Prefix = "other" }, nil, 0},
			"without a source":    {func(m *nflog.Message) { m.Src = netip.Addr{} }, nil, 0},
			"of another ladder":   {func(m *nflog.Message) { m.Prefix = "portmon trap 8" }, []Kind{Banned}, 1}, // the kernel tells
			"a scan":              {func(m *nflog.Message) { m.Prefix = "portmon scan 1" }, []Kind{Banned}, 1},
			"of a higher step":    {func(m *nflog.Message) { m.Prefix = "portmon trap 2" }, []Kind{Escalated}, 1},
			"of a clock set back": {func(m *nflog.Message) { m.Time = m.Time.Add(time.Hour) }, []Kind{Banned}, 1},
		} {
			t.Run(name, func(t *testing.T) {
				m := newModel(t, 1)
				msg := m.offend(p)
				test.change(&msg)
				source := p
				if !msg.Src.IsValid() {
					source = netip.Prefix{}
				}
				for range 2 { // once heard, it is known
					m.core.onLogMessage(&msg, source, m.now)
				}
				m.drain()
				m.wantNews(test.want...)
				if n := m.core.book.Len(); n != test.rows {
					t.Errorf("%d rows, want %d", n, test.rows)
				}
			})
		}
	}
}

func TestTransactions(t *testing.T) {
	for _, p := range pair {
		b := timed{timeout: time.Hour, comment: "x"}
		add := func(m *model) nftset.Event {
			b.until = m.now.Boot.Add(time.Hour)
			return m.element(nftset.ElementAdded, ruleset.RoleBan, p, b)
		}
		del := func(m *model) nftset.Event { return m.element(nftset.ElementDeleted, ruleset.RoleBan, p, b) }
		for name, test := range map[string]struct {
			do   func(*model)
			want []Kind
		}{
			"added": {func(m *model) { m.bans[p] = b; m.commit(otherPort, add(m)); m.bans[p] = b }, []Kind{ByHand}},
			"deleted and added": {func(m *model) {
				m.commit(otherPort, add(m), del(m), add(m))
				m.bans[p] = b
			}, []Kind{ByHand}},
			"added and deleted": {func(m *model) { m.commit(otherPort, add(m), del(m)) }, nil},
			"added, deleted later": {func(m *model) {
				m.commit(otherPort, add(m))
				m.commit(otherPort, del(m))
			}, []Kind{ByHand, Lifted}},
			"replaced by an earlier one": {func(m *model) {
				msg := m.offend(p)
				m.core.onLogMessage(&msg, p, m.now)
				earlier := m.bans[p]
				m.pass(2 * time.Second)
				m.commit(otherPort, add(m))
				m.bans[p] = b
				m.drain()
				m.bans[p] = earlier
				m.core.resync(m.now)
				m.drain()
				if m.bans[p].timeout != b.timeout {
					m.t.Errorf("the table has %+v", m.bans[p])
				}
			}, []Kind{Banned, ByHand}},
			"asked about at its end": {func(m *model) {
				m.bans[p] = b
				m.commit(otherPort, add(m))
				m.bans[p] = b
				m.drain()
				m.pass(b.until.Sub(m.now.Boot) - slack/2)
				m.core.askAbout(p)
			}, []Kind{ByHand}},
			"our own": {func(m *model) { m.commit(ownPort, add(m)) }, nil},
			"its end was lost": {func(m *model) {
				m.events = append(m.events, add(m), nftset.Event{Kind: nftset.Overrun}, nftset.Event{Kind: nftset.Commit})
			}, nil},
			"put back as it is known": {func(m *model) {
				msg := m.offend(p)
				m.core.onLogMessage(&msg, p, m.now)
				known := m.bans[p]
				m.commit(otherPort, m.element(nftset.ElementAdded, ruleset.RoleBan, p, known))
			}, []Kind{Banned}},
			"lifted before it is heard": {func(m *model) {
				msg := m.offend(p)
				m.pass(time.Millisecond)
				m.commit(otherPort, m.element(nftset.ElementDeleted, ruleset.RoleBan, p, m.bans[p]))
				delete(m.bans, p)
				m.core.onEvent(m.events[0], m.now)
				m.core.onEvent(m.events[1], m.now)
				m.events = nil
				m.core.onLogMessage(&msg, p, m.now)
			}, nil},
			"lifted, and the table gone": {func(m *model) {
				msg := m.offend(p)
				m.core.onLogMessage(&msg, p, m.now)
				m.commit(otherPort, m.element(nftset.ElementDeleted, ruleset.RoleBan, p, m.bans[p]))
				clear(m.bans)
				clear(m.steps)
				m.handle++
				m.commit(otherPort, nftset.Event{Kind: nftset.TableDeleted})
				m.commit(otherPort, nftset.Event{Kind: nftset.TableAdded})
			}, []Kind{Banned, Lifted, TableGone}},
		} {
			t.Run(name, func(t *testing.T) {
				m := newModel(t, 1)
				test.do(m)
				m.drain()
				m.wantNews(test.want...)
				row, _ := m.core.book.Get(p)
				if kernel := m.bans[p]; kernel.at(m.now.Boot) != row.BannedAt(m.now.Boot) {
					t.Errorf("the kernel has %+v, the book %+v", kernel, row)
				}
			})
		}
	}
}

// What is owed to the table is in it before it is read, or it would be found
// missing.
func TestOwedBeforeReading(t *testing.T) {
	for _, p := range pair {
		m := newModel(t, 1)
		b := timed{timeout: time.Minute, until: m.now.Boot.Add(time.Minute), comment: "offence: x"}
		m.bans[p] = b
		for _, ev := range []nftset.Event{m.element(nftset.ElementAdded, ruleset.RoleBan, p, b), {Kind: nftset.Commit, PortID: otherPort}} {
			m.core.onEvent(ev, m.now)
		}
		m.core.resync(m.now)
		if q, ok := m.core.nextQuestion(m.now); ok {
			t.Errorf("asked %+v before it was put", q)
		}
		if c, ok := m.core.nextChange(m.now); !ok || len(c.put) != 1 || c.put[0].Step != 1 || c.put[0].Remaining != 10*time.Minute {
			t.Errorf("to do is %+v", c)
		}
	}
}

// looks runs what the core wants to do to the table, of which a look says this,
// for some time, and returns when it wanted to apply it.
func (m *model) looks(of look, fails bool, d time.Duration) (applied []time.Duration) {
	start := m.now.Boot
	for m.now.Boot.Sub(start) < d {
		c, ok := m.core.nextChange(m.now)
		switch {
		case !ok:
			m.pass(10 * time.Millisecond)
		case c.look != nil:
			m.core.onChanged(changed{change: c, saw: of}, m.now)
		case c.apply:
			applied = append(applied, m.now.Boot.Sub(start))
			var err error
			if fails {
				err = ErrEnded
			}
			m.core.onChanged(changed{change: c, err: err}, m.now)
		}
	}
	return applied
}

func TestRepairs(t *testing.T) {
	wrong := look{exists: true, generation: 5, wrong: "rules"}
	for name, test := range map[string]struct {
		before  func(*core, book.Clock)
		fails   bool
		within  time.Duration
		applied int // in a minute
	}{
		"at once":                    {func(*core, book.Clock) {}, true, 2 * time.Second, 6},
		"not while apply is at it":   {func(k *core, now book.Clock) { k.onApplying(now) }, true, 11 * time.Second, 6},
		"reload ends that":           {func(k *core, now book.Clock) { k.onApplying(now); k.reconfigure(k.spec, nil, 1000, now) }, true, 2 * time.Second, 6},
		"again and again in a fight": {func(*core, book.Clock) {}, false, 2 * time.Second, 7},
	} {
		t.Run(name, func(t *testing.T) {
			m := newModel(t, 1)
			m.core.table.suspect()
			test.before(m.core, m.now)
			applied := m.looks(wrong, test.fails, time.Minute)
			if len(applied) == 0 || applied[0] > test.within || applied[0] < patience/2 || len(applied) > test.applied {
				t.Errorf("applied at %v, want it within %v, and at most %d times", applied, test.within, test.applied)
			}
			if m.core.stats(m.now).TableCurrent {
				t.Error("it is said to be current")
			}
		})
	}
	m := newModel(t, 1)
	if applied := m.looks(look{exists: true, current: true, generation: 5}, false, time.Minute); len(applied) > 0 {
		t.Errorf("nothing is wrong, and it is applied at %v", applied)
	}
}

// A table that went without a word is missed, and made again; one that its user
// removes is not.
func TestGone(t *testing.T) {
	for name, removes := range map[string]bool{"gone": false, "removed": true} {
		t.Run(name, func(t *testing.T) {
			m := newModel(t, 1)
			msg := m.offend(pair[0])
			m.core.onLogMessage(&msg, pair[0], m.now)
			m.told()
			m.pass(11 * time.Minute)
			last := m.offend(pair[0]) // is heard too late
			if removes {
				m.core.onRemoving(m.now)
			}
			applied := m.looks(look{generation: 6}, false, 30*time.Second)
			row, _ := m.core.book.Get(pair[0])
			if removes {
				m.wantNews(Removed)
				if len(applied) > 0 || row.Banned || row.Step != 1 {
					t.Errorf("applied at %v, remembered is %+v", applied, row)
				}
				// Nothing is owed to it, whatever its log tells later: Save waits
				// until that is done.
				m.core.onLogMessage(&last, pair[0], m.now)
				if m.looks(look{generation: 6}, false, 30*time.Second); !m.core.quiet() {
					t.Error("something is left to do for a table that was removed")
				}
				return
			}
			m.wantNews(TableGone)
			if len(applied) == 0 || !row.Banned {
				t.Errorf("applied at %v, remembered is %+v", applied, row)
			}
		})
	}
}

// What is counted is what is known at that moment, as long as that is not much:
// there is no ban without its step.
func TestStatsOfFew(t *testing.T) {
	m := newModel(t, 1)
	for i, p := range pair {
		msg := m.offend(p)
		m.core.onLogMessage(&msg, p, m.now)
		if s := m.core.stats(m.now); s.Rows != i+1 || s.Offenders != i+1 || len(s.Bans) != i+1 {
			t.Errorf("of %d sources, %+v", i+1, s)
		}
	}
}

// Once the table is gone there is nothing to lift in it, and whoever asks to
// save does not wait for that.
func TestNothingOwedToNoTable(t *testing.T) {
	for name, removes := range map[string]bool{"gone": false, "removed": true} {
		t.Run(name, func(t *testing.T) {
			m := newModel(t, 1)
			m.core.recent[pair[0]] = m.now.Boot // as if it had just been put
			if removes {
				m.core.onRemoving(m.now)
			}
			m.core.onTableGone(m.now)
			m.core.unbanned(pair[:1], true, m.now)
			if !m.core.quiet() {
				t.Error("something is left to do for a table that is not there")
			}
			m.core.readSoon(m.now.Boot)
			if q, ok := m.core.nextQuestion(m.now); !ok || !q.all {
				t.Errorf("asked is %+v, want whether there is a table", q)
			}
		})
	}
}

// nextLook returns the look that is due next.
func (m *model) nextLook() change {
	m.t.Helper()
	m.core.table.suspect()
	for range 1000 {
		if c, ok := m.core.nextChange(m.now); ok && c.look != nil {
			return c
		}
		m.pass(10 * time.Millisecond)
	}
	m.t.Fatal("the table is not looked at")
	return change{}
}

// What a look has found counts for nothing if the table, or what it must be,
// has become another one meanwhile.
func TestOutdatedLook(t *testing.T) {
	m := newModel(t, 1)
	saw := look{exists: true, current: true, generation: 5}
	c := m.nextLook()
	m.core.reconfigure(m.core.spec, nil, 1000, m.now)
	m.core.onChanged(changed{change: c, saw: saw}, m.now)
	c = m.nextLook()
	if c.look.generation == saw.generation {
		t.Error("the table is not compared with another configuration")
	}
	m.core.onTableGone(m.now)
	m.core.onChanged(changed{change: c, saw: saw}, m.now)
	if m.core.table.state != missing {
		t.Error("a table that is gone is taken for a new one")
	}
	m.wantNews(TableGone)
}

// A look that was taken before there was a table does not take the one that is
// there now for gone.
func TestLookBeforeTheTable(t *testing.T) {
	m := newModel(t, 1)
	m.core.onTableGone(m.now)
	c := m.nextLook()
	m.core.onTableNew(m.now)
	m.core.onChanged(changed{change: c}, m.now)
	if m.core.table.state != present {
		t.Error("the new table is taken for gone")
	}
	m.wantNews(TableGone)
}

// The loop wakes in time to have a prefix taken out that is over, though nothing
// else happens.
func TestWakesForTidying(t *testing.T) {
	m := newModel(t, 1)
	c := m.nextLook()
	m.core.onChanged(changed{change: c, saw: look{exists: true, current: true, generation: 5}}, m.now)
	end := m.now.Boot.Add(5 * time.Second)
	m.core.planTidying([]book.Moment{end}, m.now.Boot)
	if d := m.core.idle(m.now); d > 5*time.Second+settling {
		t.Errorf("it sleeps for %v", d)
	}
}

// A ban of the previous table that is heard of when the new one is about to be
// read is put into that.
func TestHeardBeforeTheNewTableIsRead(t *testing.T) {
	for _, p := range pair {
		m := newModel(t, 1)
		msg := m.offend(p)
		m.core.onLogMessage(&msg, p, m.now)
		m.drain()
		m.pass(11 * time.Minute)
		msg = m.offend(p)
		msg.Prefix = "portmon trap 2"
		m.commit(otherPort, nftset.Event{Kind: nftset.TableDeleted})
		m.notice()
		clear(m.bans)
		clear(m.steps)
		m.handle++
		m.commit(otherPort, nftset.Event{Kind: nftset.TableAdded})
		m.core.resync(m.now) // as for Save
		if q, ok := m.core.nextQuestion(m.now); ok {
			m.question = &q
		}
		m.core.onLogMessage(&msg, p, m.now)
		for m.answer(); len(m.answers) > 0; {
			m.tell()
		}
		m.drain()
		row, _ := m.core.book.Get(p)
		if !m.bans[p].at(m.now.Boot) || !row.BannedAt(m.now.Boot) {
			t.Errorf("the kernel has %+v, the book %+v", m.bans[p], row)
		}
	}
}

// A source that was unbanned offends while a new table is read, and only then
// the event of the unban comes: the ban is later than that, and stays.
func TestOffendsAfterUnban(t *testing.T) {
	for _, p := range pair {
		m := newModel(t, 1)
		m.handle++
		m.commit(otherPort, nftset.Event{Kind: nftset.TableDeleted})
		m.commit(otherPort, nftset.Event{Kind: nftset.TableAdded})
		m.notice()
		m.notice()
		q, ok := m.core.nextQuestion(m.now)
		if !ok || !q.all {
			t.Fatal("the new table is not read")
		}
		m.question = &q
		m.answer()
		m.core.unbanned([]netip.Prefix{p}, true, m.now)
		m.commit(otherPort, m.element(nftset.ElementDeleted, ruleset.RoleBan, p, timed{timeout: time.Hour}))
		m.pass(10 * time.Millisecond)
		msg := m.offend(p)
		m.climb(p, 0)
		m.core.onLogMessage(&msg, p, m.now)
		m.tell()
		m.notice()
		m.drain()
		if told := m.told(); slices.Contains(told, Lifted) {
			t.Errorf("%v: news are %v; the ban was not lifted", p, told)
		}
		m.check()
	}
}

// Whatever is refused of what is put: the bans that are put back are news, and
// what no host sends from is forgotten without being called whitelisted.
func TestRefused(t *testing.T) {
	m := newModel(t, 1)
	multicast := netip.MustParsePrefix("224.0.0.0/4")
	for _, source := range append(pair, multicast) {
		m.core.book.Put(book.Row{Source: source, Banned: true, ByHand: true, Cause: ruleset.CauseHand})
	}
	m.core.putLater(pair[0], true)
	m.core.putLater(pair[1], false)
	m.core.putLater(multicast, true)
	c, ok := m.core.nextChange(m.now)
	if !ok || len(c.put) != 3 {
		t.Fatalf("to change: %+v", c)
	}
	refused := make([]error, len(c.put))
	for i, r := range c.put {
		switch r.Source {
		case pair[1]:
			refused[i] = &ruleset.WhitelistedError{Prefix: r.Source}
		case multicast:
			refused[i] = ruleset.CheckSource(r.Source)
		}
	}
	m.core.onChanged(changed{change: c, refused: refused}, m.now)
	m.wantNews(Whitelisted, Restored)
	if _, known := m.core.book.Get(multicast); known || m.core.book.Len() != 1 {
		t.Errorf("%d rows, that of %v among them: %v", m.core.book.Len(), multicast, known)
	}
}

// While the kernel is asked about a source, what the sets of prefixes show of it
// is passed over: the answer has its allowance too.
func TestAllowanceIsInTheAnswer(t *testing.T) {
	for _, p := range pair {
		m := newModel(t, 1)
		msg := m.offend(p)
		m.core.onLogMessage(&msg, p, m.now)
		e := ruleset.Entry{Element: nftset.Prefix(p), Role: ruleset.RoleAllow, Cause: ruleset.CauseName}
		e.Timeout, e.Remaining = time.Hour, time.Hour
		m.core.onStanding(&standing{p, ruleset.Standing{Source: p, Allowed: &e}}, m.now)
		if row, _ := m.core.book.Get(p); !row.AllowedAt(m.now.Boot) || row.Cause != ruleset.CauseName || row.Banned {
			t.Errorf("the book has %+v", row)
		}
	}
}

// What offends while apply has a table observe may have been only observed; what
// did before, was not.
func TestOffendsWhileModeChanges(t *testing.T) {
	m := newModel(t, 1)
	var heard []nflog.Message
	sources := append(slices.Clone(pair), netip.MustParsePrefix("198.18.0.9/32"))
	for i, p := range sources {
		if i == 2 {
			m.core.onApplying(m.now)
			m.pass(5 * time.Millisecond)
		}
		heard = append(heard, m.offend(p))
		m.pass(5 * time.Millisecond)
	}
	m.core.onApplying(m.now)    // it takes long
	for i, p := range sources { // of the second, only after the switch
		if i != 1 {
			m.core.onLogMessage(&heard[i], p, m.now)
		}
	}
	m.core.reconfigure(m.core.spec, &Applied{Observe: true}, 1000, m.now)
	m.core.onLogMessage(&heard[1], sources[1], m.now)
	for i, p := range sources {
		if row, _ := m.core.book.Get(p); row.Observed != (i == 2) || !row.BannedAt(m.now.Boot) {
			t.Errorf("%v is remembered as %+v", p, row)
		}
	}
}

// What was one allowance is several in the kernel if a part of it is allowed for
// another time: the answer to a question about all of it does not end the parts.
func TestAllowanceIsSplit(t *testing.T) {
	m := newModel(t, 1)
	whole := netip.MustParsePrefix("198.51.100.0/24")
	parts := nftset.Prefix(netip.MustParsePrefix("198.51.100.64/26")).Prefixes()
	parts = append(parts, netip.MustParsePrefix("198.51.100.0/26"), netip.MustParsePrefix("198.51.100.128/25"))
	for _, p := range append(parts, whole) {
		m.core.book.Learn(book.Row{Source: p, Allowed: true, Timeout: time.Hour, Until: m.now.Boot.Add(time.Hour), Cause: ruleset.CauseHand})
	}
	e := ruleset.Entry{Element: nftset.Prefix(parts[1]), Role: ruleset.RoleAllow, Cause: ruleset.CauseHand}
	e.Timeout, e.Remaining = time.Hour, time.Hour
	m.core.onStanding(&standing{whole, ruleset.Standing{Source: netip.PrefixFrom(whole.Addr(), 32), Allowed: &e}}, m.now)
	if row, _ := m.core.book.Get(whole); row.Allowed {
		t.Errorf("the book has %+v", row)
	}
	for _, p := range parts {
		if row, _ := m.core.book.Get(p); !row.AllowedAt(m.now.Boot) {
			t.Errorf("of %v, the book has %+v", p, row)
		}
	}
}

// A table that is put back observing has what was only observed stay that.
func TestSwappedIntoObserving(t *testing.T) {
	for _, p := range pair {
		m := newModel(t, 1)
		m.offend(p)
		rows := book.New(0)
		rows.Learn(book.Row{
			Source: p, Banned: true, Timeout: m.bans[p].timeout, Until: m.bans[p].until, Cause: ruleset.CauseTrap,
			Step: 1, StepUntil: m.steps[p].until, Observed: true,
		})
		rows.SetObserves(true)
		m.observes, m.handle = true, m.handle+1
		m.pass(time.Second)
		m.core.onSwapped(m.handle, rows, m.now)
		m.drain()
		if row, _ := m.core.book.Get(p); !row.Observed || !m.core.book.Observes() {
			t.Errorf("%v is remembered as %+v", p, row)
		}
	}
}

// What is put back with a table neither counts again nor is lifted, though what it
// takes the place of was made just now.
func TestSwappedAfterApplying(t *testing.T) {
	m := newModel(t, 1)
	p := pair[0]
	rows := book.New(0)
	row := book.Row{Source: p, Banned: true, Timeout: time.Hour, Until: m.now.Boot.Add(time.Hour), Cause: ruleset.CauseTrap}
	rows.Learn(row)
	m.core.book.Learn(row)
	count := func(packets uint64) {
		m.core.addTable(stats.Table{Origin: book.Origin{Table: m.handle}, Counters: map[string]ruleset.Counter{"dropped": {Packets: packets}}}, m.now)
	}
	count(100)
	m.core.onApplying(m.now)
	m.handle++
	m.core.onTableNew(m.now)
	count(1)
	m.core.lift(p, m.now)
	m.core.onSwapped(m.handle+1, rows, m.now)
	m.handle++
	count(110)
	if got := m.core.tally.Days(1, m.now.Wall)[0].Packets["dropped"]; got != 1 {
		t.Errorf("%d packets are counted, want that of the trial alone", got)
	}
	m.wantNews()
}
