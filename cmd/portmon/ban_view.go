package main

import (
	"net/netip"
	"strconv"
	"time"

	"github.com/portmon/portmon/internal/book"
	"github.com/portmon/portmon/internal/text"
	"github.com/portmon/portmon/ruleset"
)

// ban is a ban as it is shown: one prefix of an entry, on one line.
type ban struct {
	ruleset.Entry
	prefix netip.Prefix
	read   time.Time // when the kernel reported it

	known *book.Row // what is remembered of its source besides, or nil
	clock book.Clock
}

// newBan makes one of the prefixes of an entry that was just read.
func newBan(e ruleset.Entry, prefix netip.Prefix, now time.Time) ban {
	if e.Cause == ruleset.CauseHand {
		e.Step = 0
	}
	e.Comment, _ = ruleset.Offence(book.Reason(e.Cause, e.Comment))
	return ban{Entry: e, prefix: prefix, read: now}
}

// since returns when the ban was made, the zero time if that is not known: the
// kernel only keeps the time that is left, which is none for a ban forever.
func (b *ban) since() (t time.Time) {
	if b.Remaining > 0 && b.Timeout >= b.Remaining {
		t = b.read.Add(b.Remaining - b.Timeout)
	}
	return t
}

// remark returns the reason of the ban or, without one, what is remembered of
// the offences: "tcp/23, 2 offences".
func (b *ban) remark() string {
	if b.Comment != "" || b.known == nil || b.known.Offences == 0 {
		return text.Printable(b.Comment)
	}
	offences := text.Plural(b.known.Offences, "offence")
	if port := text.Port(b.known.Proto, b.known.Port); port != "" {
		return port + ", " + offences
	}
	return offences
}

// cells returns the cells of the ban's line in a list.
func (b *ban) cells() []string {
	cells := []string{text.Prefix(b.prefix), "-", b.Cause.String(), "-", forever, b.remark()}
	if b.Step > 0 {
		cells[1] = strconv.Itoa(b.Step)
	}
	if !b.since().IsZero() {
		cells[3] = text.ShortDuration(b.Timeout - b.Remaining)
	}
	if b.Remaining > 0 {
		cells[4] = text.ShortDuration(b.Remaining)
	}
	return cells
}

// describe returns a sentence about the ban: "198.51.100.0/24 in net4, forever,
// by hand: spam wave".
func (b *ban) describe() string {
	line := text.Prefix(b.prefix) + " in " + b.Set
	if b.Step > 0 {
		line += ", tier " + strconv.Itoa(b.Step)
	}
	if b.Remaining == 0 || b.Timeout > 0 {
		line += ", " + banTime(b.Timeout)
	}
	if since := b.since(); !since.IsZero() {
		line += " since " + since.Format(clockLayout)
	}
	if b.Remaining > 0 {
		line += ", " + text.ShortDuration(b.Remaining) + " left"
	}
	line += map[ruleset.Cause]string{
		ruleset.CauseTrap: ", for a packet to a trap port", ruleset.CauseScan: ", for a scan",
		ruleset.CauseSubnet: ", as many of its sources offended", ruleset.CauseHand: ", by hand",
		ruleset.CauseOther: ", by another program",
	}[b.Cause]
	if remark := b.remark(); remark != "" {
		line += ": " + remark
	}
	return line
}

// banJSON is a ban in JSON. What is not known is left out.
type banJSON struct {
	Prefix         netip.Prefix `json:"prefix"`
	Family         string       `json:"family"`
	Set            string       `json:"set"`
	Tier           int          `json:"tier,omitempty"`
	Cause          string       `json:"cause,omitempty"`
	TimeoutSeconds seconds      `json:"timeout_seconds,omitempty"`
	ExpiresSeconds seconds      `json:"expires_seconds,omitempty"`
	Until          string       `json:"until,omitempty"`
	Since          string       `json:"since,omitempty"`
	offencesJSON
	Reason string `json:"reason,omitempty"`
}

func (b *ban) view() banJSON {
	v := banJSON{
		Prefix: b.prefix, Family: "ip", Set: b.Set, Tier: b.Step, Cause: b.Cause.String(), Reason: b.Comment,
		TimeoutSeconds: seconds(b.Timeout), ExpiresSeconds: seconds(b.Remaining), Since: stamp(b.since()),
		offencesJSON: offencesOf(b.known, b.clock),
	}
	if b.prefix.Addr().Is6() {
		v.Family = "ip6"
	}
	if b.Remaining > 0 {
		v.Until = stamp(b.read.Add(b.Remaining))
	}
	return v
}
