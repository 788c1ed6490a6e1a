package ruleset

import (
	"iter"
	"net/netip"
	"slices"
	"time"

	"github.com/portmon/portmon/nftset"
)

// Ban is one ban that the kernel holds.
type Ban struct {
	// Interval holds the addresses that are banned.
	nftset.Interval
	// Set is the name of the set that holds the ban, Tier its place in the ladder, from 1; 0 for the sets of prefixes.
	Set  string
	Tier int
	// Timeout is how long the ban is, and Expires how long it still is; 0 means for ever.
	Timeout, Expires time.Duration
	// Comment is what whoever made the ban had to say about it.
	Comment string
}

// Prefix returns the prefix that is banned, and false if the ban is of a range that is none.
func (b Ban) Prefix() (netip.Prefix, bool) { return b.Interval.Prefix() }

// banSets returns the sets that hold bans: for each family the longest tier first, then the sets of prefixes.
func (s *State) banSets() []*nftset.Set {
	var sets []*nftset.Set
	for _, f := range families {
		for tier := MaxSteps; tier >= 0; tier-- {
			name := f.ban(tier)
			if tier == 0 {
				name = f.net()
			}
			if set := s.Set(name); set != nil && set.Type == f.key {
				sets = append(sets, set)
			}
		}
	}
	return sets
}

// Bans streams all bans, one for each source: of a source in several tiers, that of the longest. Errors are those of
// [nftset.Conn.Elements]. The order is that of the kernel.
func (s *State) Bans(c *nftset.Conn) iter.Seq2[Ban, error] {
	return func(yield func(Ban, error) bool) {
		// Only sources above the first tier can come twice. They are few beside those that came once.
		seen := make(map[nftset.Key]struct{})
		for _, set := range s.banSets() {
			_, tier, _ := tierOf(set.Name)
			for el, err := range c.Elements(set) {
				if err != nil {
					yield(Ban{}, err)
					return
				}
				if tier > 0 {
					if _, again := seen[el.From]; again {
						continue
					}
					if tier > 1 {
						seen[el.From] = struct{}{}
					}
				}
				if !yield(s.ban(set, tier, el), nil) {
					return
				}
			}
		}
	}
}

// ban makes a Ban of an element. The keys of the IPv6 tiers are network addresses, which stand for the whole prefix.
func (s *State) ban(set *nftset.Set, tier int, el nftset.Element) Ban {
	b := Ban{Interval: el.Interval, Set: set.Name, Tier: tier, Timeout: el.Timeout, Expires: el.Expires, Comment: el.Comment}
	if b.Timeout == 0 && el.Expires > 0 {
		b.Timeout = set.Timeout
	}
	if tier > 0 && set.Type == nftset.IPv6Addr && s.Prefix6 > 0 {
		b.Interval = nftset.FromPrefix(netip.PrefixFrom(el.From.Addr(), s.Prefix6))
	}
	return b
}

// allBans reads every element of every ban set, also those that [State.Bans] passes over. Expires is counted from when it began.
func (s *State) allBans(c *nftset.Conn) ([]Ban, error) {
	var bans []Ban
	start := time.Now()
	for _, set := range s.banSets() {
		_, tier, _ := tierOf(set.Name)
		for el, err := range c.Elements(set) {
			if err != nil {
				return nil, err
			}
			if el.Expires > 0 {
				el.Expires += time.Since(start)
			}
			bans = append(bans, s.ban(set, tier, el))
		}
	}
	return bans, nil
}

// retired returns the sets of tiers that the ladder no longer has, if they hold bans.
func (s *State) retired(c *nftset.Conn, tiers int) ([]nftset.Set, error) {
	var out []nftset.Set
	for _, set := range s.banSets() {
		if _, tier, _ := tierOf(set.Name); tier <= tiers {
			continue
		}
		n := 0
		for _, err := range c.Elements(set) {
			if err != nil {
				return nil, err
			}
			n++
		}
		if n > 0 {
			out = append(out, *set)
		}
	}
	return slices.Clip(out), nil
}
