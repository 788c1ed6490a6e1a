package main

import (
	"fmt"

	"github.com/portmon/portmon/nftset"
	"github.com/portmon/portmon/ruleset"
)

// The names of sets are part of portmon's interface: other programs add to them too.
const (
	setWhitelist4 = "whitelist4"
	setWhitelist6 = "whitelist6"
	setBan4       = "ban4"
	setBan6       = "ban6"
	setTrapTCP    = "trap_tcp"
	setTrapUDP    = "trap_udp"
	setHits4      = "hits4" // only there if it takes more than one packet to be banned
)

// banSetTiers are the sets that hold bans, with their tier in the ladder: 0 for the sets of prefixes.
var banSetTiers = func() map[string]int {
	tiers := make(map[string]int)
	for _, family := range []string{"4", "6"} {
		tiers["net"+family] = 0
		tiers["ban"+family] = 1
		for tier := 2; tier <= ruleset.MaxSteps; tier++ {
			tiers[fmt.Sprintf("ban%s_%d", family, tier)] = tier
		}
	}
	return tiers
}()

// banSets calls f for each set that holds bans.
func banSets(s *ruleset.State, f func(set *nftset.Set, tier int)) {
	for i := range s.Sets {
		if tier, ok := banSetTiers[s.Sets[i].Name]; ok {
			f(&s.Sets[i], tier)
		}
	}
}

// expected returns how many bans the kernel counted, or 0 where it does not count.
func expected(s *ruleset.State) int {
	n := 0
	banSets(s, func(set *nftset.Set, _ int) { n += max(set.Count, 0) })
	return n
}

// countListed returns how many entries a list has. If there is nobody above the first tier, nobody can be in two of them, and the
// kernel's own count will do; it may hold bans that ended a moment ago.
func (p *cli) countListed(c *nftset.Conn, s *ruleset.State, only []target) (int, error) {
	fast := len(only) == 0
	banSets(s, func(set *nftset.Set, tier int) {
		if tier == 1 && set.Count < 0 || tier > 1 && set.Count != 0 {
			fast = false
		}
	})
	n := 0
	if fast {
		n = expected(s)
		var err error
		banSets(s, func(set *nftset.Set, tier int) {
			if tier == 0 && err == nil {
				var prefixes int
				prefixes, err = countPrefixes(c, set)
				n += prefixes
			}
		})
		return n, err
	}
	for _, err := range p.selectBans(c, s, only) {
		if err != nil {
			return 0, err
		}
		n++
	}
	return n, nil
}

func countPrefixes(c *nftset.Conn, set *nftset.Set) (int, error) {
	n := 0
	for el, err := range c.Elements(set) {
		if err != nil {
			return 0, err
		}
		n += len(el.Prefixes())
	}
	return n, nil
}

// countSet returns how many elements a set has: the kernel's count, or, where it has none (Linux before 6.16), as many as can be read.
func countSet(c *nftset.Conn, set *nftset.Set) (int, error) {
	if set.Count >= 0 {
		return set.Count, nil
	}
	n := 0
	for _, err := range c.Elements(set) {
		if err != nil {
			return 0, err
		}
		n++
	}
	return n, nil
}

// countBans returns how many bans there are, a source in two tiers counted twice.
func countBans(c *nftset.Conn, t nftset.Table) (n int, err error) {
	sets, err := c.Sets(t)
	if err != nil {
		return 0, err
	}
	for i := range sets {
		if _, ok := banSetTiers[sets[i].Name]; !ok {
			continue
		}
		have, err := countSet(c, &sets[i])
		if err != nil {
			return 0, err
		}
		n += have
	}
	return n, nil
}
