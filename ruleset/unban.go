package ruleset

import (
	"errors"
	"iter"
	"net/netip"
	"os"
	"slices"

	"github.com/portmon/portmon/nftset"
)

// fewAddresses is up to how many addresses of a prefix are asked for one by one,
// in place of reading whole sets.
const fewAddresses = 4096

// Unban lifts the bans of prefixes and of all that is within them, and forgets
// what is remembered of their sources: steps, and what counts towards an
// offence. It returns the bans that it lifted, and those of larger prefixes
// that cover one of ps and stay.
func (h *Handle) Unban(ps ...netip.Prefix) (lifted, covered []Entry, err error) {
	wanted := make(map[family][]nftset.Interval)
	for _, p := range ps {
		iv := nftset.Prefix(p).Interval
		f := familyOf(iv.From.Type())
		wanted[f] = append(wanted[f], iv)
	}
	for _, f := range families {
		if len(wanted[f]) == 0 {
			continue
		}
		all := nftset.Merge(wanted[f])
		for _, set := range h.memorySets(f) {
			role, _ := RoleOf(set.Name)
			var gone []nftset.Interval
			for el, err := range h.within(set, wanted[f]...) {
				if err != nil {
					return lifted, covered, err
				}
				e, ok := h.Entry(set.Name, el)
				if !ok {
					e = Entry{Interval: el.Interval, Set: set.Name}
				}
				around, found := nftset.Find(all, e.From)
				switch {
				case found && around.Covers(e.Interval) || role == RoleNone:
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
	return lifted, covered, h.dropNetRules()
}

// memorySets returns all sets of a family that remember sources by keys of their
// own, those of bans first.
func (s *State) memorySets(f family) []*nftset.Set {
	sets := slices.DeleteFunc(s.roleSets(allRoles...), func(set *nftset.Set) bool { return set.Type != f.key })
	for _, name := range []string{f.score(), f.hits()} {
		if set := s.Set(name); set != nil && set.Type == f.key {
			sets = append(sets, set)
		}
	}
	return sets
}

// within yields the elements of a set that overlap one of some intervals. If
// these have few addresses each, the kernel is asked for them; otherwise the set
// is read.
func (h *Handle) within(set *nftset.Set, ivs ...nftset.Interval) iter.Seq2[nftset.Element, error] {
	return func(yield func(nftset.Element, error) bool) {
		source := h.c.Elements(set)
		if keys, ok := h.fewKeysOf(set, ivs); ok {
			source = h.c.GetMany(set, slices.Values(keys))
		}
		all := nftset.Merge(ivs)
		for el, err := range source {
			if err == nil {
				e, ok := h.Entry(set.Name, el)
				if !ok {
					e.Interval = h.memoryOf(el)
				}
				if !overlapsAny(all, e.Interval) {
					continue
				}
			}
			if !yield(el, err) || err != nil {
				return
			}
		}
	}
}

// fewKeysOf is fewKeys for several intervals: each key once.
func (s *State) fewKeysOf(set *nftset.Set, ivs []nftset.Interval) (keys []nftset.Key, ok bool) {
	for _, iv := range ivs {
		few, ok := s.fewKeys(set, iv)
		if !ok {
			return nil, false
		}
		keys = append(keys, few...)
	}
	slices.SortFunc(keys, nftset.Key.Compare)
	return slices.Compact(keys), true
}

// overlapsAny reports whether an interval overlaps one of a merged list.
func overlapsAny(merged []nftset.Interval, iv nftset.Interval) bool {
	i, _ := slices.BinarySearchFunc(merged, iv.From, func(m nftset.Interval, k nftset.Key) int { return m.To.Compare(k) })
	return i < len(merged) && merged[i].Overlaps(iv)
}

// memoryOf returns the addresses that an element of a set without a role is
// about.
func (s *State) memoryOf(el nftset.Element) nftset.Interval {
	if a := el.From.Addr(); s.network(a).Addr() == a {
		return nftset.Prefix(s.network(a)).Interval
	}
	return el.Interval
}

// fewKeys returns the keys by which what overlaps an interval can stand in a
// set, if there are few.
func (s *State) fewKeys(set *nftset.Set, iv nftset.Interval) ([]nftset.Key, bool) {
	p, ok := iv.Prefix()
	role, _ := RoleOf(set.Name)
	a := p.Addr()
	switch {
	case !ok || set.Flags&nftset.FlagInterval != 0:
		return nil, false
	case role == RoleSubnet:
		f := familyOfAddr(a)
		if p.Bits() < f.subnetLen {
			return nil, false
		}
		return []nftset.Key{nftset.AddrKey(netip.PrefixFrom(a, f.subnetLen).Masked().Addr())}, true
	case p.IsSingleIP():
		return s.keys(a), true
	case a.Is6() || 1<<(a.BitLen()-p.Bits()) > fewAddresses:
		return nil, false
	}
	var keys []nftset.Key
	for ; p.Contains(a); a = a.Next() {
		keys = append(keys, nftset.AddrKey(a))
	}
	return keys, true
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
	tx.DeleteSeq(set, func(yield func(nftset.Element) bool) {
		for _, key := range keys {
			if !yield(nftset.Element{Interval: key}) {
				return
			}
		}
	})
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
	return h.dropNetRules()
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
		for _, memory := range h.memorySets(familyOf(set.Type)) {
			if role, _ := RoleOf(memory.Name); role.Bans() {
				continue
			}
			var there []nftset.Interval
			for el, err := range h.c.GetMany(memory, firstKeys(gone[set.Name])) {
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
	return n, h.dropNetRules()
}

func firstKeys(ivs []nftset.Interval) iter.Seq[nftset.Key] {
	return func(yield func(nftset.Key) bool) {
		for _, iv := range ivs {
			if !yield(iv.From) {
				return
			}
		}
	}
}
