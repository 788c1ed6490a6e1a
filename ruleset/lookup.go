package ruleset

import (
	"iter"
	"net/netip"
	"slices"
	"time"

	"github.com/portmon/portmon/nftset"
)

// Standing is what the table has to say about an address.
type Standing struct {
	// Source is the prefix by which the address is banned.
	Source netip.Prefix
	// Whitelisted is the whitelist's interval around the address; nil if there
	// is none.
	Whitelisted *nftset.Interval
	// Allowed is the allowance that the address is under, nil if there is none.
	Allowed *Entry
	// Bans are all bans that the address is under. If it is whitelisted or
	// allowed they have no effect.
	Bans []Entry
	// Fleet is the ban of the fleet that the address is under, nil if there is none.
	// If it is whitelisted or allowed it has no effect.
	Fleet *Entry
	// Step is the step of the ladder that the source was banned by last, 0 if
	// none is remembered, and StepRemaining how long it still will be.
	Step          int
	StepRemaining time.Duration
	// Suspect reports that closed ports count against the source;
	// [Handle.Probed] names them.
	Suspect bool
}

// Banned reports whether packets from the address are dropped.
func (st Standing) Banned() bool {
	return st.Whitelisted == nil && st.Allowed == nil && (len(st.Bans) > 0 || st.Fleet != nil)
}

// Lookup asks the kernel about one address, in some 10 µs for each set.
// IPv4-mapped addresses are taken as IPv4.
func (h *Handle) Lookup(a netip.Addr) (Standing, error) {
	all, err := h.LookupAll(a)
	return all[0], err
}

// LookupAll asks the kernel about each of several addresses, many of them at a
// time.
func (h *Handle) LookupAll(addrs ...netip.Addr) (all []Standing, err error) {
	addrs = slices.Clone(addrs)
	for i, a := range addrs {
		addrs[i] = a.Unmap().WithZone("")
	}
	err = h.Retry(func() (err error) {
		all, err = h.lookup(addrs)
		return err
	})
	return all, err
}

func (h *Handle) lookup(addrs []netip.Addr) (all []Standing, err error) {
	all = make([]Standing, len(addrs))
	find := h.finder(len(addrs))
	order, own := make([]int, len(addrs)), make([]nftset.Interval, len(addrs))
	for i, a := range addrs {
		order[i], own[i] = i, nftset.Addr(a).Interval
		if all[i].Source, err = h.source(a, find); err != nil {
			return all, err
		}
		whitelisted, ok, err := find(familyOfAddr(a).whitelist(), own[i])
		if err != nil {
			return all, err
		}
		if ok {
			all[i].Whitelisted = &whitelisted.Interval
		}
	}
	slices.SortFunc(order, func(i, j int) int { return addrs[i].Compare(addrs[j]) })
	of := func(iv nftset.Interval) iter.Seq[*Standing] {
		return func(yield func(*Standing) bool) {
			n, _ := slices.BinarySearchFunc(order, iv.From.Addr(), func(i int, a netip.Addr) int { return addrs[i].Compare(a) })
			for ; n < len(order) && iv.Contains(own[order[n]].From) && yield(&all[order[n]]); n++ {
			}
		}
	}
	q := newSelection(own, false)
	for e, err := range h.sources(q) {
		if err != nil {
			return all, err
		}
		for st := range of(e.Interval) {
			switch {
			case e.Role == RoleAllow:
				st.Allowed = &e
			case e.Role.Bans():
				st.Bans = append(st.Bans, e)
			}
			if e.From.Addr() == st.Source.Addr() && e.StepRemaining > 0 {
				st.Step, st.StepRemaining = e.Step, e.StepRemaining
			}
		}
	}
	for e, err := range h.entries(q, RoleKnocked, RoleFleet) {
		if err != nil {
			return all, err
		}
		for st := range of(e.Interval) {
			if e.Role == RoleFleet {
				st.Fleet = &e
			} else if st.Allowed == nil {
				st.Allowed = &e
			}
		}
	}
	for _, f := range families {
		set := h.Set(f.score())
		if set == nil {
			continue
		}
		for el, err := range h.elements(set, q) {
			if err != nil {
				return all, err
			}
			for st := range of(h.addresses(RoleNone, el.Interval)) {
				st.Suspect = st.Suspect || el.From.Addr() == st.Source.Addr()
			}
		}
	}
	return all, nil
}

// Probed returns the closed ports that count against a source, as
// [Handle.Source] names it, in order. Nothing but all of their set can be read,
// which takes as long as that is large: ask only about a source that is
// [Standing.Suspect].
func (h *Handle) Probed(source netip.Prefix) ([]uint16, error) {
	set := h.Set(familyOfAddr(source.Addr()).probed())
	if set == nil {
		return nil, nil
	}
	var ports []uint16
	for el, err := range h.c.Elements(set) {
		if err != nil {
			return nil, err
		}
		if el.From.Addr() == source.Addr() {
			ports = append(ports, el.From.Port())
		}
	}
	slices.Sort(ports)
	return slices.Compact(ports), nil
}
