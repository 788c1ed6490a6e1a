package ruleset

import (
	"encoding/binary"
	"fmt"
	"maps"
	"math/bits"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/portmon/portmon/nftset"
)

// keeps runs f and fails the test unless all bans, with the time that they have
// left, and the counters are what they were. What there is no place for any
// more is another matter: a higher step is the highest now, and bans of subnets
// are among those of prefixes.
func (l *fixture) keeps(f func()) {
	l.T.Helper()
	start := time.Now()
	before, counters := l.bans(), l.counters()
	f()
	l.lastOn(before, start)
	got := l.counters()
	for _, m := range []map[string]uint64{got, counters} {
		delete(m, CounterFleet) // which not every table has
	}
	if !maps.Equal(got, counters) {
		l.T.Errorf("counters are %v, were %v", got, counters)
	}
}

// lastOn fails the test unless these are the bans, which were read at a moment
// from which on they have gone on, as far as the table has a place for them.
func (l *fixture) lastOn(before map[string]Entry, start time.Time) {
	l.T.Helper()
	after := l.bans()
	elapsed := time.Since(start) + 100*time.Millisecond
	now := l.open()
	for key, b := range before {
		f := familyOf(b.From.Type())
		for now.Set(f.tier(max(b.Step, 1))) == nil {
			b.Step--
		}
		if now.Set(b.Set) == nil {
			b.Set, b.Role, b.Cause = f.net(), RoleNet, CauseHand
		}
		if b.Cause == CauseScan && now.Set(f.scanner()) == nil {
			b.Cause = CauseTrap
		}
		before[key] = b
	}
	if got, want := slices.Sorted(maps.Keys(after)), slices.Sorted(maps.Keys(before)); !slices.Equal(got, want) {
		l.T.Errorf("banned is %q, was %q", got, want)
	}
	for key, was := range before {
		is, ok := after[key]
		if !ok {
			continue
		}
		if is.Set != was.Set || is.Step != was.Step || is.Cause != was.Cause || is.Timeout != was.Timeout || is.Comment != was.Comment {
			l.T.Errorf("the ban of %s is %s, was %s", key, is.text(), was.text())
		}
		if is.Remaining > was.Remaining || is.Remaining < was.Remaining-elapsed {
			l.T.Errorf("the ban of %s ends in %v, %v before that it was %v", key, is.Remaining, elapsed, was.Remaining)
		}
	}
}

// text says all about an entry.
func (e Entry) text() string {
	return fmt.Sprintf("%s in %s by step %d, cause %q, %v of %v, %q", e.Interval, e.Set, e.Step, e.Cause, e.Remaining, e.Timeout, e.Comment)
}

// someBans are bans of every kind.
func someBans() []Record {
	ban := func(p string, timeout, remaining time.Duration, comment string) Record {
		return Record{Source: prefix(p), Banned: true, Timeout: timeout, Remaining: remaining, Comment: comment}
	}
	twice := ban("198.51.100.2/32", 48*time.Hour, 90*time.Minute, "")
	twice.Step, twice.StepRemaining = 2, 900*time.Hour
	scanner := ban("198.51.100.22/32", 8*time.Hour, 8*time.Hour, "")
	scanner.Step, scanner.StepRemaining, scanner.Cause = 1, 900*time.Hour, CauseScan
	twice6 := ban("2001:db8:2:2::/64", 48*time.Hour, 47*time.Hour, "")
	twice6.Step, twice6.StepRemaining = 2, 900*time.Hour
	return []Record{
		twice, scanner, twice6,
		ban("198.51.100.3/32", 0, 0, "for ever"),
		ban("203.0.113.0/25", time.Hour, time.Hour, ""), ban("203.0.113.128/26", 0, 0, ""),
		ban("2001:db8:f00::/40", time.Hour, time.Hour, "net"), ban("2001:db8:3:3::3/128", time.Hour, time.Minute, "one"),
	}
}

// someBanned are addresses that someBans ban.
var someBanned = []netip.Addr{
	addr("198.51.100.2"), addr("198.51.100.22"), addr("198.51.100.3"), addr("203.0.113.1"), addr("203.0.113.129"),
	addr("2001:db8:2:2::2"), addr("2001:db8:f01::1"), addr("2001:db8:3:3::3"),
}

// TestReapplyMaxRetry changes how many packets make a ban, and within which
// time.
func TestReapplyMaxRetry(t *testing.T) {
	t.Parallel()
	l := newTrap(t, retrySpec(time.Hour))
	l.families(func(l *fixture, f family) {
		findTime := func(want time.Duration) {
			l.T.Helper()
			src := l.source(f)
			l.Offend(src)
			s := l.open()
			el, err := l.conn.Get(s.Set(f.hits()), nftset.AddrKey(l.key(src)))
			if err != nil {
				l.T.Fatal(err)
			}
			if el.Timeout == 0 { // not told, as it is that of the set
				el.Timeout = s.Set(f.hits()).Timeout
			}
			if el.Timeout != want || el.Remaining > want {
				l.T.Errorf("a trap packet is remembered for %v, want %v", el.Timeout, want)
			}
		}
		bansAt := func(n int) {
			l.T.Helper()
			src := l.source(f)
			for range n - 1 {
				l.Offend(src)
				l.Served(src)
			}
			l.Offend(src)
			l.Cut(src)
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
		if s := l.open(); s.Set("hits4") != nil || s.Set("hits6") != nil {
			l.T.Errorf("sets of hits are still there: %v", s.Sets)
		}
		l.apply(retrySpec(time.Hour))
		findTime(time.Hour)
		bansAt(3)
	})
}

// TestReapplyEditsRanges goes from each list of ranges to each other one, in
// every set of ranges: there is one transaction for all of it, in which a range
// may come that shares its first or last address with one that goes.
func TestReapplyEditsRanges(t *testing.T) {
	t.Parallel()
	l := newTrap(t, trapSpec())
	lists := [][]Ports{
		{{100, 119}}, {{100, 118}}, {{101, 119}}, {{100, 120}}, {{99, 119}}, {{105, 110}}, {{100, 104}, {110, 119}}, {{90, 104}, {115, 130}},
		{{100, 100}}, {{119, 119}}, {{120, 139}}, {{80, 99}}, {{80, 139}}, {{100, 65535}}, {{118, 65535}}, {{1, 119}}, {{1, 65535}}, nil,
	}
	apply := func(ports []Ports) {
		spec := trapSpec()
		spec.TrapTCP, spec.TrapUDP, spec.Whitelist = ports, ports, nil
		for _, p := range ports { // the same shape, in addresses
			for _, at := range []string{"0.0.0.0", "2001::"} {
				spec.Whitelist = append(spec.Whitelist, blocks(addr(at), p)...)
			}
		}
		l.apply(spec)
		if p := l.prepare(spec); !p.Empty() {
			t.Fatalf("to %v there is more to do:\n%s", ports, p)
		}
	}
	for i, from := range lists {
		apply(from)
		for _, to := range lists[i+1:] {
			apply(to)
			apply(from)
		}
	}
}

// blocks returns the ports of a range as networks: of 2^16 IPv4 addresses each,
// or of 2^96 IPv6 ones.
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
