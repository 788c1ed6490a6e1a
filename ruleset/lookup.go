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
	// Bans are all bans that the address is under. If it is whitelisted they
	// have no effect.
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
func (st Standing) Banned() bool { return st.Whitelisted == nil && len(st.Bans) > 0 }

// Lookup asks the kernel about one address, in some 10 µs for each set.
// IPv4-mapped addresses are taken as IPv4.
func (h *Handle) Lookup(a netip.Addr) (Standing, error) {
	a = a.Unmap().WithZone("")
	var st Standing
	var err error
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
	known, err := h.lookupHistory(&st, h.keys(a))
	if err != nil {
		return st, err
	}
	f := familyOfAddr(a)
	var ask []setElement
	for _, key := range slices.Backward(h.keys(a)) {
		ask = append(ask, setElement{f.ban(), key})
	}
	ask = append(ask, setElement{f.net(), own}, setElement{f.subnet(), networkKey(a, f.subnetLen)})
	for _, q := range ask {
		el, ok, err := h.get(q.set, q.key)
		if err != nil {
			return st, err
		}
		if e, isBan := h.Entry(q.set, el); ok && isBan && e.Contains(own) {
			e.explain(known[e.From])
			st.Bans = append(st.Bans, e)
		}
	}
	_, st.Suspect, err = h.get(f.score(), nftset.AddrKey(st.Source.Addr()))
	return st, err
}

// lookupHistory asks what is remembered by any of the keys by which the address
// can be banned, and notes what is of its source.
func (h *Handle) lookupHistory(st *Standing, keys []nftset.Key) (map[nftset.Key]history, error) {
	known := make(map[nftset.Key]history)
	source := nftset.AddrKey(st.Source.Addr())
	for _, set := range h.roleSets(RoleStep, RoleScanner) {
		for _, key := range keys {
			el, ok, err := h.get(set.Name, key)
			if err != nil {
				return known, err
			}
			if e, _ := h.Entry(set.Name, el); ok {
				if key == source && e.Step > st.Step {
					st.Step, st.StepRemaining = e.Step, e.Remaining
				}
				known[key] = known[key].with(e)
			}
		}
	}
	return known, nil
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
