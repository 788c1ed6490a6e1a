package watch

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/portmon/portmon/internal/lab"
	"github.com/portmon/portmon/nftset"
	"github.com/portmon/portmon/ruleset"
)

// settleNow has all that has happened taken in while no time passes.
func (m *model) settleNow() {
	for range 100 {
		m.carry()
	}
}

// A command tells that it has lifted a ban after the kernel has done so, of
// which the watcher may have heard by then, or hear only later: it was the
// command all the same, and nobody else.
func TestUnbannedByHandInEitherOrder(t *testing.T) {
	for _, p := range pair {
		for name, toldFirst := range map[string]bool{"told first": true, "heard first": false} {
			for _, alone := range []bool{true, false} {
				m := newModel(t, 1)
				msg := m.offend(p)
				m.core.onLogMessage(&msg, p, m.now)
				m.drain()
				m.wantNews(Banned)
				hear := func() {
					m.commit(otherPort, m.element(nftset.ElementDeleted, ruleset.RoleBan, p, m.bans[p]))
					delete(m.bans, p)
					m.settleNow()
				}
				if !toldFirst {
					hear()
					if row, _ := m.core.book.Get(p); row.Banned || len(m.core.takeNews(m.now)) > 0 {
						t.Fatalf("%v, %s: heard of, it is %+v", p, name, row)
					}
				}
				m.core.unbanned([]netip.Prefix{p}, alone, m.now)
				if toldFirst {
					hear()
				}
				m.wantNews(Unbanned)
			}
		}
	}
}

// What no command tells of was the work of others. That is said a moment later,
// but before anything else of the source.
func TestLiftedIsHeld(t *testing.T) {
	m := newModel(t, 1)
	p := pair[0]
	lift := func() {
		m.commit(otherPort, m.element(nftset.ElementDeleted, ruleset.RoleBan, p, m.bans[p]))
		delete(m.bans, p)
		m.settleNow()
	}
	kinds := func() (got []Kind) {
		m.core.tidy(m.now)
		for _, n := range m.core.takeNews(m.now) {
			got = append(got, n.Kind)
		}
		return got
	}
	offend := func() {
		msg := m.offend(p)
		m.core.onLogMessage(&msg, p, m.now)
		m.settleNow()
	}
	offend()
	lift()
	if got := kinds(); !slices.Equal(got, []Kind{Banned}) {
		t.Errorf("at once: %v", got)
	}
	if idle := m.core.idle(m.now); idle > settling {
		t.Errorf("the loop sleeps for %v", idle)
	}
	m.pass(settling)
	if got := kinds(); !slices.Equal(got, []Kind{Lifted}) {
		t.Errorf("a moment later: %v", got)
	}
	m.pass(time.Minute)
	offend()
	m.pass(time.Second)
	lift()
	m.pass(settling - time.Millisecond)
	offend()
	if got := kinds(); len(got) != 3 || got[1] != Lifted {
		t.Errorf("with what comes next: %v", got)
	}
	m.pass(settling)
	if got := kinds(); len(got) > 0 {
		t.Errorf("and then: %v", got)
	}
}

// However many bans a command lifts, it is not more news than a few.
func TestUnbanAllIsOneEvent(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.many(2*maxEnded, 2)
	w := l.watch()
	w.awaitNews(Escalated, 2*maxEnded)
	var held int
	if err := w.call(t.Context(), func() {
		if err := l.Open().UnbanAll(); err != nil {
			t.Error(err)
		}
		some := w.core.book.Rows()
		for row := range some { // as if these had been heard of
			if held++; held <= maxEnded/2 {
				w.core.lift(row.Source, now())
			}
		}
		w.core.unbanned([]netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}, false, now())
	}); err != nil {
		t.Fatal(err)
	}
	if n, err := w.next(); err != nil || n.Kind != Unbanned || n.Count != 2*maxEnded || n.Source.IsValid() {
		t.Errorf("got %v %+v, error %v", n.Kind, n, err)
	}
	w.quiet()
}

// What is allowed and disallowed by hand is news, and what a login does is not.
func TestAllowedByHand(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	w := l.watch()
	offenders := l.Sources(1)
	l.Offend(offenders...)
	w.want(Banned, 1, 1, offenders...)
	for i, src := range offenders {
		p := l.source(src)
		r := ruleset.Record{
			Source: p, Allowed: true, Timeout: time.Hour, Remaining: time.Hour,
			Cause: []ruleset.Cause{ruleset.CauseHand, ruleset.CauseLogin}[i], Comment: "x",
		}
		if err := w.call(t.Context(), func() {
			if _, _, _, err := l.Open().Allow([]ruleset.Record{r}); err != nil {
				t.Error(err)
			}
			w.core.unbanned([]netip.Prefix{p}, true, now())
		}); err != nil {
			t.Fatal(err)
		}
		w.want(Unbanned, 1, 0, src)
		if r.Cause == ruleset.CauseHand {
			l.wantPrefix(w, Allowed, p, "x")
		}
		lab.Await(t, "it is known to be allowed", func() bool { return w.rows(src)[p].Allowed })
		if err := w.call(t.Context(), func() {
			if _, _, err := l.Open().Disallow(p); err != nil {
				t.Error(err)
			}
			w.core.disallowed([]netip.Prefix{p}, now())
		}); err != nil {
			t.Fatal(err)
		}
		l.wantPrefix(w, Disallowed, p, "x")
	}
	w.quiet()
}

// Who allows a banned source has lifted its ban, whether the watcher hears of the
// allowance first or of the ban's end, and is told once.
func TestAllowingUnbans(t *testing.T) {
	for _, p := range pair {
		for _, heardFirst := range []bool{false, true} {
			m := newModel(t, 1)
			msg := m.offend(p)
			m.core.onLogMessage(&msg, p, m.now)
			m.drain()
			m.wantNews(Banned)
			if heardFirst {
				m.commit(otherPort, m.element(nftset.ElementDeleted, ruleset.RoleBan, p, m.bans[p]))
				delete(m.bans, p)
				m.settleNow()
			}
			e := ruleset.Entry{Element: nftset.Prefix(p), Role: ruleset.RoleAllow, Cause: ruleset.CauseHand}
			e.Timeout, e.Remaining = time.Hour, time.Hour
			m.core.onStanding(&standing{p, ruleset.Standing{Source: p, Allowed: &e}}, m.now)
			m.core.unbanned([]netip.Prefix{p}, true, m.now)
			m.wantNews(Unbanned, Allowed)
		}
	}
}

// An allowance that is made within another one is news, and what the kernel has
// left of the other one is not.
func TestCutAllowanceIsNoNews(t *testing.T) {
	m := newModel(t, 1)
	whole, within := netip.MustParsePrefix("203.0.113.0/24"), netip.MustParsePrefix("203.0.113.7/32")
	shown := func(p netip.Prefix, left time.Duration) {
		e := ruleset.Entry{Element: nftset.Prefix(p), Role: ruleset.RoleAllow, Cause: ruleset.CauseHand}
		e.Timeout, e.Remaining = left, left
		m.core.onStanding(&standing{p, ruleset.Standing{Source: p, Allowed: &e}}, m.now)
	}
	shown(whole, time.Hour)
	m.wantNews(Allowed)
	m.pass(time.Minute)
	shown(netip.MustParsePrefix("203.0.113.128/25"), 59*time.Minute)
	m.wantNews()
	shown(within, 30*24*time.Hour)
	m.wantNews(Allowed)
}

// What is held twice is told when the second time is over, and an allowance that
// ends hides no ban that was lifted before.
func TestHeldAgain(t *testing.T) {
	m := newModel(t, 1)
	lifted, ended := News{Kind: Lifted, Source: pair[0]}, News{Kind: Disallowed, Source: pair[0]}
	m.core.hold(lifted, m.now)
	m.core.held.take(pair[0])
	m.pass(settling - time.Millisecond)
	m.core.hold(lifted, m.now)
	m.pass(time.Millisecond)
	m.core.release(m.now.Boot)
	if news := m.core.takeNews(m.now); len(news) > 0 {
		t.Errorf("early: %v", news)
	}
	m.core.hold(ended, m.now)
	m.wantNews(Lifted)
}
