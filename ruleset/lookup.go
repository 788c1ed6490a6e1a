package ruleset

import (
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
	return st.Whitelisted == nil && st.Allowed == nil && len(st.Bans) > 0
}

// Lookup asks the kernel about one address, in some 10 µs for each set.
// IPv4-mapped addresses are taken as IPv4.
func (h *Handle) Lookup(a netip.Addr) (st Standing, err error) {
	err = h.Retry(func() (err error) {
		st, err = h.lookup(a.Unmap().WithZone(""))
		return err
	})
	return st, err
}

func (h *Handle) lookup(a netip.Addr) (st Standing, err error) {
	if st.Source, err = h.Source(a); err != nil {
		return st, err
	}
	own := nftset.AddrKey(a)
	whitelisted, ok, err := h.Whitelisted(nftset.Single(own).Interval)
	if err != nil {
		return st, err
	}
	if ok {
		st.Whitelisted = &whitelisted
	}
	for e, err := range h.sources(within(netip.PrefixFrom(a, a.BitLen()))) {
		if err != nil {
			return st, err
		}
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
	if el, ok, err := h.get(RoleKnocked.Set(a, 0), own); err != nil {
		return st, err
	} else if ok && st.Allowed == nil {
		e, _ := h.Entry(RoleKnocked.Set(a, 0), el)
		st.Allowed = &e
	}
	_, st.Suspect, err = h.get(familyOfAddr(a).score(), nftset.AddrKey(st.Source.Addr()))
	return st, err
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
