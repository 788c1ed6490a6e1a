package ruleset

import (
	"strings"
	"testing"
	"time"

	"github.com/portmon/portmon/internal/lab"
	"github.com/portmon/portmon/nftset"
)

// asked returns how many rules ask the set of prefixes of a family.
func (l *fixture) asked(f family) int {
	l.T.Helper()
	n := 0
	for _, chain := range []string{chainGuard, chainEarlyOpening} {
		n += strings.Count(l.NFT("", "list", "chain", "inet", "portmon", chain), "saddr @"+f.net()+" ")
	}
	return n
}

// TestNetsAreAskedOnlyWhileTheyHoldSomething follows the rules that ask the
// sets of prefixes.
func TestNetsAreAskedOnlyWhileTheyHoldSomething(t *testing.T) {
	t.Parallel()
	l := newTrap(t, trapSpec())
	other := l.dial() // another program
	open := func(l *fixture) *Handle {
		l.T.Helper()
		h, err := Open(other, "portmon")
		if err != nil {
			l.T.Fatal(err)
		}
		return h
	}
	l.families(func(l *fixture, f family) {
		first, second := prefix("203.0.112.0/24"), prefix("203.0.114.0/24")
		other4 := families[1-index(f)]
		if f.is6() {
			first, second = prefix("2001:db8:a::/48"), prefix("2001:db8:c::/48")
		}
		bystander := l.source(f)
		inFirst, inSecond := first.Addr().Next(), second.Addr().Next()
		wantAsked := func(when string, n int) {
			l.T.Helper()
			if got := l.asked(f); got != n {
				l.T.Errorf("%s, %d rules ask for prefixes, want %d", when, got, n)
			}
			if got := l.asked(other4); got != 0 {
				l.T.Errorf("%s, %d rules ask for prefixes of the other family", when, got)
			}
			if p := l.prepare(trapSpec()); !p.Empty() {
				l.T.Errorf("%s, apply has this to do:\n%s", when, p)
			}
			l.Served(bystander)
		}
		put := func(h *Handle, r Record) {
			l.T.Helper()
			if refused, err := h.Put([]Record{r}); refused != nil || err != nil {
				l.T.Fatal(refused, err)
			}
		}
		wantAsked("before", 0)
		h, stale := l.open(), open(l)
		put(h, byHand(first, Forever))
		wantAsked("with one prefix", 2)
		put(h, byHand(second, time.Hour))
		wantAsked("with another by the same handle", 2)
		put(stale, byHand(second, 2*time.Hour))
		wantAsked("with one by a handle from before", 2)
		l.Cut(inFirst, inSecond)

		if _, _, err := h.Unban(first); err != nil {
			l.T.Fatal(err)
		}
		wantAsked("with one less", 2)
		l.Served(inFirst)
		l.Cut(inSecond)
		if _, _, err := open(l).Unban(second); err != nil {
			l.T.Fatal(err)
		}
		wantAsked("with none", 0)
		l.Served(inFirst, inSecond)

		// h knows nothing of what somebody else has taken away.
		put(h, byHand(first, time.Hour))
		wantAsked("with one again", 2)
		l.Cut(inFirst)
		if err := open(l).UnbanAll(); err != nil {
			l.T.Fatal(err)
		}
		wantAsked("when all are free", 0)
		put(h, byHand(first, time.Hour))
		wantAsked("with one once more", 2)
		l.Cut(inFirst)
		if lifted, _, err := h.UnbanAlone(nftset.Prefix(first).Interval); len(lifted) != 1 || err != nil {
			l.T.Fatal(lifted, err)
		}
		wantAsked("with none once more", 0)
		l.Served(inFirst)

		// The rules stay when the last ban expires, until somebody applies.
		put(h, byHand(first, 200*time.Millisecond))
		lab.Await(l.T, "the ban to expire", func() bool { return len(l.bans()) == 0 })
		l.Served(inFirst)
		if got := l.asked(f); got != 2 {
			l.T.Errorf("after it expired %d rules ask, want 2", got)
		}
		l.keeps(func() { l.apply(trapSpec()) })
		wantAsked("after apply", 0)
		put(stale, byHand(second, time.Hour))
		wantAsked("with one after that", 2)
		l.Cut(inSecond)

		// With another configuration they stay as they are.
		spec := trapSpec()
		spec.MaxRetry = 3
		l.keeps(func() { l.apply(spec) })
		l.Cut(inSecond)
		l.keeps(func() { l.apply(trapSpec()) })
		wantAsked("by another configuration and back", 2)
		l.Cut(inSecond)
		l.forgive()
	})
}

// TestNetsOfBothFamilies bans prefixes of both, whichever comes first, and
// lifts them one after the other.
func TestNetsOfBothFamilies(t *testing.T) {
	t.Parallel()
	prefixes := []string{"203.0.113.0/24", "2001:db8:a::/48"}
	for _, order := range [][]int{{0, 1}, {1, 0}} {
		l := newTrap(t, trapSpec())
		check := func(banned int) {
			t.Helper()
			for i, f := range families {
				inside, want := prefix(prefixes[i]).Addr().Next(), 0
				if banned&(1<<i) != 0 {
					l.Cut(inside)
					want = 2
				} else {
					l.Served(inside)
				}
				if got := l.asked(f); got != want {
					t.Errorf("%d rules ask %s, want %d", got, f.net(), want)
				}
			}
			if p := l.prepare(trapSpec()); !p.Empty() {
				t.Errorf("apply has this to do:\n%s", p)
			}
		}
		banned := 0
		for _, i := range order {
			l.ban(time.Hour, prefixes[i])
			banned |= 1 << i
			check(banned)
		}
		for _, i := range order {
			if _, _, err := l.open().Unban(prefix(prefixes[i])); err != nil {
				t.Fatal(err)
			}
			banned &^= 1 << i
			check(banned)
		}
	}
}

// TestNetsDriftIsRepaired takes away the rules that ask for prefixes, or adds
// them once more.
func TestNetsDriftIsRepaired(t *testing.T) {
	t.Parallel()
	for name, script := range map[string]string{
		"one is flushed":     "flush chain inet portmon early_opening",
		"both are flushed":   "flush chain inet portmon early_opening; flush chain inet portmon guard",
		"there is one more":  "insert rule inet portmon guard ip saddr @net4 goto banned",
		"it comes too late":  "add rule inet portmon early_opening ip6 saddr @net6 drop",
		"the set is flushed": "flush set inet portmon net4; flush set inet portmon net6",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newTrap(t, trapSpec())
			l.ban(time.Hour, "203.0.113.0/24", "2001:db8:a::/48")
			l.NFT(script)
			l.apply(trapSpec())
			want := 2
			if name == "the set is flushed" {
				want = 0
				l.wantBans()
				l.Served(addr("203.0.113.1"), addr("2001:db8:a::1"))
			} else {
				l.Cut(addr("203.0.113.1"), addr("2001:db8:a::1"))
			}
			for _, f := range families {
				if got := l.asked(f); got != want {
					t.Errorf("%d rules ask %s, want %d", got, f.net(), want)
				}
			}
			if p := l.prepare(trapSpec()); !p.Empty() {
				t.Errorf("there is more to do:\n%s", p)
			}
			l.families(func(l *fixture, f family) { l.Served(l.source(f)) })
		})
	}
}

// TestPrefixesExpire has bans of prefixes end, side by side with others that go
// on, and new ones come: each bans what it says and no more, all the time. An
// interval that lost its end would ban everybody above, and one that is over
// must not be taken for the one below.
func TestPrefixesExpire(t *testing.T) {
	t.Parallel()
	for when, wait := range map[string]time.Duration{
		"at once": 0,
		"later":   3 * time.Second, // some kernels take out what has expired, once a second
		"tidied":  time.Second,
	} {
		t.Run(when, func(t *testing.T) {
			t.Parallel()
			l := newTrap(t, trapSpec())
			long := []string{"198.51.100.0/24", "198.51.102.0/24", "203.0.113.0/24", "2001:db8:5::/48", "2001:db8:7::/48"}
			short := []string{"198.51.99.0/24", "198.51.101.0/24", "198.51.103.0/24", "203.0.112.0/24", "2001:db8:6::/48", "2001:db8:8::/48", "2001:db8:4::/48"}
			for i := range short {
				if i < len(long) {
					l.ban(time.Hour, long[i])
				}
				l.ban(time.Second, short[i])
			}
			check := func(alive ...string) {
				t.Helper()
				for _, p := range alive {
					l.Cut(prefix(p).Addr().Next())
				}
				l.wantBans(alive...)
				l.Served(addr("198.51.98.1"), addr("198.51.105.1"), addr("203.0.111.1"), addr("203.0.114.1"), addr("2001:db8:3::1"), addr("2001:db8:9::1"))
			}
			lab.Await(t, "the short ones end", func() bool { return len(l.bans()) == len(long) })
			time.Sleep(wait)
			if when == "tidied" {
				if err := l.open().TidyNets(); err != nil {
					t.Fatal(err)
				}
			}
			check(long...)
			for _, p := range short {
				l.Served(prefix(p).Addr().Next())
			}
			l.ban(time.Hour, short[1], "198.51.104.0/24", "2001:db8:6::/48")
			alive := append(long, short[1], "198.51.104.0/24", "2001:db8:6::/48")
			check(alive...)
			time.Sleep(2 * time.Second) // again, until the kernel has taken out what expired: it tells nobody
			check(alive...)
		})
	}
}

// TestTidyNets tidies sets of prefixes that begin with the lowest address, or
// have all: nothing that is banned changes.
func TestTidyNets(t *testing.T) {
	t.Parallel()
	for name, bans := range map[string][]string{
		"from the lowest":    {"0.0.0.0/1", "128.0.0.0/9", "203.0.113.0/24", "::/3", "2000::/16", "2001:db8:a::/48"},
		"up to the highest":  {"128.0.0.0/1", "8000::/1"},
		"from end to end":    {"0.0.0.0/1", "128.0.0.0/1", "::/1", "8000::/1"},
		"of only one family": {"203.0.113.0/24"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newTrap(t, trapSpec())
			l.ban(time.Hour, bans...)
			l.keeps(func() {
				if err := l.open().TidyNets(); err != nil {
					t.Fatal(err)
				}
			})
			l.wantBans(bans...)
		})
	}
}
