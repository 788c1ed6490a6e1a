package ruleset

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/portmon/portmon/internal/lab"
	"github.com/portmon/portmon/nftset"
)

// field is a small part of the address space of a family, whose addresses are
// looked at one by one.
type field struct {
	name string
	at   func(i int) netip.Addr // for 0 to fieldSize-1
}

const fieldSize = 64

// fields are at the bottom, in the middle and at the top of both families.
var fields = []field{
	{"lowest IPv4", func(i int) netip.Addr { return netip.AddrFrom4([4]byte{0, 0, 0, byte(i)}) }},
	{"across bytes", func(i int) netip.Addr { i += 256 - 32; return netip.AddrFrom4([4]byte{198, 51, byte(i >> 8), byte(i)}) }},
	{"highest IPv4", func(i int) netip.Addr { return netip.AddrFrom4([4]byte{255, 255, 255, byte(192 + i)}) }},
	{"across the halves of IPv6", func(i int) netip.Addr {
		b := [16]byte{0x20, 1, 0xd, 0xb8, 0, 0, 0, 1}
		if i < fieldSize/2 {
			b = [16]byte{0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 255, 255, 255, 255, 255, 255, 255, 255}
			i += 256 - fieldSize/2
		} else {
			i -= fieldSize / 2
		}
		b[15] = byte(i)
		return netip.AddrFrom16(b)
	}},
	{"highest IPv6", func(i int) netip.Addr {
		b := [16]byte{}
		for j := range b {
			b[j] = 255
		}
		b[15] = byte(192 + i)
		return netip.AddrFrom16(b)
	}},
}

// span returns a random part of the field.
func (f field) span(random *rand.Rand) nftset.Element {
	from := random.IntN(fieldSize)
	to := min(fieldSize-1, from+random.IntN(1+random.IntN(fieldSize)))
	return f.of(from, to, time.Duration(random.IntN(5))*time.Hour, fmt.Sprintf("%d to %d", from, to))
}

func (f field) of(from, to int, remaining time.Duration, comment string) nftset.Element {
	iv := nftset.Interval{From: nftset.AddrKey(f.at(from)), To: nftset.AddrKey(f.at(to))}
	return banOfSpan(iv, remaining, comment)
}

// banOfSpan returns a ban of 6 hours, or for ever if there is nothing left.
func banOfSpan(iv nftset.Interval, remaining time.Duration, comment string) nftset.Element {
	el := nftset.Element{Interval: iv, Remaining: remaining, Comment: comment}
	if remaining > 0 {
		el.Timeout = 6 * time.Hour
	}
	return el
}

// longestAt asks the spans one by one: the remaining time of the longest that
// holds an address, 0 if none does.
func longestAt(spans []nftset.Element, a netip.Addr) time.Duration {
	var longest time.Duration
	for _, s := range spans {
		if s.Contains(nftset.AddrKey(a)) {
			longest = max(longest, lasts(s))
		}
	}
	return longest
}

// checkFlat fails the test unless spans are in order and apart, and made of
// nothing but what they were cut from.
func checkFlat(t *testing.T, spans, from []nftset.Element) {
	t.Helper()
	for i, s := range spans {
		if s.To.Compare(s.From) < 0 {
			t.Fatalf("%v of %v ends before it begins", s, spans)
		}
		if i > 0 && spans[i-1].To.Compare(s.From) >= 0 {
			t.Fatalf("%v and %v overlap, or are not in order", spans[i-1], s)
		}
		if !slices.ContainsFunc(from, func(o nftset.Element) bool {
			return o.Covers(s.Interval) && o.Remaining == s.Remaining && o.Timeout == s.Timeout && o.Comment == s.Comment
		}) {
			t.Fatalf("%+v is a part of none of %+v", s, from)
		}
	}
}

// TestFlatten compares, address by address, with what asks all spans.
func TestFlatten(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	random := rand.New(rand.NewPCG(seed, 0))
	t.Logf("seed %d", seed)
	for round := range 10_000 {
		f := fields[round%len(fields)]
		var spans []nftset.Element
		for range random.IntN(12) {
			spans = append(spans, f.span(random))
		}
		before := slices.Clone(spans)
		flat := flatten(spans)
		if !slices.Equal(spans, before) {
			t.Fatalf("flatten changed its argument from %v to %v", before, spans)
		}
		checkFlat(t, flat, spans)
		for i := range fieldSize {
			a := f.at(i)
			if got, want := longestAt(flat, a), longestAt(spans, a); got != want {
				t.Fatalf("%s: %v is banned for %v, want %v; of %v came %v", f.name, a, got, want, spans, flat)
			}
		}
		if again := flatten(flat); !slices.Equal(again, flat) {
			t.Fatalf("what is flat, %v, becomes %v", flat, again)
		}
		if len(flat) > max(1, 2*len(spans)) {
			t.Fatalf("%d spans were cut into %d: %v", len(spans), len(flat), flat)
		}
	}
}

// TestReplace adds to a set: what has the same addresses is replaced, whatever
// its time, and everything else stays as long as it would have.
func TestReplace(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	random := rand.New(rand.NewPCG(seed, 0))
	t.Logf("seed %d", seed)
	for round := range 5_000 {
		f := fields[round%len(fields)]
		var have, added []nftset.Element
		for range random.IntN(8) {
			have = append(have, f.span(random))
		}
		have = flatten(have)
		for range 1 + random.IntN(3) {
			added = append(added, f.span(random))
		}
		if len(have) > 0 && random.IntN(3) == 0 {
			again := have[random.IntN(len(have))]
			added = append(added, banOfSpan(again.Interval, time.Duration(random.IntN(5))*time.Hour, "again"))
		}
		want := replace(have, added)
		checkFlat(t, want, slices.Concat(have, added))
		kept := slices.DeleteFunc(slices.Clone(have), func(h nftset.Element) bool {
			return slices.ContainsFunc(added, func(a nftset.Element) bool { return a.Interval == h.Interval })
		})
		for i := range fieldSize {
			a := f.at(i)
			if got, want := longestAt(want, a), max(longestAt(kept, a), longestAt(added, a)); got != want {
				t.Fatalf("%s: %v is banned for %v, want %v; %v and %v", f.name, a, got, want, have, added)
			}
		}

		// The changes that lead there.
		gone, more := apart(have, want, compareBans)
		result := slices.DeleteFunc(slices.Clone(have), func(h nftset.Element) bool { return slices.Contains(gone, h) })
		if n := len(have) - len(gone); len(result) != n {
			t.Fatalf("of %v must go what is not there: %v", have, gone)
		}
		result = append(result, more...)
		slices.SortFunc(result, func(a, b nftset.Element) int { return a.Compare(b.Interval) })
		if !slices.Equal(result, want) {
			t.Fatalf("%v without %v and with %v is not %v", have, gone, more, want)
		}
		for _, s := range gone {
			if slices.Contains(want, s) {
				t.Fatalf("%v goes and comes again: from %v to %v", s, have, want)
			}
		}
	}
}

// TestFlattenMany is quadratic nowhere.
func TestFlattenMany(t *testing.T) {
	const n = 200_000
	var spans []nftset.Element
	for i := range n {
		a := netip.AddrFrom4([4]byte{byte(i >> 16), byte(i >> 8), byte(i), 0})
		spans = append(spans, banOfSpan(nftset.Prefix(netip.PrefixFrom(a, 24)).Interval, time.Duration(i%7)*time.Minute, ""))
		if i%100 == 0 {
			spans = append(spans, banOfSpan(nftset.Prefix(netip.PrefixFrom(a, 8+i%16)).Interval, time.Second, ""))
		}
	}
	d := work(t, func() {
		if flat := flatten(spans); len(flat) < n {
			t.Errorf("%d spans are left of %d", len(flat), n)
		}
	})
	if d > lab.Patience {
		t.Errorf("it took %v", d)
	}
}
