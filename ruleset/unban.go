package ruleset

import (
	"errors"
	"net/netip"
	"os"
	"slices"

	"github.com/portmon/portmon/nftset"
)

// Unban lifts the bans of a prefix and of all that is within it, and what its sources have collected towards one, and returns the
// bans that it lifted. A ban of a larger prefix stays; inside returns it, because the addresses are still banned by it.
func (s *State) Unban(c *nftset.Conn, p netip.Prefix) (lifted []Ban, inside *Ban, err error) {
	iv := nftset.FromPrefix(p)
	for _, set := range append(s.banSets(), s.hitSets()...) {
		if set.Type != iv.From.Type() {
			continue
		}
		_, tier, isBan := tierOf(set.Name)
		bans, err := s.within(c, set, tier, p)
		if err != nil {
			return lifted, inside, err
		}
		var keys []nftset.Element
		for _, b := range bans {
			switch {
			case !iv.Covers(b.Interval):
				inside = &b
			case set.Flags&nftset.FlagInterval == 0:
				keys = append(keys, nftset.Element{Interval: nftset.Single(b.From)})
			default:
				keys = append(keys, nftset.Element{Interval: b.Interval})
			}
			if isBan && iv.Covers(b.Interval) {
				lifted = append(lifted, b)
			}
		}
		if err := remove(c, set, keys); err != nil {
			return lifted, inside, err
		}
	}
	return lifted, inside, nil
}

// within returns the bans of a set that overlap a prefix. For a single source the kernel is asked for it; for more the set is read.
func (s *State) within(c *nftset.Conn, set *nftset.Set, tier int, p netip.Prefix) ([]Ban, error) {
	hits := tier == 0 && set.Flags&nftset.FlagInterval == 0
	if hits {
		tier = 1 // the same keys
	}
	if tier > 0 && p == s.Source(p.Addr()) {
		el, err := c.Get(set, s.tierKey(tier, p.Addr()))
		if errors.Is(err, os.ErrNotExist) {
			return nil, nil
		}
		return []Ban{s.ban(set, tier, el)}, err
	}
	var bans []Ban
	for el, err := range c.Elements(set) {
		if err != nil {
			return nil, err
		}
		if b := s.ban(set, tier, el); b.Overlaps(nftset.FromPrefix(p)) {
			bans = append(bans, b)
		}
	}
	return bans, nil
}

// remove deletes elements, in one transaction if all are there; if some have expired meanwhile, one by one.
func remove(c *nftset.Conn, set *nftset.Set, keys []nftset.Element) error {
	for batch := range slices.Chunk(keys, nftset.BatchSize) {
		tx := &nftset.Tx{}
		tx.DeleteElements(set, nftset.Each(batch...))
		err := c.Commit(tx)
		if errors.Is(err, os.ErrNotExist) {
			err = nil
			for _, k := range batch {
				tx := &nftset.Tx{}
				tx.DeleteElements(set, nftset.Each(k))
				if e := c.Commit(tx); e != nil && !errors.Is(e, os.ErrNotExist) {
					err = errors.Join(err, e)
				}
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// UnbanAll lifts all bans at once, and what sources have collected towards one.
func (s *State) UnbanAll(c *nftset.Conn) error {
	tx := &nftset.Tx{}
	for _, set := range append(s.banSets(), s.hitSets()...) {
		tx.FlushSet(set)
	}
	return c.Commit(tx)
}

// UnbanWhere lifts the bans for which f is true, and returns how many: those of a source in several tiers one by one.
func (s *State) UnbanWhere(c *nftset.Conn, f func(Ban) bool) (n int, err error) {
	for _, set := range s.banSets() {
		_, tier, _ := tierOf(set.Name)
		var keys []nftset.Element
		for el, err := range c.Elements(set) {
			if err != nil {
				return n, err
			}
			if f(s.ban(set, tier, el)) {
				keys = append(keys, nftset.Element{Interval: el.Interval})
			}
		}
		if err := remove(c, set, keys); err != nil {
			return n, err
		}
		n += len(keys)
	}
	return n, nil
}

// hitSets returns the sets that count the trap packets of sources not banned yet.
func (s *State) hitSets() []*nftset.Set {
	var sets []*nftset.Set
	for _, f := range families {
		if set := s.Set(f.hits()); set != nil && set.Type == f.key {
			sets = append(sets, set)
		}
	}
	return sets
}
