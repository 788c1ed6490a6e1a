package ruleset

import (
	"iter"
	"net/netip"
	"slices"

	"github.com/portmon/portmon/nftset"
)

const (
	// fewAddresses is up to how many keys are asked for one by one, in place of
	// reading a whole set, which can take ten seconds: this takes a quarter of
	// one.
	fewAddresses = 1 << 17
	// fewIntervals is the same for a set of prefixes, which some kernels must
	// read to answer.
	fewIntervals = 16
)

// selection is which sources a question is about: those within intervals, or
// just those that have exactly the addresses of one.
type selection struct {
	intervals []nftset.Interval
	alone     map[nftset.Interval]bool             // nil: what is within, too
	allowedBy Cause                                // of allowances, only those; CauseUnknown: by anybody
	merged    map[nftset.KeyType][]nftset.Interval // all of their addresses, once they are asked for
}

func newSelection(intervals []nftset.Interval, alone bool) *selection {
	q := &selection{intervals: intervals}
	if alone {
		q.alone = make(map[nftset.Interval]bool, len(intervals))
		for _, iv := range intervals {
			q.alone[iv] = true
		}
	}
	return q
}

// addresses returns all addresses of a family, merged.
func (q *selection) addresses(t nftset.KeyType) []nftset.Interval {
	if q.merged == nil {
		q.merged = make(map[nftset.KeyType][]nftset.Interval)
		for _, iv := range q.intervals {
			q.merged[iv.From.Type()] = append(q.merged[iv.From.Type()], iv)
		}
		for t, ivs := range q.merged {
			q.merged[t] = nftset.Merge(ivs)
		}
	}
	return q.merged[t]
}

// within returns the selection of prefixes and all that is within them.
func within(ps ...netip.Prefix) *selection {
	intervals := make([]nftset.Interval, len(ps))
	for i, p := range ps {
		intervals[i] = nftset.Prefix(p).Interval
	}
	return newSelection(intervals, false)
}

// has reports whether what is about these addresses is meant.
func (q *selection) has(iv nftset.Interval) bool {
	if q.alone != nil {
		return q.alone[iv]
	}
	return isCovered(q.addresses(iv.From.Type()), iv)
}

// touches reports whether what is about these addresses concerns the selection:
// a part of it that is meant, or something larger.
func (q *selection) touches(iv nftset.Interval) bool {
	merged := q.addresses(iv.From.Type())
	i, _ := slices.BinarySearchFunc(merged, iv.From, func(m nftset.Interval, k nftset.Key) int { return m.To.Compare(k) })
	if overlaps := i < len(merged) && merged[i].Overlaps(iv); !overlaps || q.alone == nil || q.alone[iv] {
		return overlaps
	}
	return slices.ContainsFunc(q.intervals, iv.Covers)
}

// isCovered reports whether an interval of a merged list has all addresses of
// another.
func isCovered(merged []nftset.Interval, iv nftset.Interval) bool {
	around, ok := nftset.Find(merged, iv.From)
	return ok && around.Covers(iv)
}

// elements streams the elements of a set that a selection touches, all if it is
// nil. If the selection is small, the kernel is asked for them; otherwise the
// set is read.
func (h *Handle) elements(set *nftset.Set, q *selection) iter.Seq2[nftset.Element, error] {
	if q == nil {
		return h.c.Elements(set)
	}
	return func(yield func(nftset.Element, error) bool) {
		empty, err := h.isEmpty(set, len(q.intervals))
		if err != nil {
			yield(nftset.Element{}, err)
			return
		}
		if empty {
			return
		}
		source := h.c.Elements(set)
		if keys, few := h.keysIn(set, q); few {
			source = h.c.GetMany(set, slices.Values(keys))
		}
		role, _ := RoleOf(set.Name)
		var last nftset.Key // of an interval that holds several keys
		for el, err := range source {
			if err == nil && (el.From == last || !q.touches(h.addresses(role, el.Interval))) {
				continue
			}
			if last = el.From; !yield(el, err) {
				return
			}
		}
	}
}

// isEmpty reports whether a set is known to hold nothing. Only for many
// questions is it worth asking, and only some kernels report it.
func (h *Handle) isEmpty(set *nftset.Set, questions int) (bool, error) {
	if questions <= few {
		return false, nil
	}
	now, err := h.c.Set(set.Table, set.Name)
	return err == nil && now.Count == 0, err
}

// keysIn returns the keys by which a set can hold what a selection touches, each
// once, and false if they are not few.
func (s *State) keysIn(set *nftset.Set, q *selection) (keys []nftset.Key, few bool) {
	role, _ := RoleOf(set.Name)
	for _, iv := range q.intervals {
		f := familyOf(iv.From.Type())
		if f.key != set.Type {
			continue
		}
		if set.Flags&nftset.FlagInterval != 0 {
			if keys = append(keys, iv.From); len(keys) > fewIntervals || !iv.IsSingle() && q.alone == nil {
				return nil, false
			}
			continue
		}
		for _, p := range iv.Prefixes() {
			switch a := p.Addr(); {
			case role == RoleSubnet && p.Bits() >= f.subnetLen:
				keys = append(keys, networkKey(a, f.subnetLen))
			case role == RoleFleet && p.Bits() >= f.fleetSource().prefixLen:
				keys = append(keys, networkKey(a, f.fleetSource().prefixLen))
			case p.IsSingleIP() || p == s.network(a) && q.alone != nil:
				keys = append(keys, s.keys(a)...)
			case q.alone != nil: // no key stands for it
			case role == RoleSubnet || a.Is6() || 1<<(a.BitLen()-p.Bits()) > fewAddresses:
				return nil, false
			default:
				for ; p.Contains(a); a = a.Next() {
					keys = append(keys, nftset.AddrKey(a))
				}
			}
			if len(keys) > fewAddresses {
				return nil, false
			}
		}
	}
	slices.SortFunc(keys, nftset.Key.Compare)
	return slices.Compact(keys), true
}
