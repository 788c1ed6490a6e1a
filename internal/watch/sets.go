package watch

import (
	"net/netip"

	"github.com/portmon/portmon/nftset"
	"github.com/portmon/portmon/ruleset"
)

// banSets returns all sets that may hold bans, of tiers that there are and of others: a configuration that comes later may have them.
// The longest tier is first, so that a dump tells first what says most about a source.
func banSets(table nftset.Table) []nftset.Set {
	var sets []nftset.Set
	for _, any := range [...]netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()} {
		for tier := ruleset.MaxSteps; tier >= 0; tier-- {
			s := nftset.Set{
				Table: table, Name: ruleset.BanSet(any, tier), Type: nftset.AddrKey(any).Type(), Flags: nftset.FlagTimeout,
			}
			if tier == 0 {
				s.Flags |= nftset.FlagInterval
			}
			sets = append(sets, s)
		}
	}
	return sets
}

// isTier reports whether a set is that of a tier, and not of prefixes.
func isTier(set string) bool {
	tier, _ := ruleset.Tier(set)
	return tier > 0
}
