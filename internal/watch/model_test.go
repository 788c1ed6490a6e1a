package watch

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/portmon/portmon/internal/book"
	"github.com/portmon/portmon/internal/nflog"
	"github.com/portmon/portmon/nftset"
	"github.com/portmon/portmon/ruleset"
)

const ownPort, otherPort = 7, 8

// timed is something that lasts until a moment.
type timed struct {
	step    int
	timeout time.Duration
	until   book.Moment
	comment string
}

func (b timed) at(now book.Moment) bool { return b.until > now }

// model is a kernel, the delays between it and a core, and what should come of
// it: bans and steps as they would be if everything was known at once.
type model struct {
	t    testing.TB
	r    *rand.Rand
	core *core
	now  book.Clock

	handle             uint64
	observes           bool // the table drops nothing
	bans, steps        map[netip.Prefix]timed
	wantBans, wantStep map[netip.Prefix]timed
	realBans, realStep map[netip.Prefix]timed // while it observes: what is not only observed

	log      []nflog.Message
	events   []nftset.Event
	question *question
	answers  []answer // on their way
	todo     *change
	done     *changed
	looking  bool // what is being done is to look
	lifted   map[netip.Prefix]book.Moment
	trace    []string
}

func newModel(t testing.TB, seed uint64) *model {
	m := &model{t: t, r: rand.New(rand.NewPCG(seed, 1)), handle: 1, now: book.Clock{Boot: book.Moment(24 * time.Hour), Wall: time.Unix(1e9, 0)}}
	m.bans, m.steps = make(map[netip.Prefix]timed), make(map[netip.Prefix]timed)
	m.lifted = make(map[netip.Prefix]book.Moment)
	m.wantBans, m.wantStep = make(map[netip.Prefix]timed), make(map[netip.Prefix]timed)
	m.core = newCore(testSpec(10*time.Minute, 8*time.Hour, 48*time.Hour), book.New(1000), ownPort, 0, m.now)
	m.drain()
	return m
}

func (m *model) pass(d time.Duration) {
	m.now.Boot, m.now.Wall = m.now.Boot.Add(d), m.now.Wall.Add(d)
}

func (m *model) source() netip.Prefix {
	if n := byte(m.r.IntN(3)); m.r.IntN(2) == 0 {
		return netip.PrefixFrom(netip.AddrFrom4([4]byte{198, 18, 0, n}), 32)
	} else {
		return netip.PrefixFrom(netip.MustParseAddr(fmt.Sprintf("2001:db8:%x::", n)), 64)
	}
}

// event adds events of a transaction.
func (m *model) commit(port uint32, events ...nftset.Event) {
	for i := range events {
		events[i].PortID = port
	}
	m.events = append(append(m.events, events...), nftset.Event{Kind: nftset.Commit, PortID: port})
}

func (m *model) element(kind nftset.EventKind, role ruleset.Role, p netip.Prefix, e timed) nftset.Event {
	return nftset.Event{Kind: kind, Set: role.Set(p.Addr(), e.step), Element: nftset.Element{
		Interval: nftset.Addr(p.Addr()).Interval, Timeout: e.timeout, Remaining: max(0, e.until.Sub(m.now.Boot)), Comment: e.comment,
	}}
}

// climb is what an offence should come to.
func (m *model) climb(p netip.Prefix, least time.Duration) {
	if b := m.wantBans[p]; b.at(m.now.Boot) {
		// It cannot have offended, but a longer ban than this is what somebody
		// wants.
		if until := m.now.Boot.Add(least); until > b.until {
			m.wantBans[p] = timed{timeout: least, until: until}
		}
		return
	}
	step := min(m.wantStep[p].step+1, len(m.core.spec.BanTime))
	d := max(m.core.spec.BanTime[step-1], least)
	m.wantBans[p] = timed{timeout: d, until: m.now.Boot.Add(d)}
	m.wantStep[p] = timed{step: step}
}

// act does one thing that can happen.
func (m *model) act() {
	m.pass(time.Millisecond)
	p := m.source()
	banned := m.bans[p].at(m.now.Boot)
	switch n := m.r.IntN(20); {
	case n < 7: // an offence
		m.trace = append(m.trace, fmt.Sprint("offends ", p))
		if banned {
			return
		}
		step := min(m.steps[p].step+1, len(m.core.spec.BanTime))
		d := m.core.spec.BanTime[step-1]
		m.bans[p] = timed{timeout: d, until: m.now.Boot.Add(d)}
		m.steps[p] = timed{step, d + m.core.spec.Forget, m.now.Boot.Add(d + m.core.spec.Forget), ""}
		m.log = append(m.log, nflog.Message{Src: p.Addr(), Prefix: fmt.Sprintf("portmon trap %d", step), Time: m.now.Wall, Proto: 6, DstPort: 23})
		m.climb(p, 0)
	case n < 9: // a report by another program
		// What is added right after an unban may be lifted with it, and not be
		// told from what was there before.
		if at, freed := m.lifted[p]; banned || freed && m.now.Boot.Sub(at) < settling {
			return
		}
		m.trace = append(m.trace, fmt.Sprint("is reported ", p))
		b := timed{0, 20 * time.Minute, m.now.Boot.Add(20 * time.Minute), "offence: x"}
		m.bans[p] = b
		m.commit(otherPort, m.element(nftset.ElementAdded, ruleset.RoleBan, p, b))
		m.climb(p, 20*time.Minute)
	case n < 12: // an unban
		m.trace = append(m.trace, fmt.Sprint("is unbanned ", p))
		b, s := m.bans[p], m.steps[p]
		m.lifted[p] = m.now.Boot
		delete(m.bans, p)
		delete(m.steps, p)
		if banned {
			m.commit(otherPort, m.element(nftset.ElementDeleted, ruleset.RoleBan, p, b))
		}
		if s.step > 0 {
			m.commit(otherPort, m.element(nftset.ElementDeleted, ruleset.RoleStep, p, s))
		}
		m.core.unbanned([]netip.Prefix{p}, true, m.now)
		delete(m.wantBans, p)
		delete(m.wantStep, p)
		delete(m.realBans, p)
		delete(m.realStep, p)
	case n < 14: // an element deleted by hand
		// Not while the watcher lengthens that very ban, which is the matter of
		// TestLiftedWhileItClimbs; not while the table is filled again; nor
		// right after an unban, as a report that comes then is not counted
		// before the kernel was asked for it.
		_, owed := m.core.toPut[p]
		_, putting := m.core.recent[p]
		if banned && !m.core.lifted[p].announced && !owed && !putting && len(m.events) == 0 && m.core.table.known == m.handle {
			m.lifted[p] = m.now.Boot
			m.trace = append(m.trace, fmt.Sprint("is lifted ", p))
			m.commit(otherPort, m.element(nftset.ElementDeleted, ruleset.RoleBan, p, m.bans[p]))
			delete(m.bans, p)
			delete(m.wantBans, p)
			delete(m.realBans, p)
		}
	case n < 15: // another table
		// An offence right after an unban and right before the table goes,
		// which is heard in another order: nobody could tell what came of it.
		if len(m.events) > 0 || len(m.core.lifted) > 0 || m.observes {
			return
		}
		m.trace = append(m.trace, "flush and apply")
		clear(m.bans)
		clear(m.steps)
		m.handle++
		m.commit(otherPort, nftset.Event{Kind: nftset.SetDeleted, Set: "ban4"}, nftset.Event{Kind: nftset.TableDeleted})
		m.commit(otherPort, nftset.Event{Kind: nftset.TableAdded}, nftset.Event{Kind: nftset.SetAdded, Set: "ban4"})
	case n < 16:
		m.switchMode()
	case n < 17:
		m.trace = append(m.trace, "overrun")
		m.core.resync(m.now)
	default:
		m.pass(time.Duration(m.r.IntN(50)) * time.Millisecond)
	}
}

// switchMode applies the table in the other mode, once the watcher knows what has
// happened by hand.
func (m *model) switchMode() {
	k := m.core
	if len(m.events)+len(k.toPut)+len(k.lifted) > 0 || k.table.known != m.handle || m.todo != nil || m.done != nil {
		return
	}
	m.observes = !m.observes
	m.trace = append(m.trace, fmt.Sprint("observes: ", m.observes))
	k.onApplying(m.now)
	m.pass(time.Millisecond)
	if m.observes {
		m.realBans, m.realStep = maps.Clone(m.wantBans), maps.Clone(m.wantStep)
	} else {
		for p, b := range m.bans {
			if row, _ := k.book.Get(p); !row.Enforced().BannedAt(m.now.Boot) || row.Enforced().Until.Sub(b.until).Abs() > slack {
				delete(m.bans, p)
			}
		}
		for p := range m.steps {
			delete(m.steps, p)
			row, _ := k.book.Get(p)
			if row = row.Enforced(); row.StepAt(m.now.Boot) > 0 {
				m.steps[p] = timed{row.Step, row.StepRemaining(m.now.Boot), row.StepUntil, ""}
			}
		}
		m.wantBans, m.wantStep = m.realBans, m.realStep
		m.commit(otherPort, nftset.Event{Kind: nftset.SetDeleted, Set: "ban4"}, nftset.Event{Kind: nftset.SetAdded, Set: "ban4"})
	}
	k.reconfigure(k.spec, &Applied{Observe: m.observes}, 1000, m.now)
}

// carry brings something from the kernel to the core, or the other way, if
// there is something to carry.
func (m *model) carry() bool {
	k := m.core
	k.tidy(m.now)
	if q, ok := k.nextQuestion(m.now); ok {
		m.question = &q
	}
	if c, ok := k.nextChange(m.now); ok {
		m.todo, m.looking = &c, c.look != nil
	}
	ways := []func() bool{
		func() bool { return len(m.log) > 0 && m.hear() },
		func() bool { return len(m.events) > 0 && m.notice() },
		func() bool { return m.question != nil && m.answer() },
		func() bool { return len(m.answers) > 0 && m.tell() },
		func() bool { return m.todo != nil && m.change() },
		func() bool { return m.done != nil && m.finish() },
	}
	for _, i := range m.r.Perm(len(ways)) {
		if ways[i]() {
			return true
		}
	}
	return false
}

func (m *model) hear() bool {
	msg := m.log[0]
	m.log = m.log[1:]
	p := netip.PrefixFrom(msg.Src, map[bool]int{true: 32, false: 64}[msg.Src.Is4()])
	m.trace = append(m.trace, fmt.Sprint("  log ", p, " ", msg.Prefix))
	m.core.onLogMessage(&msg, p, m.now)
	return true
}

func (m *model) notice() bool {
	for {
		ev := m.events[0]
		m.events = m.events[1:]
		m.trace = append(m.trace, fmt.Sprint("  event ", ev.Kind, ev.Set, ev.Element.Interval, ev.PortID))
		m.core.onEvent(ev, m.now)
		if ev.Kind == nftset.Commit {
			return true
		}
	}
}

func (m *model) entry(role ruleset.Role, p netip.Prefix, e timed) ruleset.Entry {
	return ruleset.Entry{
		Element: nftset.Element{
			Interval: nftset.Prefix(p).Interval, Timeout: e.timeout, Remaining: e.until.Sub(m.now.Boot), Comment: e.comment,
		},
		Set: role.Set(p.Addr(), e.step), Role: role, Step: e.step,
	}
}

// answer reads a part of the kernel, and sends it on its way.
func (m *model) answer() bool {
	q := m.question
	m.trace = append(m.trace, fmt.Sprintf("  read %+v", *q))
	first := answer{at: m.now, layout: &ruleset.State{Exists: true, Handle: m.handle, Prefix6: 64, Observe: m.observes}}
	part := answer{at: m.now}
	if q.all {
		held := make(map[netip.Prefix]ruleset.Record)
		for p, s := range m.steps {
			held[p] = ruleset.Record{Source: p, Step: s.step, StepRemaining: s.until.Sub(m.now.Boot)}
		}
		for p, b := range m.bans {
			if r := held[p]; b.at(m.now.Boot) {
				e := m.entry(ruleset.RoleBan, p, b)
				e.Explain(r.Step, false)
				held[p] = ruleset.Record{
					Source: p, Banned: true, Timeout: e.Timeout, Remaining: e.Remaining, Comment: e.Comment, Cause: e.Cause,
					Step: r.Step, StepRemaining: r.StepRemaining,
				}
			}
		}
		part.records = slices.Collect(maps.Values(held))
	}
	for _, p := range q.sources {
		s := ruleset.Standing{Source: p, Step: m.steps[p].step}
		if s.Step > 0 {
			s.StepRemaining = m.steps[p].until.Sub(m.now.Boot)
		}
		if b := m.bans[p]; b.at(m.now.Boot) {
			e := m.entry(ruleset.RoleBan, p, b)
			e.Explain(s.Step, false)
			s.Bans = append(s.Bans, e)
		}
		part.standings = append(part.standings, standing{p, s})
	}
	m.question, m.answers = nil, append(m.answers, first, part, answer{at: m.now, last: true, same: true})
	return true
}

func (m *model) tell() bool {
	a := m.answers[0]
	m.answers = m.answers[1:]
	a.at = m.now
	if a.last && m.core.reading != nil && !m.core.reading.void {
		a.same = m.core.table.handle == m.handle
	}
	m.trace = append(m.trace, fmt.Sprintf("  told %d records, %+v", len(a.records), a.standings))
	m.core.onAnswer(a)
	return true
}

// change does to the kernel what the core wants.
func (m *model) change() bool {
	c := m.todo
	m.todo, m.done = nil, &changed{change: *c}
	m.trace = append(m.trace, fmt.Sprintf("  change %+v", c.put))
	switch {
	case c.look != nil:
		m.done.saw = look{exists: true, current: true, generation: 1, observes: m.observes, sealed: true}
	case c.put != nil:
		for _, r := range c.put {
			var events []nftset.Event
			if r.Banned {
				b := timed{0, r.Timeout, m.now.Boot.Add(r.Remaining), r.Comment}
				if old := m.bans[r.Source]; old.at(m.now.Boot) {
					events = append(events, m.element(nftset.ElementDeleted, ruleset.RoleBan, r.Source, old))
				}
				m.bans[r.Source] = b
				events = append(events, m.element(nftset.ElementAdded, ruleset.RoleBan, r.Source, b))
			}
			if r.Step > 0 {
				m.steps[r.Source] = timed{r.Step, r.StepRemaining, m.now.Boot.Add(r.StepRemaining), ""}
				events = append(events, m.element(nftset.ElementAdded, ruleset.RoleStep, r.Source, m.steps[r.Source]))
			}
			m.commit(ownPort, events...)
		}
	default:
		for _, p := range c.lift {
			m.trace = append(m.trace, fmt.Sprint("  lift ", p))
			m.commit(ownPort, m.element(nftset.ElementDeleted, ruleset.RoleBan, p, m.bans[p]))
			delete(m.bans, p)
			delete(m.steps, p)
		}
	}
	return true
}

func (m *model) finish() bool {
	m.core.onChanged(*m.done, m.now)
	m.done = nil
	return true
}

// drain carries everything until all is quiet for good.
func (m *model) drain() {
	for quiet := 0; quiet < 40; quiet++ {
		for m.carry() {
			if !m.core.quiet() && !m.looking {
				quiet = 0 // to look at the table is always due again
			}
		}
		m.pass(100 * time.Millisecond)
	}
}

func (m *model) check() {
	m.t.Helper()
	now := m.now.Boot
	ok := true
	all := make(map[netip.Prefix]bool)
	for _, of := range []map[netip.Prefix]timed{m.bans, m.steps, m.wantBans, m.wantStep} {
		for p := range of {
			all[p] = true
		}
	}
	for p := range all {
		row, _ := m.core.book.Get(p)
		kernel, want := m.bans[p], m.wantBans[p]
		if kernel.at(now) != want.at(now) || kernel.at(now) != row.BannedAt(now) || m.steps[p].step != m.wantStep[p].step || row.StepAt(now) != m.steps[p].step {
			m.t.Errorf("%v: the kernel has %+v at step %d, the book %+v, want %+v at step %d", p, kernel, m.steps[p].step, row, want, m.wantStep[p].step)
			ok = false
		} else if kernel.at(now) && (kernel.until.Sub(row.Until).Abs() > 2*slack || kernel.until.Sub(want.until).Abs() > 2*slack) {
			m.t.Errorf("%v: the kernel has %+v, the book %+v, want %+v", p, kernel, row, want)
			ok = false
		}
	}
	if !ok {
		for _, line := range m.trace {
			m.t.Log(line)
		}
		m.t.FailNow()
	}
	m.trace = nil
}

// However late and in whatever order things are heard, read and done, in the
// end the kernel and the book hold what they should.
func TestModel(t *testing.T) {
	t.Parallel()
	const runs = 1000
	for seed := range uint64(runs) {
		m := newModel(t, seed)
		for range 5 {
			for range m.r.IntN(12) {
				m.act()
				for range m.r.IntN(4) {
					m.carry()
				}
			}
			m.drain()
			m.check()
			if t.Failed() {
				t.Fatal("seed ", seed)
			}
			m.pass([]time.Duration{time.Minute, 11 * time.Minute, 9 * time.Hour}[m.r.IntN(3)])
			for p, b := range m.bans {
				if !b.at(m.now.Boot) {
					delete(m.bans, p)
				}
			}
			m.drain()
		}
	}
}
