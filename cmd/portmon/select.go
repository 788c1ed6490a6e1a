package main

import (
	"fmt"
	"iter"
	"net/netip"
	"slices"

	"github.com/portmon/portmon/nftset"
	"github.com/portmon/portmon/ruleset"
)

// selectBans streams the bans that cover one of the targets or lie within it; all bans, if there are no targets.
func (p *cli) selectBans(c *nftset.Conn, s *ruleset.State, only []target) iter.Seq2[entry, error] {
	return func(yield func(entry, error) bool) {
		bans := s.Bans(c)
		if len(only) > 0 && !slices.ContainsFunc(only, func(t target) bool { return !t.prefix.IsSingleIP() }) {
			bans = lookUp(c, s, only)
		}
		for b, err := range bans {
			if err != nil {
				yield(entry{}, err)
				return
			}
			more := true
			entries(b, p.now(), func(e entry) {
				more = more && (!wanted(e.prefix, only) || yield(e, nil))
			})
			if !more {
				return
			}
		}
	}
}

func wanted(p netip.Prefix, only []target) bool {
	return len(only) == 0 || slices.ContainsFunc(only, func(t target) bool { return t.prefix.Overlaps(p) })
}

// lookUp is State.Bans for addresses, of which the kernel can be asked one by one.
func lookUp(c *nftset.Conn, s *ruleset.State, addrs []target) iter.Seq2[ruleset.Ban, error] {
	return func(yield func(ruleset.Ban, error) bool) {
		seen := make(map[ruleset.Ban]bool)
		for _, a := range addrs {
			st, err := s.Lookup(c, a.prefix.Addr())
			if err != nil {
				yield(ruleset.Ban{}, fmt.Errorf("look up %s: %w", a.text, err))
				return
			}
			for _, b := range longest(st.Bans) {
				key := ruleset.Ban{Interval: b.Interval, Set: b.Set}
				if seen[key] {
					continue
				}
				seen[key] = true
				if !yield(b, nil) {
					return
				}
			}
		}
	}
}

// longest returns the bans of one address, the longest tier first, without those of the tiers below it.
func longest(bans []ruleset.Ban) []ruleset.Ban {
	tier := 0
	return slices.DeleteFunc(slices.Clone(bans), func(b ruleset.Ban) bool {
		below := b.Tier > 0 && tier > 0
		tier = max(tier, b.Tier)
		return below
	})
}
