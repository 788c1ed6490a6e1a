package ruleset

import (
	"encoding/binary"
	"fmt"
	"maps"
	"math/bits"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/portmon/portmon/netnstest"
)

// keeps runs f and fails the test unless all bans, with the time that they have left, and the counters are what they were.
func (l *lab) keeps(f func()) {
	l.t.Helper()
	start := time.Now()
	before, counters := l.bans(), l.counters()
	f()
	after := l.bans()
	elapsed := time.Since(start) + 100*time.Millisecond
	if got, want := slices.Sorted(maps.Keys(after)), slices.Sorted(maps.Keys(before)); !slices.Equal(got, want) {
		l.t.Errorf("banned is %q, was %q", got, want)
	}
	for key, was := range before {
		is, ok := after[key]
		if !ok {
			continue
		}
		if is.Set != was.Set || is.Tier != was.Tier || is.Timeout != was.Timeout || is.Comment != was.Comment {
			l.t.Errorf("the ban of %s is in %s for %v %q, was in %s for %v %q", key, is.Set, is.Timeout, is.Comment, was.Set, was.Timeout, was.Comment)
		}
		if is.Expires > was.Expires || is.Expires < was.Expires-elapsed {
			l.t.Errorf("the ban of %s expires in %v, %v before that it was %v", key, is.Expires, elapsed, was.Expires)
		}
	}
	if got := l.counters(); !maps.Equal(got, counters) {
		l.t.Errorf("counters are %v, were %v", got, counters)
	}
}

// TestReapplyChangesOnlyWhatChanged changes each part of the Spec and takes the change back.
func TestReapplyChangesOnlyWhatChanged(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(*Spec)
		check  func(l *lab, f family) // that it is in force
	}{
		{"nothing", func(*Spec) {}, func(l *lab, f family) { l.offendAndCut(f) }},
		{"trap ports", func(s *Spec) { s.TrapTCP, s.TrapUDP = []Ports{{4444, 4444}}, nil }, func(l *lab, f family) {
			src := l.source(f)
			l.want(l.syn(src, trapTCP), netnstest.AnswerRST)
			l.want(l.udp(src, trapUDP), netnstest.AnswerPortUnreachable)
			l.want(l.syn(src, 4444), netnstest.NoAnswer)
			l.cut(src)
		}},
		{"whitelist", func(s *Spec) { s.Whitelist = []netip.Prefix{prefix("198.51.100.9/32"), prefix("2001:db8:9::/48")} }, func(l *lab, f family) {
			src := [...]netip.Addr{addr("198.51.100.9"), addr("2001:db8:9::9")}[index(f)]
			l.want(l.syn(src, trapTCP), netnstest.AnswerRST)
			l.offendAndCut(f)
		}},
		{"longer ban times", func(s *Spec) { s.BanTime = []time.Duration{24 * time.Hour, 7 * 24 * time.Hour, 60 * 24 * time.Hour} }, func(l *lab, f family) {
			l.bannedFor(f, 24*time.Hour)
		}},
		{"shorter ban times", func(s *Spec) { s.BanTime = []time.Duration{time.Minute, time.Hour, 2 * time.Hour} }, func(l *lab, f family) {
			l.bannedFor(f, time.Minute)
		}},
		{"longer ladder", func(s *Spec) { s.BanTime = append(s.BanTime, 31*24*time.Hour, 32*24*time.Hour) }, func(l *lab, f family) {
			l.offendAndCut(f)
			for i, set := range []string{f.ban(4), f.ban(5)} {
				src := l.source(f)
				l.nft(fmt.Sprintf("add element inet portmon %s { %s }", set, strings.TrimSuffix(banOf(src), "/64")))
				l.cut(src)
				if b := l.bans()[banOf(src)]; b.Tier != i+4 || b.Timeout != time.Duration(i+31)*24*time.Hour {
					l.t.Errorf("the ban in %s is of tier %d for %v", set, b.Tier, b.Timeout)
				}
				l.nft("flush set inet portmon " + set)
			}
		}},
		{"smaller size", func(s *Spec) { s.Size = 3 }, func(l *lab, f family) {
			l.offendAndCut(f)
			src := l.source(f)
			l.offend(src)
			l.served(src)
			if n := l.counters()[counterFull]; n != uint64(index(f)+1) {
				l.t.Errorf("counter full is %d, want %d", n, index(f)+1)
			}
		}},
		{"larger size", func(s *Spec) { s.Size = 1 << 20 }, func(l *lab, f family) { l.offendAndCut(f) }},
		{"maxretry", func(s *Spec) { s.MaxRetry = 2 }, func(l *lab, f family) {
			src := l.source(f)
			l.offend(src)
			l.served(src)
			l.offend(src)
			l.cut(src)
		}},
		{"log group", func(s *Spec) { s.LogGroup, s.LogThreshold = 700, 7 }, func(l *lab, f family) {
			if list := l.list(); strings.Count(list, `log prefix "portmon ban" group 700 snaplen 64 queue-threshold 7`) != 2 {
				l.t.Errorf("the log statement did not change:\n%s", list)
			}
			l.offendAndCut(f)
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			l := newTrap(t, trapSpec())
			l.nft(foreign)
			l.nft(`
add element inet portmon ban4_2 { 198.51.100.2 timeout 2d expires 90m, 198.51.100.22 }
add element inet portmon ban4_3 { 198.51.100.3 comment "third" }
add element inet portmon ban6_2 { 2001:db8:2:2:: timeout 2d }
add element inet portmon net4 { 203.0.113.0/25 timeout 1h, 203.0.113.128/26 }
add element inet portmon net6 { 2001:db8:f00::/40 timeout 1h comment "net" }`)
			banned := []netip.Addr{addr("198.51.100.2"), addr("198.51.100.3"), addr("203.0.113.1"), addr("2001:db8:2:2::2"), addr("2001:db8:f01::1")}
			l.families(func(l *lab, f family) {
				banned = append(banned, l.source(f), l.source(f))
				l.offend(banned[len(banned)-2:]...)
			})
			l.cut(banned...)
			theirs, table := l.theirs(), l.nft("", "-t", "list", "table", "inet", "portmon")

			changed := trapSpec()
			tt.change(&changed)
			l.keeps(func() { l.apply(changed) })
			if got := l.theirs(); got != theirs {
				t.Errorf("a foreign table changed:\n%s", difference(got, theirs))
			}
			if p := l.prepare(changed); !p.Empty() {
				t.Errorf("there is more to do:\n%s", p)
			}
			l.cut(banned...)
			l.families(tt.check)

			l.keeps(func() { l.apply(trapSpec()) })
			if d := difference(stripCounters(l.nft("", "-t", "list", "table", "inet", "portmon")), stripCounters(table)); d != "" {
				t.Errorf("taken back, the table is another:\n%s", d)
			}
			if p := l.prepare(trapSpec()); !p.Empty() {
				t.Errorf("taken back, there is more to do:\n%s", p)
			}
			l.cut(banned...)
			l.families(func(l *lab, f family) { l.bannedFor(f, 8*time.Hour) })
		})
	}
}

func (l *lab) offendAndCut(f family) {
	l.t.Helper()
	src, bystander := l.source(f), l.source(f)
	l.offend(src)
	l.cut(src)
	l.served(bystander)
}

// bannedFor fails the test unless new bans are for d.
func (l *lab) bannedFor(f family, d time.Duration) {
	l.t.Helper()
	src := l.source(f)
	l.offend(src)
	l.cut(src)
	if b := l.bans()[banOf(src)]; b.Timeout != d || b.Expires > d || b.Expires < d-patience {
		l.t.Errorf("a new ban is for %v with %v left, want %v", b.Timeout, b.Expires, d)
	}
	if s := l.read().Set(f.ban(1)); s.Timeout != d {
		l.t.Errorf("set %s has timeout %v, want %v", s, s.Timeout, d)
	}
}

// TestReapplyMaxRetry changes how many packets make a ban, and within which time.
func TestReapplyMaxRetry(t *testing.T) {
	l := newTrap(t, retrySpec(time.Hour))
	l.families(func(l *lab, f family) {
		findTime := func(want time.Duration) {
			l.t.Helper()
			src := l.source(f)
			l.offend(src)
			s := l.read()
			el, err := l.conn.Get(s.Set(f.hits()), s.tierKey(1, src))
			if err != nil {
				l.t.Fatal(err)
			}
			if el.Timeout == 0 { // not told, as it is that of the set
				el.Timeout = s.Set(f.hits()).Timeout
			}
			if el.Timeout != want || el.Expires > want {
				l.t.Errorf("a trap packet is remembered for %v, want %v", el.Timeout, want)
			}
		}
		bansAt := func(n int) {
			l.t.Helper()
			src := l.source(f)
			for range n - 1 {
				l.offend(src)
				l.served(src)
			}
			l.offend(src)
			l.cut(src)
		}
		findTime(time.Hour)
		spec := retrySpec(time.Minute)
		l.apply(spec)
		findTime(time.Minute)
		bansAt(3)
		spec.MaxRetry = 5
		l.apply(spec)
		bansAt(5)
		spec.MaxRetry = 1
		l.apply(spec)
		bansAt(1)
		if s := l.read(); s.Set("hits4") != nil || s.Set("hits6") != nil {
			l.t.Errorf("sets of hits are still there: %v", s.Sets)
		}
		l.apply(retrySpec(time.Hour))
		findTime(time.Hour)
		bansAt(3)
	})
}

// TestShorterLadderKeepsBans takes a tier away while it holds bans.
func TestShorterLadderKeepsBans(t *testing.T) {
	t.Parallel()
	l := newTrap(t, trapSpec())
	l.nft(`
add element inet portmon ban4_3 { 198.51.100.3 timeout 2s }
add element inet portmon ban6_3 { 2001:db8:3:3:: timeout 1h }`)
	v4, v6 := addr("198.51.100.3"), addr("2001:db8:3:3::3")
	short := trapSpec()
	short.BanTime = short.BanTime[:1]
	l.keeps(func() { l.apply(short) })
	l.cut(v4, v6)
	for _, gone := range []string{"ban4_2", "ban6_2"} { // empty
		if l.read().Set(gone) != nil {
			t.Errorf("set %s is still there", gone)
		}
	}
	if p := l.prepare(short); !p.Empty() {
		t.Errorf("there is more to do:\n%s", p)
	}
	await(t, "the ban to expire", func() bool { return len(l.bans()) == 1 })
	l.served(v4)
	l.cut(v6)
	l.apply(short)
	if s := l.read(); s.Set("ban4_3") != nil || s.Set("ban6_3") == nil {
		t.Errorf("of the third tier, ban4_3 must be gone with its last ban, and ban6_3 must not; there are %v", s.Sets)
	}
	l.wantBans("2001:db8:3:3::/64")
	l.families(func(l *lab, f family) { l.offendAndCut(f) })
	l.apply(trapSpec()) // it is part of the ladder again
	l.cut(v6)
}

// TestReapplyEditsRanges goes from each list of ranges to each other one, in every set of ranges: there is one transaction for all of it,
// in which a range may come that shares its first or last address with one that goes.
func TestReapplyEditsRanges(t *testing.T) {
	l := newTrap(t, trapSpec())
	lists := [][]Ports{
		{{100, 119}}, {{100, 118}}, {{101, 119}}, {{100, 120}}, {{99, 119}}, {{105, 110}}, {{100, 104}, {110, 119}}, {{90, 104}, {115, 130}},
		{{100, 100}}, {{119, 119}}, {{120, 139}}, {{80, 99}}, {{80, 139}}, {{100, 65535}}, {{118, 65535}}, {{1, 119}}, {{1, 65535}}, nil,
	}
	for _, from := range lists {
		for _, to := range lists {
			for _, ports := range [][]Ports{from, to} {
				spec := trapSpec()
				spec.TrapTCP, spec.TrapUDP, spec.Whitelist = ports, ports, nil
				for _, p := range ports { // the same shape, in addresses
					for _, at := range []string{"0.0.0.0", "2001::"} {
						spec.Whitelist = append(spec.Whitelist, blocks(addr(at), p)...)
					}
				}
				l.apply(spec)
				if p := l.prepare(spec); !p.Empty() {
					t.Fatalf("from %v to %v there is more to do:\n%s", from, to, p)
				}
			}
		}
	}
}

// blocks returns the ports of a range as networks: of 2^16 IPv4 addresses each, or of 2^96 IPv6 ones.
func blocks(at netip.Addr, r Ports) []netip.Prefix {
	var out []netip.Prefix
	skip := 0 // bytes before the port
	if at.Is6() {
		skip = 2
	}
	for n := int(r.From); n <= int(r.To); {
		size := 1
		for n%(2*size) == 0 && n+2*size-1 <= int(r.To) {
			size *= 2
		}
		a := at.AsSlice()
		binary.BigEndian.PutUint16(a[skip:], uint16(n))
		first, _ := netip.AddrFromSlice(a)
		out = append(out, netip.PrefixFrom(first, 8*skip+16-bits.TrailingZeros(uint(size))))
		n += size
	}
	return out
}
