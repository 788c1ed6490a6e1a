package nftset

import (
	"cmp"
	"math/bits"
	"net/netip"
	"slices"
)

// Interval is the keys from From to To, both of them included, of one type.
// From must not be higher than To. More than one key it holds of addresses and
// of ports only: what the kernel calls an interval of a concatenation is not
// one of keys that follow each other, and this package neither reads nor writes
// those.
type Interval struct{ From, To Key }

// setLow returns k with its n lowest bits set.
func (k Key) setLow(n int) Key {
	if n > 64 {
		k.hi, k.lo = k.hi|(1<<(n-64)-1), ^uint64(0)
		return k
	}
	k.lo |= 1<<n - 1 // a shift by 64 gives 0 in Go, so n == 64 sets all of lo
	return k
}

// IsSingle reports whether the interval holds one key only.
func (iv Interval) IsSingle() bool { return iv.From == iv.To }

// Contains reports whether k lies in the interval.
func (iv Interval) Contains(k Key) bool { return iv.From.Compare(k) <= 0 && k.Compare(iv.To) <= 0 }

// Covers reports whether all keys of o lie in the interval.
func (iv Interval) Covers(o Interval) bool { return iv.Contains(o.From) && iv.Contains(o.To) }

// Overlaps reports whether the intervals have a key in common.
func (iv Interval) Overlaps(o Interval) bool {
	return iv.From.Compare(o.To) <= 0 && o.From.Compare(iv.To) <= 0
}

// Compare orders intervals by their first key, then by their last.
func (iv Interval) Compare(o Interval) int {
	return cmp.Or(iv.From.Compare(o.From), iv.To.Compare(o.To))
}

// Prefix returns the prefix that has exactly the interval's addresses, and
// false if there is no such prefix.
func (iv Interval) Prefix() (netip.Prefix, bool) {
	if !iv.From.typ.isAddr() {
		return netip.Prefix{}, false
	}
	a := iv.From.Addr()
	n := iv.hostBits()
	if iv.From.setLow(n) != iv.To {
		return netip.Prefix{}, false
	}
	return netip.PrefixFrom(a, a.BitLen()-n), true
}

// hostBits returns the size in bits of the largest aligned block that starts at
// From and ends at or before To.
func (iv Interval) hostBits() int {
	n := bits.TrailingZeros64(iv.From.lo)
	if n == 64 {
		n += bits.TrailingZeros64(iv.From.hi)
	}
	n = min(n, 8*iv.From.typ.Len())
	for n > 0 && iv.From.setLow(n).Compare(iv.To) > 0 {
		n--
	}
	return n
}

// Prefixes returns the fewest prefixes that together hold exactly the
// interval's addresses, in order; none for keys that are not addresses alone.
func (iv Interval) Prefixes() []netip.Prefix {
	var out []netip.Prefix
	for more := iv.From.typ.isAddr(); more && iv.From.Compare(iv.To) <= 0; {
		a, n := iv.From.Addr(), iv.hostBits()
		out = append(out, netip.PrefixFrom(a, a.BitLen()-n))
		iv.From, more = iv.From.setLow(n).Next()
	}
	return out
}

// String returns the interval as nft writes it: "192.0.2.1", "192.0.2.0/24" or
// "192.0.2.1-192.0.2.9".
func (iv Interval) String() string {
	if iv.IsSingle() {
		return iv.From.String()
	}
	if p, ok := iv.Prefix(); ok {
		return p.String()
	}
	return iv.From.String() + "-" + iv.To.String()
}

// Merge returns the fewest intervals that hold the same keys: sorted, none
// overlapping, none adjacent. The argument is not changed. This is what the
// kernel needs (it refuses overlaps and merges nothing) and what nft's
// auto-merge makes.
func Merge(ivs []Interval) []Interval {
	if len(ivs) == 0 {
		return nil
	}
	out := slices.Clone(ivs)
	slices.SortFunc(out, Interval.Compare)
	n := 0
	for _, iv := range out[1:] {
		last := &out[n]
		next, ok := last.To.Next()
		switch {
		case last.To.typ == iv.From.typ && (!ok || iv.From.Compare(next) <= 0):
			if last.To.Compare(iv.To) < 0 {
				last.To = iv.To
			}
		default:
			n++
			out[n] = iv
		}
	}
	return out[:n+1]
}

// Find returns the interval of merged that k lies in. merged must be as [Merge]
// returns it.
func Find(merged []Interval, k Key) (Interval, bool) {
	i, _ := slices.BinarySearchFunc(merged, k, func(iv Interval, k Key) int { return iv.To.Compare(k) })
	if i < len(merged) && merged[i].Contains(k) {
		return merged[i], true
	}
	return Interval{}, false
}
