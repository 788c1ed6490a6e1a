package ruleset

import (
	"errors"
	"net/netip"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/nftset"
)

// Unban lifts the bans of prefixes and of all that is within them, and forgets
// what is remembered of their sources: steps, and what counts towards an
// offence. It returns the bans that it lifted, and those of larger prefixes
// that cover one of ps and stay.
func (h *Handle) Unban(ps ...netip.Prefix) (lifted, covered []Entry, err error) {
	return h.unban(within(ps...))
}

// UnbanAlone is [Handle.Unban] for those sources, or bans, that have exactly the
// addresses of an interval: others within it stay.
func (h *Handle) UnbanAlone(intervals ...nftset.Interval) (lifted, covered []Entry, err error) {
	return h.unban(newSelection(intervals, true))
}

func (h *Handle) unban(q *selection) (lifted, covered []Entry, err error) {
	var sets []*nftset.Set
	for _, f := range families {
		sets = append(sets, h.memorySets(f)...)
	}
	return h.lift(q, sets)
}

// lift takes what is selected out of sets. It returns the bans and allowances
// that it has taken out, and the larger ones that cover some of it.
func (h *Handle) lift(q *selection, sets []*nftset.Set) (lifted, covered []Entry, err error) {
	for _, set := range sets {
		role, _ := RoleOf(set.Name)
		verdict := role.Bans() || role.Allows()
		var gone []nftset.Interval
		for el, err := range h.elements(set, q) {
			if err != nil {
				return lifted, covered, err
			}
			e, _ := h.Entry(set.Name, el)
			switch inside := q.has(h.addresses(role, el.Interval)); {
			case q.allowedBy != CauseUnknown && q.allowedBy != e.Cause:
			case inside || role == RoleNone:
				if gone = append(gone, el.Interval); verdict {
					lifted = append(lifted, e)
				}
			case verdict:
				covered = append(covered, e)
			}
		}
		if err := h.remove(set, gone); err != nil {
			return lifted, covered, err
		}
	}
	return lifted, covered, h.TidyNets()
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

// remove deletes elements, in one transaction if all are there and it fits the
// socket; those that have expired meanwhile are passed over.
func (h *Handle) remove(set *nftset.Set, keys []nftset.Interval) error {
	again := func(err error) bool { return isTooLarge(err) || errors.Is(err, os.ErrNotExist) }
	for batch := range slices.Chunk(keys, nftset.BatchSize) {
		err := halved(batch, again, func(part []nftset.Interval) error {
			tx := &nftset.Tx{}
			tx.DeleteSeq(set, bare(part))
			err := h.c.Commit(tx)
			if len(part) == 1 && errors.Is(err, os.ErrNotExist) {
				err = nil
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// halved calls f for a batch. If it fails, and smaller parts may not, it calls f
// for each half in the same way.
func halved[T any](batch []T, again func(error) bool, f func(part []T) error) error {
	err := f(batch)
	half := len(batch) / 2
	if half == 0 || !again(err) {
		return err
	}
	if err := halved(batch[:half], again, f); err != nil {
		return err
	}
	return halved(batch[half:], again, f)
}

// isTooLarge reports whether a transaction, or the answer to it, did not fit the
// socket.
func isTooLarge(err error) bool { return errors.Is(err, unix.EMSGSIZE) || errors.Is(err, unix.ENOBUFS) }

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
