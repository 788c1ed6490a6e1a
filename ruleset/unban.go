package ruleset

import (
	"errors"
	"iter"
	"net/netip"
	"os"
	"slices"

	"github.com/portmon/portmon/nftset"
)

// fewAddresses is up to how many addresses are asked for one by one, in place of
// reading whole sets.
const fewAddresses = 4096

// Unban lifts the bans of prefixes and of all that is within them, and forgets
// what is remembered of their sources: steps, and what counts towards an
// offence. It returns the bans that it lifted, and those of larger prefixes
// that cover one of ps and stay.
func (h *Handle) Unban(ps ...netip.Prefix) (lifted, covered []Entry, err error) {
	wanted := intervalsOf(ps)
	for _, f := range families {
		all := wanted[f.key]
		if len(all) == 0 {
			continue
		}
		for _, set := range h.memorySets(f) {
			role, _ := RoleOf(set.Name)
			var gone []nftset.Interval
			for el, err := range h.within(set, all) {
				if err != nil {
					return lifted, covered, err
				}
				e, _ := h.Entry(set.Name, el)
				_, inside := coveredBy(all, h.addresses(role, el.Interval))
				switch {
				case inside || role == RoleNone:
					gone = append(gone, el.Interval)
					if role.Bans() {
						lifted = append(lifted, e)
					}
				case role.Bans():
					covered = append(covered, e)
				}
			}
			if err := h.remove(set, gone); err != nil {
				return lifted, covered, err
			}
		}
	}
	return lifted, covered, h.TidyNets()
}

// coveredBy returns the interval of a merged list that has all addresses of
// another, if there is one.
func coveredBy(merged []nftset.Interval, iv nftset.Interval) (around nftset.Interval, ok bool) {
	around, ok = nftset.Find(merged, iv.From)
	return around, ok && around.Covers(iv)
}

// memorySets returns all sets of a family that remember sources by keys of
// their own, those of bans first.
func (s *State) memorySets(f family) []*nftset.Set {
	sets := slices.DeleteFunc(s.roleSets(allRoles...), func(set *nftset.Set) bool { return set.Type != f.key })
	for _, name := range []string{f.score(), f.hits()} {
		if set := s.Set(name); set != nil && set.Type == f.key {
			sets = append(sets, set)
		}
	}
	return sets
}

// within yields the elements of a set that are about addresses of a merged
// list. If these are few, the kernel is asked for them; otherwise the set is
// read.
func (h *Handle) within(set *nftset.Set, merged []nftset.Interval) iter.Seq2[nftset.Element, error] {
	role, _ := RoleOf(set.Name)
	source := h.c.Elements(set)
	if keys, few := h.keysIn(set, merged); few {
		source = h.c.GetMany(set, slices.Values(keys))
	}
	return func(yield func(nftset.Element, error) bool) {
		for el, err := range source {
			if err == nil && !overlapsAny(merged, h.addresses(role, el.Interval)) {
				continue
			}
			if !yield(el, err) {
				return
			}
		}
	}
}

// overlapsAny reports whether an interval overlaps one of a merged list.
func overlapsAny(merged []nftset.Interval, iv nftset.Interval) bool {
	i, _ := slices.BinarySearchFunc(merged, iv.From, func(m nftset.Interval, k nftset.Key) int { return m.To.Compare(k) })
	return i < len(merged) && merged[i].Overlaps(iv)
}

// keysIn returns the keys of a set that can be about addresses in the
// intervals, each once, and false if they are not few.
func (s *State) keysIn(set *nftset.Set, ivs []nftset.Interval) (keys []nftset.Key, few bool) {
	if set.Flags&nftset.FlagInterval != 0 {
		return nil, false
	}
	role, _ := RoleOf(set.Name)
	for _, iv := range ivs {
		for _, p := range iv.Prefixes() {
			if len(keys) > fewAddresses {
				return nil, false
			}
			switch a, f := p.Addr(), familyOfAddr(p.Addr()); {
			case role == RoleSubnet && p.Bits() >= f.subnetLen:
				keys = append(keys, networkKey(a, f.subnetLen))
			case p.IsSingleIP():
				keys = append(keys, s.keys(a)...)
			case role == RoleSubnet || a.Is6() || 1<<(a.BitLen()-p.Bits()) > fewAddresses:
				return nil, false
			default:
				for ; p.Contains(a); a = a.Next() {
					keys = append(keys, nftset.AddrKey(a))
				}
			}
		}
	}
	slices.SortFunc(keys, nftset.Key.Compare)
	return slices.Compact(keys), true
}

// remove deletes elements, in one transaction if all are there; those that have
// expired meanwhile are passed over.
func (h *Handle) remove(set *nftset.Set, keys []nftset.Interval) error {
	for batch := range slices.Chunk(keys, nftset.BatchSize) {
		err := h.delete(set, batch)
		if errors.Is(err, os.ErrNotExist) {
			err = nil
			for i := range batch {
				if e := h.delete(set, batch[i:i+1]); !errors.Is(e, os.ErrNotExist) {
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

func (h *Handle) delete(set *nftset.Set, keys []nftset.Interval) error {
	tx := &nftset.Tx{}
	tx.DeleteSeq(set, bare(keys))
	return h.c.Commit(tx)
}

// UnbanAll lifts all bans at once, and forgets all that is remembered of
// sources.
func (h *Handle) UnbanAll() error {
	tx := &nftset.Tx{}
	for _, f := range families {
		for _, set := range h.memorySets(f) {
			tx.FlushSet(set)
		}
		for _, name := range []string{f.crowd(), f.probed()} {
			if set := h.Set(name); set != nil {
				tx.FlushSet(set)
			}
		}
	}
	if err := h.c.Commit(tx); err != nil {
		return err
	}
	return h.TidyNets()
}

// UnbanWhere lifts the bans for which f is true, forgets what is remembered of
// their sources, and returns how many bans there were.
func (h *Handle) UnbanWhere(f func(Entry) bool) (n int, err error) {
	gone := make(map[string][]nftset.Interval)
	for e, err := range h.Bans() {
		if err != nil {
			return 0, err
		}
		if !f(e) {
			continue
		}
		n++
		gone[e.Set] = append(gone[e.Set], e.key())
	}
	for _, set := range h.roleSets(RoleBan, RoleSubnet, RoleNet) {
		if err := h.remove(set, gone[set.Name]); err != nil {
			return n, err
		}
		if set.Flags&nftset.FlagInterval != 0 {
			continue
		}
		keys := make([]nftset.Key, len(gone[set.Name]))
		for i, iv := range gone[set.Name] {
			keys[i] = iv.From
		}
		for _, memory := range h.memorySets(familyOf(set.Type)) {
			if role, _ := RoleOf(memory.Name); role.Bans() {
				continue
			}
			var there []nftset.Interval
			for el, err := range h.c.GetMany(memory, slices.Values(keys)) {
				if err != nil {
					return n, err
				}
				there = append(there, el.Interval)
			}
			if err := h.remove(memory, there); err != nil {
				return n, err
			}
		}
	}
	return n, h.TidyNets()
}
