package bench

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/portmon/portmon/ruleset"
)

// All must be able to be banned: none may be whitelisted, nor be in another.
func TestBansAreDisjoint(t *testing.T) {
	var sources []netip.Prefix
	for _, a := range slices.Concat(sources4(100_000), sources6(100_000)) {
		sources = append(sources, netip.PrefixFrom(a, min(a.BitLen(), 48)))
	}
	for _, list := range [][]netip.Prefix{prefixes4(50_000), prefixes6(50_000), sources} {
		slices.SortFunc(list, func(a, b netip.Prefix) int { return a.Addr().Compare(b.Addr()) })
		for i, p := range list {
			if i > 0 && p.Overlaps(list[i-1]) || slices.ContainsFunc(ruleset.Default().Whitelist, p.Overlaps) {
				t.Fatalf("%v overlaps %v, or is whitelisted", p, list[max(i-1, 0)])
			}
		}
	}
}
