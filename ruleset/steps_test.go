package ruleset

import (
	"net/netip"
	"testing"
	"time"

	"github.com/portmon/portmon/internal/lab"
)

// known makes a source that is remembered to have offended by these steps, each
// for its time.
func (l *fixture) known(f family, remaining ...time.Duration) netip.Addr {
	l.T.Helper()
	src := l.source(f)
	for i, d := range remaining {
		if d > 0 {
			l.put(Record{Source: prefix(cidr(banOf(src))), Step: i + 1, StepRemaining: d})
		}
	}
	return src
}

// remembered fails the test unless a source is remembered by a step for a time.
func (l *fixture) remembered(src netip.Addr, step int, d time.Duration) {
	l.T.Helper()
	st := l.lookup(src)
	if st.Step != step || st.StepRemaining > d || st.StepRemaining < d-lab.Patience {
		l.T.Errorf("of %v step %d is remembered for %v, want %d for %v", src, st.Step, st.StepRemaining, step, d)
	}
}

// climbs has a source offend, which must be by that step then.
func (l *fixture) climbs(src netip.Addr, spec Spec, step int) {
	l.T.Helper()
	l.Offend(src)
	l.Cut(src)
	if b := l.bans()[banOf(src)]; b.Step != step || b.Timeout != spec.BanTime[step-1] {
		l.T.Errorf("the next ban of %v is %s, want %v by step %d", src, b.text(), spec.BanTime[step-1], step)
	}
}

// TestShorterLadder takes steps away: who is remembered by one of them is by
// the highest there is, for as long, and is banned by it next.
func TestShorterLadder(t *testing.T) {
	t.Parallel()
	long := trapSpec()
	long.BanTime = append(long.BanTime, 40*24*time.Hour)
	for _, n := range []int{3, 2, 1} {
		l := newTrap(t, long)
		short := long
		short.BanTime = long.BanTime[:n]
		l.families(func(l *fixture, f family) {
			l.apply(long)
			once, fourth := l.known(f, time.Hour), l.known(f, 0, 0, 0, 40*time.Hour)
			both, longer := l.known(f, time.Hour, 2*time.Hour, 3*time.Hour, 4*time.Hour), l.known(f, 9*time.Hour, 8*time.Hour, 7*time.Hour, 6*time.Hour)
			banned, bystander := l.source(f), l.source(f)
			l.put(Record{
				Source: prefix(cidr(banOf(banned))), Banned: true, Timeout: 960 * time.Hour, Remaining: 900 * time.Hour, Step: 4, StepRemaining: 1000 * time.Hour,
			})
			l.keeps(func() { l.apply(short) })
			if p := l.prepare(short); !p.Empty() {
				l.T.Errorf("there is more to do:\n%s", p)
			}
			for step := n + 1; step <= len(long.BanTime); step++ {
				if l.open().Set(f.tier(step)) != nil {
					l.T.Errorf("set %s is still there", f.tier(step))
				}
			}
			l.Cut(banned)
			l.Served(once, fourth, both, longer, bystander)
			l.remembered(once, 1, time.Hour)
			l.remembered(fourth, n, 40*time.Hour)
			l.remembered(banned, n, 1000*time.Hour)
			l.remembered(both, n, 4*time.Hour)
			l.remembered(longer, n, []time.Duration{9, 8, 7}[n-1]*time.Hour)
			l.climbs(fourth, short, n)
			l.climbs(both, short, n)
			l.climbs(once, short, min(2, n))
			l.climbs(bystander, short, 1)
			l.forgive()
		})
	}
}

// TestLongerLadder adds steps above.
func TestLongerLadder(t *testing.T) {
	t.Parallel()
	short, long := trapSpec(), trapSpec()
	short.BanTime = short.BanTime[:2]
	long.BanTime = append(long.BanTime, 40*24*time.Hour)
	l := newTrap(t, short)
	l.families(func(l *fixture, f family) {
		l.apply(short)
		once, twice, bystander := l.known(f, time.Hour), l.known(f, time.Hour, 2*time.Hour), l.source(f)
		l.keeps(func() { l.apply(long) })
		if p := l.prepare(long); !p.Empty() {
			l.T.Errorf("there is more to do:\n%s", p)
		}
		l.remembered(twice, 2, 2*time.Hour)
		l.climbs(once, long, 2)
		l.climbs(twice, long, 3)
		l.NFT("flush set inet portmon " + f.ban()) // the bans end
		l.climbs(twice, long, 4)
		l.Served(bystander)
	})
}

// TestSubnetsSwitchedOff keeps the bans of subnets that were made, and makes no
// more.
func TestSubnetsSwitchedOff(t *testing.T) {
	t.Parallel()
	on, off := trapSpec(), trapSpec()
	on.Subnet4, on.Subnet6 = 2, 2
	off.Subnet4, off.Subnet6 = 0, 0
	l := newTrap(t, on)
	type subnet struct {
		first, second, third, bystander, banned string
		more                                    [2]string
	}
	of := map[bool]subnet{
		false: {"198.51.99.1", "198.51.99.2", "198.51.99.3", "198.51.98.3", "198.51.99.0/24", [2]string{"203.0.113.1", "203.0.113.2"}},
		true:  {"2001:db8:99:1::1", "2001:db8:99:2::1", "2001:db8:99:3::1", "2001:db8:98:3::1", "2001:db8:99::/48", [2]string{"2001:db8:97:1::1", "2001:db8:97:2::1"}},
	}
	l.families(func(l *fixture, f family) {
		l.apply(on)
		s := of[f.is6()]
		l.Offend(addr(s.first), addr(s.second))
		l.Cut(addr(s.first), addr(s.second), addr(s.third))
		l.Served(addr(s.bystander))
		if b := l.bans()[s.banned]; b.Set != f.subnet() || b.Cause != CauseSubnet || b.Timeout != 72*time.Hour {
			l.T.Errorf("the ban is %s, want one of 72h in %s", b.text(), f.subnet())
		}

		l.keeps(func() { l.apply(off) })
		l.Cut(addr(s.first), addr(s.second), addr(s.third))
		l.Served(addr(s.bystander))
		if b := l.bans()[s.banned]; b.Set != f.net() || b.Timeout != 72*time.Hour || b.Remaining < 72*time.Hour-lab.Patience {
			l.T.Errorf("the ban is %s, want one of 72h in %s", b.text(), f.net())
		}
		for _, set := range []string{f.subnet(), f.crowd()} {
			if l.open().Set(set) != nil {
				l.T.Errorf("set %s is still there", set)
			}
		}
		if p := l.prepare(off); !p.Empty() {
			l.T.Errorf("there is more to do:\n%s", p)
		}
		l.Offend(addr(s.more[0]), addr(s.more[1]))
		l.Cut(addr(s.more[0]), addr(s.more[1]))
		if next := addr(s.more[1]).Next(); f.is6() {
			l.Served(addr("2001:db8:97:3::1"))
		} else {
			l.Served(next)
		}

		l.keeps(func() { l.apply(on) })
		l.Cut(addr(s.third))
		l.Served(addr(s.bystander))
	})
}
