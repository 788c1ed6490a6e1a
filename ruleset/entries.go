package ruleset

import (
	"iter"
	"net/netip"
	"slices"
	"time"

	"github.com/portmon/portmon/nftset"
)

// Entry is one element of a set that remembers sources.
type Entry struct {
	// Element holds the addresses that the entry is about: where the address of
	// a network stands for it in the set, the network. Timeout is how long the
	// source is to be in the set, and Remaining how long it still will be; both
	// are 0 if it never expires. Comment is what was noted beside a ban or an
	// allowance by the one who made it.
	nftset.Element
	// Set is the name of the set, and Role what it means to be in it.
	Set  string
	Role Role
	// Step is that of a RoleStep. Of a ban it is the step of the ladder that
	// its source was banned by last, from 1; 0 if that is not known.
	Step int
	// StepRemaining is how long the step is still remembered, 0 if it is not.
	StepRemaining time.Duration
	// Cause is why a source is banned, as far as that is known, or by whom it is
	// allowed.
	Cause Cause
}

// allRoles are all roles of offenders, those of bans in the order of how often
// packets ask for them.
var allRoles = []Role{RoleBan, RoleSubnet, RoleNet, RoleStep, RoleScanner}

// roleSets returns the sets that have one of the roles, IPv4 first, and of
// steps the highest first.
func (s *State) roleSets(roles ...Role) []*nftset.Set {
	var out []*nftset.Set
	for _, f := range families {
		for _, role := range roles {
			for step := MaxSteps; step >= 1; step-- {
				if set := s.Set(role.of(f, step)); set != nil && set.Type == f.key {
					out = append(out, set)
				}
				if role != RoleStep {
					break
				}
			}
		}
	}
	return out
}

// Entry makes an Entry of an element of a set, whose name must be that of a set
// with a role; ok is false if it is not. Step and Cause of a ban are not known
// then.
func (s *State) Entry(set string, el nftset.Element) (e Entry, ok bool) {
	role, step := RoleOf(set)
	if role == RoleNone || el.From.Addr() == (netip.Addr{}) {
		return Entry{}, false
	}
	e = Entry{Element: el, Set: set, Role: role, Step: step}
	if known := s.Set(set); e.Timeout == 0 && e.Remaining > 0 && known != nil {
		e.Timeout = known.Timeout
	}
	switch e.Interval = s.addresses(role, el.Interval); role {
	case RoleAllow:
		e.Cause, e.Comment = allowedBy(el.Comment)
	case RoleKnocked:
		e.Cause = CauseKnock
	case RoleFleet:
		e.Cause = CauseFleet
	}
	return e, true
}

// addresses returns the addresses that an element of a set of the role is
// about. In sets of single keys, the address of a network stands for the
// network.
func (s *State) addresses(role Role, iv nftset.Interval) nftset.Interval {
	a := iv.From.Addr()
	switch {
	case role == RoleNet || role.Allows():
	case role == RoleSubnet:
		return nftset.Prefix(netip.PrefixFrom(a, familyOfAddr(a).subnetLen)).Interval
	case role == RoleFleet:
		return nftset.Prefix(netip.PrefixFrom(a, familyOfAddr(a).fleetSource().prefixLen)).Interval
	case s.network(a).Addr() == a:
		return nftset.Prefix(s.network(a)).Interval
	}
	return iv
}

// Entries streams the elements of all sets that have one of the roles; all that
// remember offenders if none is named. Errors are those of
// [nftset.Conn.Elements]. The order within a set is that of the kernel.
func (h *Handle) Entries(roles ...Role) iter.Seq2[Entry, error] {
	if len(roles) == 0 {
		roles = allRoles
	}
	return h.entries(nil, roles...)
}

// entries streams those elements that a selection touches; all if it is nil.
func (h *Handle) entries(q *selection, roles ...Role) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		for _, set := range h.roleSets(roles...) {
			for el, err := range h.elements(set, q) {
				if err != nil {
					yield(Entry{}, err)
					return
				}
				if e, ok := h.Entry(set.Name, el); ok && !yield(e, nil) {
					return
				}
			}
		}
	}
}

// Explain fills in Step and Cause of a ban, from what is remembered of its
// source: the step that it was banned by last, 0 if there is none, and whether
// it is among the scanners.
func (e *Entry) Explain(step int, scanner bool) {
	_, offence := Offence(e.Comment)
	switch {
	case e.Role == RoleAllow: // which says so itself
		return
	case e.Role == RoleSubnet:
		e.Cause = CauseSubnet
		return
	case offence:
		e.Cause = CauseOther
	case e.Comment != "" || e.Role == RoleNet:
		e.Cause = CauseHand
	case step == 0:
		e.Cause = CauseOther // the packet path would have added it to a step
	case scanner:
		e.Cause = CauseScan
	default:
		e.Cause = CauseTrap
	}
	if e.Role == RoleBan {
		e.Step = step
	}
}

// allBans reads every ban, and counts Remaining from when it began.
func (h *Handle) allBans() ([]Entry, error) {
	var bans []Entry
	start := time.Now()
	for e, err := range h.Entries(RoleBan, RoleSubnet, RoleNet) {
		if err != nil {
			return nil, err
		}
		if e.Remaining > 0 {
			e.Remaining += time.Since(start)
		}
		bans = append(bans, e)
	}
	return slices.Clip(bans), nil
}
