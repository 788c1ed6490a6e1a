package ruleset

import (
	"errors"
	"fmt"
	"iter"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/nftset"
)

const (
	// fleetLen is the prefix length by which the fleet bans sources of IPv6. No
	// wider ban comes from elsewhere.
	fleetLen = 64
	// FleetSize is the size of each set of what the fleet bans.
	FleetSize = 131072
)

// Fleet streams those of the fleet's bans that overlap one of the prefixes; all if
// there is none.
func (h *Handle) Fleet(ps ...netip.Prefix) iter.Seq2[Entry, error] {
	var q *selection
	if len(ps) > 0 {
		q = within(ps...)
	}
	return h.entries(q, RoleFleet)
}

// FleetSource returns the prefix by which the fleet bans an address.
func FleetSource(a netip.Addr) netip.Prefix {
	a = a.Unmap().WithZone("")
	return netip.PrefixFrom(a, familyOfAddr(a).fleetSource().prefixLen).Masked()
}

// PutFleet has the table ban what the fleet does: of each record the source, as
// [FleetSource] has it, the time and the comment count, and those that are there
// get the new ones. It takes one transaction for each family, and more where
// there are more than [nftset.BatchSize] records or some have no room: what fits
// is put, and full is how many do not. The bans of this host, and what it
// remembers, are not touched. Where the table has no sets for a fleet, err is
// os.ErrNotExist.
func (h *Handle) PutFleet(records []Record) (full int, err error) {
	e := newEdit(h, records)
	for i := range records {
		e.add(RoleFleet.Set(records[i].Source.Addr(), 0), int32(i))
	}
	for name, some := range e.in {
		set := h.Set(name)
		if set == nil {
			return 0, fmt.Errorf("set %s %s: %w", h.Table, name, unix.ENOENT)
		}
		if err := e.addAll(set, some); err != nil {
			return e.skipped, err
		}
	}
	return e.skipped, nil
}

// CheckFleet returns an error for each source that the fleet must not ban here, as
// [Handle.Check] does. A /64 that holds strangers is no source: what one of them
// did would cut off the others.
func (h *Handle) CheckFleet(sources ...netip.Prefix) (refused []error, err error) {
	refused, err = h.Check(sources...)
	find := h.finder(len(sources))
	for i, p := range sources {
		if err != nil {
			return nil, err
		}
		var shared, own bool
		if p.Addr().Is6() {
			_, shared, err = find(setSingle6, nftset.Addr(p.Addr()).Interval)
			if err == nil {
				_, own, err = find(setOwn6, nftset.Single(networkKey(p.Addr(), ownLen)).Interval)
			}
		}
		if shared || own {
			if refused == nil {
				refused = make([]error, len(sources))
			}
			refused[i] = &SourceError{p, "is a network whose addresses are banned one by one"}
		}
	}
	return refused, err
}

// LiftFleet lifts the fleet's bans of sources, at most [nftset.BatchSize], in one
// transaction unless a set is full; those that are not there are passed over.
func (h *Handle) LiftFleet(sources ...netip.Prefix) error {
	tx := &nftset.Tx{}
	gone := make(map[*nftset.Set][]nftset.Interval)
	for _, set := range h.roleSets(RoleFleet) {
		for _, p := range sources {
			if key := nftset.AddrKey(p.Addr()); key.Type() == set.Type {
				gone[set] = append(gone[set], nftset.Single(key).Interval)
			}
		}
		tx.Discard(set, slices.Collect(bare(gone[set]))...)
	}
	err := h.c.Commit(tx)
	if !errors.Is(err, unix.ENFILE) && !isTooLarge(err) {
		return err
	}
	for set, keys := range gone {
		if err := h.remove(set, keys); err != nil {
			return err
		}
	}
	return nil
}

// FlushFleet lifts all bans of the fleet in one transaction.
func (h *Handle) FlushFleet() error {
	tx := &nftset.Tx{}
	for _, set := range h.roleSets(RoleFleet) {
		tx.FlushSet(set)
	}
	return h.c.Commit(tx)
}

// CountFleet returns how many bans of the fleet are in force.
func (h *Handle) CountFleet() (n int, err error) {
	for _, set := range h.roleSets(RoleFleet) {
		held, err := h.c.Count(set)
		if err != nil {
			return n, err
		}
		n += held
	}
	return n, nil
}
