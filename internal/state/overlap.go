package state

import (
	"cmp"
	"net/netip"
	"slices"
)

// mergePrefixes takes bans of prefixes into those of larger ones around them, which then last as long as the longest: the sets of
// prefixes take no overlaps. Bans do not overlap when they are saved, but a file can be edited, and the length of the networks by
// which IPv6 is banned can change.
func (r *restorer) mergePrefixes() {
	prefixes := slices.DeleteFunc(slices.Clone(r.Bans), func(b Ban) bool { return b.Tier > 0 })
	if len(prefixes) < 2 {
		return
	}
	r.Bans = slices.DeleteFunc(r.Bans, func(b Ban) bool { return b.Tier == 0 })
	slices.SortFunc(prefixes, func(a, b Ban) int { return comparePrefixes(a.Prefix, b.Prefix) })
	for _, b := range prefixes {
		// Sorted like this, the ban before is the only one that can be around it.
		if n := len(r.Bans); n > 0 && r.Bans[n-1].Tier == 0 && r.Bans[n-1].Prefix.Overlaps(b.Prefix) {
			if outer := &r.Bans[n-1]; longer(b, *outer) {
				outer.Timeout, outer.Left = b.Timeout, b.Left
			}
			continue
		}
		r.Bans = append(r.Bans, b)
	}
}

// comparePrefixes orders by address, and puts the larger prefix first.
func comparePrefixes(a, b netip.Prefix) int {
	return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
}
