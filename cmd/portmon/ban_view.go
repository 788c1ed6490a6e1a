package main

import (
	"cmp"
	"encoding/json"
	"net/netip"
	"strconv"
	"time"

	"github.com/portmon/portmon/internal/book"
	"github.com/portmon/portmon/internal/geo"
	"github.com/portmon/portmon/internal/text"
	"github.com/portmon/portmon/internal/text/cell"
	"github.com/portmon/portmon/ruleset"
)

// ban is a ban as it is shown: one prefix of an entry, on one line.
type ban struct {
	ruleset.Entry
	prefix netip.Prefix
	read   time.Time // when the kernel reported it

	known *book.Row // what is remembered of its source besides, or nil
	clock book.Clock
	place geo.Place
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

// whereabouts returns the cells of the ban's line that say where its source is.
func (b *ban) whereabouts() []string {
	const columns = 28 // for the network, of which some have long names
	return []string{cmp.Or(b.place.Country, "-"), cmp.Or(cell.Fit(b.place.System(), columns, "…"), "-")}
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
		ruleset.CauseOther: ", by another program", ruleset.CauseFleet: ", by the fleet",
	}[b.Cause]
	if remark := b.remark(); remark != "" {
		line += ": " + remark
	}
	return line
}

// allowance says until when a source is allowed, by whom, and why: "until
// 2026-01-18 11:04:26 by hand (audit)".
func (b *ban) allowance() string {
	line := forever
	if b.Remaining > 0 {
		line = "until " + b.read.Add(b.Remaining).Format(clockLayout)
	}
	if line += " by " + b.Cause.String(); b.Comment != "" {
		line += " (" + text.Printable(b.Comment) + ")"
	}
	return line
}

// MarshalJSON implements [json.Marshaler]. What is not known is left out.
func (b ban) MarshalJSON() ([]byte, error) { return b.appendJSON(nil), nil }

// appendJSON is MarshalJSON for very many bans, without reflection.
func (b *ban) appendJSON(to []byte) []byte {
	word := func(key, value string) {
		if value != "" {
			to = append(append(append(append(to, key...), '"'), value...), '"')
		}
	}
	span := func(key string, d time.Duration) {
		if d > 0 {
			to = seconds(d).Append(append(to, key...))
		}
	}
	date := func(key string, t time.Time) {
		if !t.IsZero() {
			to = append(t.UTC().AppendFormat(append(append(to, key...), '"'), time.RFC3339), '"')
		}
	}
	to = append(b.prefix.AppendTo(append(to, `{"prefix":"`...)), '"')
	family := "ip"
	if b.prefix.Addr().Is6() {
		family = "ip6"
	}
	word(`,"family":`, family)
	word(`,"set":`, b.Set)
	if b.Step > 0 {
		to = strconv.AppendInt(append(to, `,"tier":`...), int64(b.Step), 10)
	}
	because := `,"cause":`
	if b.Role.Allows() {
		because = `,"by":`
	}
	word(because, b.Cause.String())
	span(`,"timeout_seconds":`, b.Timeout)
	span(`,"expires_seconds":`, b.Remaining)
	if b.Remaining > 0 {
		date(`,"until":`, b.read.Add(b.Remaining))
	}
	date(`,"since":`, b.since())
	if b.known != nil {
		if more := mustJSON(offencesOf(b.known, b.clock)); len(more) > len("{}") {
			to = append(append(to, ','), more[1:len(more)-1]...)
		}
	}
	word(`,"country":`, b.place.Country)
	if b.place.ASN > 0 {
		to = strconv.AppendUint(append(to, `,"asn":`...), uint64(b.place.ASN), 10)
	}
	if b.place.Network != "" {
		to = append(append(to, `,"network":`...), mustJSON(b.place.Network)...)
	}
	if b.Comment != "" {
		to = append(append(to, `,"reason":`...), mustJSON(b.Comment)...)
	}
	return append(to, '}')
}

// mustJSON returns what is always possible in JSON: texts and numbers.
func mustJSON(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return b
}
