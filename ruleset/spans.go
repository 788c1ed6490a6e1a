package ruleset

import (
	"cmp"
	"slices"
	"time"

	"github.com/portmon/portmon/nftset"
)

// forever is the remaining time, within this file, of a ban that does not end.
const forever = time.Duration(1<<63 - 1)

// span is a range of addresses that is banned for a time.
type span struct {
	nftset.Interval
	timeout   time.Duration // what it was to be in all, 0 for ever
	remaining time.Duration // forever, or what is left
	comment   string
}

// spanOf returns the span of a ban, whose remaining is 0 if it never ends.
func spanOf(iv nftset.Interval, timeout, remaining time.Duration, comment string) span {
	if remaining <= 0 {
		return span{iv, 0, forever, comment}
	}
	return span{iv, max(timeout, remaining), remaining, comment}
}

// element returns the span as an element of a set of prefixes.
func (s span) element() nftset.Element {
	el := nftset.Element{Interval: s.Interval, Comment: s.comment}
	if s.remaining != forever {
		el.Timeout, el.Remaining = s.timeout, s.remaining
	}
	return el
}

// flatten cuts spans, which may overlap in any way, into some that do not: each
// address is banned for as long as the longest of the spans that it is in. The
// kernel refuses overlaps in a set.
func flatten(spans []span) []span {
	sorted := slices.SortedStableFunc(slices.Values(spans), func(a, b span) int { return a.Compare(b.Interval) })
	var (
		out  []span
		of   = -1       // index of the span that the last of out is cut from
		open []int      // indexes of spans that begin at or before the address at which we are
		at   nftset.Key // all addresses before it are dealt with
	)
	for i := 0; i < len(sorted) || len(open) > 0; {
		if len(open) == 0 {
			at = sorted[i].From
		}
		for ; i < len(sorted) && sorted[i].From == at; i++ {
			open = append(open, i)
		}
		top := slices.MaxFunc(open, func(a, b int) int { return cmp.Compare(sorted[a].remaining, sorted[b].remaining) })
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

// replace returns the spans of a set after others were added. One of exactly
// the same addresses is replaced, whatever its time.
func replace(have, added []span) []span {
	again := make(map[nftset.Interval]bool, len(added))
	for _, s := range added {
		again[s.Interval] = true
	}
	all := slices.Clone(added)
	for _, s := range have {
		if !again[s.Interval] {
			all = append(all, s)
		}
	}
	return flatten(all)
}

// changes returns what must be deleted from a set and added to it for it to
// hold want. Both lists are sorted, and have no overlaps.
func changes(have, want []span) (gone, added []span) {
	for len(have) > 0 || len(want) > 0 {
		switch {
		case len(want) == 0 || len(have) > 0 && have[0].Compare(want[0].Interval) < 0:
			gone, have = append(gone, have[0]), have[1:]
		case len(have) == 0 || have[0].Compare(want[0].Interval) > 0:
			added, want = append(added, want[0]), want[1:]
		default:
			if have[0] != want[0] {
				gone, added = append(gone, have[0]), append(added, want[0])
			}
			have, want = have[1:], want[1:]
		}
	}
	return gone, added
}
