package ruleset

import (
	"fmt"
	"iter"
	"net/netip"
	"strings"

	"github.com/portmon/portmon/internal/text"
	"github.com/portmon/portmon/nftset"
)

// AllowFullError reports that there is no room to allow a prefix.
type AllowFullError struct {
	Prefix netip.Prefix
	Set    string // "allow4"
}

func (e *AllowFullError) Error() string {
	return fmt.Sprintf("no room in set %s for %s: it holds at most %d prefixes, and only %d with those that have logged in",
		e.Set, text.Prefix(e.Prefix), MaxAllowed, maxLogins)
}

// AllowedError reports that a prefix cannot be banned, because all of it is
// allowed.
type AllowedError struct {
	Prefix netip.Prefix
	Entry  Entry // the allowance around it
}

func (e *AllowedError) Error() string {
	left := " forever"
	if e.Entry.Remaining > 0 {
		left = " for " + text.ShortDuration(e.Entry.Remaining) + " more"
	}
	p := nftset.Prefix(e.Prefix).Interval
	if e.Entry.Interval != p {
		return fmt.Sprintf("%s is allowed by %s%s", p, e.Entry.Interval, left)
	}
	return fmt.Sprintf("%s is allowed%s", p, left)
}

// Allow has the table allow the sources of records: they are never dropped, and
// not learned as offenders. Then it lifts the bans of what they cover, and
// forgets their offences as [Handle.Unban] does. Errors are those of
// [Handle.Put]; covered are bans of larger prefixes, which stay but have no
// effect on what is allowed.
func (h *Handle) Allow(records []Record) (refused []error, lifted, covered []Entry, err error) {
	if refused, err = h.Put(records); err != nil {
		return refused, nil, nil, err
	}
	var sources []netip.Prefix
	for i := range records {
		if refused == nil || refused[i] == nil {
			sources = append(sources, records[i].Source)
		}
	}
	if len(sources) > 0 {
		lifted, covered, err = h.Unban(sources...)
	}
	return refused, lifted, covered, err
}

// Disallow ends the allowances of prefixes and of all that is within them. It
// returns those that it has ended, and those of larger prefixes that cover one
// of ps and stay.
func (h *Handle) Disallow(ps ...netip.Prefix) (ended, covered []Entry, err error) {
	return h.lift(within(ps...), h.roleSets(RoleAllow, RoleKnocked))
}

// EndAllowed ends the allowances that somebody has made of exactly those
// addresses. What others have allowed stays, be it the same, within or around
// it.
func (h *Handle) EndAllowed(by Cause, intervals ...nftset.Interval) error {
	q := newSelection(intervals, true)
	q.allowedBy = by
	_, _, err := h.lift(q, h.roleSets(RoleAllow))
	return err
}

// Allowed streams the allowances that overlap one of the prefixes; all if there
// is none.
func (h *Handle) Allowed(ps ...netip.Prefix) iter.Seq2[Entry, error] {
	var q *selection
	if len(ps) > 0 {
		q = within(ps...)
	}
	return h.entries(q, RoleAllow, RoleKnocked)
}

// Exempt returns why a prefix cannot be banned: a *WhitelistedError or an
// *AllowedError if all of it is whitelisted or allowed, nil if it is not.
func (h *Handle) Exempt(p netip.Prefix) (reason, err error) { return h.exempt(p, h.find) }

func (h *Handle) exempt(p netip.Prefix, find finder) (reason, err error) {
	f, iv := familyOfAddr(p.Addr()), nftset.Prefix(p).Interval
	el, ok, err := find(f.whitelist(), iv)
	if ok {
		return &WhitelistedError{p, el.Interval}, nil
	}
	if err == nil {
		el, ok, err = find(f.allow(), iv)
	}
	if ok {
		e, _ := h.Entry(f.allow(), el)
		return &AllowedError{p, e}, nil
	}
	return nil, err
}

// allowComment is noted beside an allowance: by whom, and why.
func allowComment(by Cause, reason string) string {
	if reason == "" {
		return by.String()
	}
	return by.String() + ": " + reason
}

// allowedBy reads that. What is noted in another way is by hand.
func allowedBy(comment string) (by Cause, reason string) {
	who, reason, _ := strings.Cut(comment, ": ")
	switch by, _ = ParseCause(who); by {
	case CauseHand, CauseLogin, CauseName, CauseKnock:
		return by, reason
	}
	return CauseHand, comment
}
