package main

import (
	"net/netip"
	"strconv"
	"time"

	"github.com/portmon/portmon/internal/book"
	"github.com/portmon/portmon/internal/text"
	"github.com/portmon/portmon/ruleset"
)

// ban is a ban as it is shown: one prefix, one line.
type ban struct {
	prefix             netip.Prefix
	set                string
	step               int // of the ladder; 0 if it is not of that
	cause              ruleset.Cause
	timeout, remaining time.Duration // both 0: forever
	text               string        // what was noted beside it
	read               time.Time     // when the kernel said so

	known *book.Row // what is known of its source besides, or nil
	clock book.Clock
}

// newBan makes one of the prefixes of an entry that was just read.
func newBan(e ruleset.Entry, prefix netip.Prefix, now time.Time) ban {
	b := ban{prefix: prefix, set: e.Set, cause: e.Cause, timeout: e.Timeout, remaining: e.Remaining, read: now}
	if b.cause != ruleset.CauseHand {
		b.step = e.Step
	}
	b.text, _ = ruleset.Offence(e.Comment)
	return b
}

// since returns when the ban was made. ok is false if that is not known: the
// kernel only keeps the time that is left, which says nothing of a ban forever.
func (b *ban) since() (t time.Time, ok bool) {
	return b.read.Add(b.remaining - b.timeout), b.remaining > 0 && b.timeout >= b.remaining
}

// comment returns the comment of the ban, or what is known of the
// offences: "tcp/23, 2 offences".
func (b *ban) comment() string {
	if b.text == book.HandComment && b.cause == ruleset.CauseHand {
		return "" // the cause says it
	}
	if b.text != "" || b.known == nil || b.known.Offences == 0 {
		return b.text
	}
	offences := text.Plural(b.known.Offences, "offence")
	if port := text.Port(b.known.Proto, b.known.Port); port != "" {
		return port + ", " + offences
	}
	return offences
}

// cells are those of its line in a list.
func (b *ban) cells() []string {
	cells := []string{text.Prefix(b.prefix), "-", b.cause.String(), "-", forever, text.Printable(b.comment())}
	if b.step > 0 {
		cells[1] = strconv.Itoa(b.step)
	}
	if since, ok := b.since(); ok {
		cells[3] = text.ShortDuration(b.read.Sub(since))
	}
	if b.remaining > 0 {
		cells[4] = text.ShortDuration(b.remaining)
	}
	return cells
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
	Offences       int          `json:"offences,omitempty"`
	FirstOffence   string       `json:"first_offence,omitempty"`
	LastOffence    string       `json:"last_offence,omitempty"`
	LastProtocol   string       `json:"last_protocol,omitempty"`
	LastPort       uint16       `json:"last_port,omitempty"`
	Reason         string       `json:"reason,omitempty"`
}

func (b *ban) view() banJSON {
	v := banJSON{
		Prefix: b.prefix, Family: "ip", Set: b.set, Tier: b.step, Cause: b.cause.String(),
		TimeoutSeconds: seconds(b.timeout), ExpiresSeconds: seconds(b.remaining), Reason: b.text,
	}
	if b.prefix.Addr().Is6() {
		v.Family = "ip6"
	}
	if b.remaining > 0 {
		v.Until = stamp(b.read.Add(b.remaining))
	}
	if since, ok := b.since(); ok {
		v.Since = stamp(since)
	}
	if k := b.known; k != nil && k.Offences > 0 {
		v.Offences, v.LastProtocol, v.LastPort = k.Offences, text.Protocol(k.Proto), k.Port
		v.FirstOffence, v.LastOffence = moment(b.clock, k.First), moment(b.clock, k.Last)
	}
	return v
}

// describe says all about a ban: "198.51.100.0/24 in net4, forever, by hand:
// spam wave".
func (b *ban) describe() string {
	line := text.Prefix(b.prefix) + " in " + b.set
	if b.step > 0 {
		line += ", tier " + strconv.Itoa(b.step)
	}
	if b.remaining == 0 {
		line += ", " + forever
	} else {
		if b.timeout > 0 {
			line += ", " + banTime(b.timeout)
		}
		if since, ok := b.since(); ok {
			line += " since " + since.Format(clockLayout)
		}
		line += ", " + text.ShortDuration(b.remaining) + " left"
	}
	line += map[ruleset.Cause]string{
		ruleset.CauseTrap: ", for a packet to a trap port", ruleset.CauseScan: ", for a scan",
		ruleset.CauseSubnet: ", as many of its sources offended", ruleset.CauseHand: ", by hand",
		ruleset.CauseOther: ", by another program",
	}[b.cause]
	if comment := b.comment(); comment != "" {
		line += ": " + text.Printable(comment)
	}
	return line
}

// clockLayout is how moments are written for people, in local time.
const clockLayout = "2006-01-02 15:04:05"

// seconds is a duration in JSON: a number with at most three decimals.
type seconds time.Duration

func (s seconds) MarshalJSON() ([]byte, error) {
	return strconv.AppendFloat(nil, time.Duration(s).Round(time.Millisecond).Seconds(), 'f', -1, 64), nil
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// moment is stamp for a moment of the book, "" if it is not known.
func moment(c book.Clock, m book.Moment) string {
	if m == 0 {
		return ""
	}
	return stamp(c.Time(m))
}
