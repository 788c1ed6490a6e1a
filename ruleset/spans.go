package ruleset

import (
	"cmp"
	"slices"
	"time"

	"github.com/portmon/portmon/nftset"
)

// lasts returns how long a ban still lasts.
func lasts(ban nftset.Element) time.Duration {
	if ban.Remaining == 0 {
		return 1<<63 - 1
	}
	return ban.Remaining
}

// flatten cuts bans, which may overlap in any way, into some that do not: each
// address is banned for as long as the longest of the bans that it is in. The
// kernel refuses overlaps in a set.
func flatten(bans []nftset.Element) []nftset.Element { return cut(bans, compareLasts) }

func compareLasts(a, b nftset.Element) int { return cmp.Compare(lasts(a), lasts(b)) }

// cut is flatten with another way to compare which bans go before others. One
// that lasts longer must.
func cut(bans []nftset.Element, compare func(a, b nftset.Element) int) []nftset.Element {
	sorted := slices.SortedFunc(slices.Values(bans), compareBans)
	var (
		out  []nftset.Element
		of   = -1       // index of the ban that the last of out is cut from
		open []int      // indexes of those that begin at or before the address at which we are
		at   nftset.Key // all addresses before it are dealt with
	)
	for i := 0; i < len(sorted) || len(open) > 0; {
		if len(open) == 0 {
			at = sorted[i].From
		}
		for ; i < len(sorted) && sorted[i].From == at; i++ {
			open = append(open, i)
		}
		top := slices.MaxFunc(open, func(a, b int) int { return compare(sorted[a], sorted[b]) })
		longest := sorted[top]
		end := longest.To
		if i < len(sorted) && sorted[i].From.Compare(end) <= 0 {
			end = nftset.AddrKey(sorted[i].From.Addr().Prev())
		}
		if of == top {
			out[len(out)-1].To = end // cut for nothing: what began here does not last longer
		} else {
			longest.Interval = nftset.Interval{From: at, To: end}
			out = append(out, longest)
		}
		of = top
		next, ok := end.Next()
		// The longest outlasts those that end before it, so that few are open.
		open = slices.DeleteFunc(open, func(j int) bool {
			return !ok || sorted[j].To.Compare(end) <= 0 || j != top && sorted[j].To.Compare(sorted[top].To) <= 0
		})
		at = next
	}
	return out
}

// kept returns those bans of a set that others do not replace when they are
// added: those of exactly the same addresses are replaced, whatever their time.
func kept(have, added []nftset.Element) []nftset.Element {
	again := make(map[nftset.Interval]bool, len(added))
	for _, ban := range added {
		again[ban.Interval] = true
	}
	return slices.DeleteFunc(slices.Clone(have), func(ban nftset.Element) bool { return again[ban.Interval] })
}

// replace returns the bans of a set after others were added.
func replace(have, added []nftset.Element) []nftset.Element {
	return flatten(append(kept(have, added), added...))
}

// compareBans orders bans by their addresses, then by all else.
func compareBans(a, b nftset.Element) int {
	return cmp.Or(a.Compare(b.Interval), cmp.Compare(a.Timeout, b.Timeout), cmp.Compare(a.Remaining, b.Remaining),
		cmp.Compare(a.Comment, b.Comment))
}

// compareIgnoringTime is compareBans for bans that are the same whatever they have
// left.
func compareIgnoringTime(a, b nftset.Element) int {
	return cmp.Or(a.Compare(b.Interval), cmp.Compare(a.Comment, b.Comment))
}

// apart returns what only one of two sorted lists has.
func apart[T any](a, b []T, compare func(T, T) int) (onlyA, onlyB []T) {
	for len(a) > 0 || len(b) > 0 {
		switch {
		case len(b) == 0 || len(a) > 0 && compare(a[0], b[0]) < 0:
			onlyA, a = append(onlyA, a[0]), a[1:]
		case len(a) == 0 || compare(a[0], b[0]) > 0:
			onlyB, b = append(onlyB, b[0]), b[1:]
		default:
			a, b = a[1:], b[1:]
		}
	}
	return onlyA, onlyB
}
