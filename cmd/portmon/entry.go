package main

import (
	"cmp"
	"encoding/json"
	"net/netip"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/portmon/portmon/internal/ledger"
	"github.com/portmon/portmon/internal/state"
	"github.com/portmon/portmon/ruleset"
)

// entry is a ban as it is shown: one prefix, one line.
type entry struct {
	prefix           netip.Prefix
	set              string
	tier             int           // 0 for the sets of prefixes
	timeout, expires time.Duration // 0 means for ever
	reason           string
	read             time.Time // when the kernel said so

	offences int    // of the source; 0 if it is not known
	proto    uint8  // of the last of them: IP protocol, 0 if it is not known
	port     uint16 // and port
}

// entries calls f for each prefix of a ban that was just read, mostly one. Other programs may have banned ranges that are no prefix.
func entries(b ruleset.Ban, now time.Time, f func(entry)) {
	reason, _ := ruleset.Offence(b.Comment)
	e := entry{set: b.Set, tier: b.Tier, timeout: b.Timeout, expires: b.Expires, reason: reason, read: now}
	if p, ok := b.Prefix(); ok {
		e.prefix = p
		f(e)
		return
	}
	for _, p := range b.Prefixes() {
		e.prefix = p
		f(e)
	}
}

// age returns how long ago the ban was made. ok is false if nobody can tell: the kernel only keeps the time that is left, which says
// nothing of a ban for ever, or of one that a rule renewed.
func (e *entry) age() (d time.Duration, ok bool) { return age(e.timeout, e.expires) }

func age(timeout, expires time.Duration) (d time.Duration, ok bool) {
	return timeout - expires, expires > 0 && timeout >= expires
}

// cause returns why there is the ban: what somebody noted beside it, or what is known of the offence, such as "tcp/23, 2 offences".
func (e *entry) cause() string {
	if e.reason != "" || e.offences == 0 {
		return e.reason
	}
	text := plural(e.offences, "offence")
	if port := portName(e.proto, e.port); port != "" {
		return port + ", " + text
	}
	return text
}

// tierName returns the tier as people read it.
func (e *entry) tierName() string {
	if e.tier == 0 {
		return "prefix"
	}
	return strconv.Itoa(e.tier)
}

// appendPrefix writes a prefix the short way: a single address without its length.
func appendPrefix(b []byte, p netip.Prefix) []byte {
	if p.IsSingleIP() {
		return p.Addr().AppendTo(b)
	}
	return p.AppendTo(b)
}

func shortPrefix(p netip.Prefix) string { return string(appendPrefix(nil, p)) }

// appendJSON writes an entry on one line. What is not known is left out.
func (e *entry) appendJSON(b []byte) []byte {
	b = append(b, `{"prefix":"`...)
	b = e.prefix.AppendTo(b)
	family := "ip"
	if e.prefix.Addr().Is6() {
		family = "ip6"
	}
	b = append(append(b, `","family":"`...), family...)
	b = append(append(append(b, `","set":"`...), e.set...), '"')
	if e.tier > 0 {
		b = strconv.AppendInt(append(b, `,"tier":`...), int64(e.tier), 10)
	}
	if e.timeout > 0 {
		b = state.AppendSeconds(append(b, `,"timeout_seconds":`...), e.timeout)
	}
	if e.expires > 0 {
		b = state.AppendSeconds(append(b, `,"expires_seconds":`...), e.expires)
		b = appendTime(append(b, `,"until":`...), e.read.Add(e.expires))
	}
	if age, ok := e.age(); ok {
		b = appendTime(append(b, `,"since":`...), e.read.Add(-age))
	}
	reason := e.reason
	if e.offences > 0 {
		b = strconv.AppendInt(append(b, `,"offences":`...), int64(e.offences), 10)
		b = e.appendPortJSON(b)
		reason = cmp.Or(reason, "trap")
	}
	if reason != "" {
		b = append(append(b, `,"reason":`...), jsonString(reason)...)
	}
	return append(b, '}')
}

func (e *entry) appendPortJSON(b []byte) []byte {
	if e.proto == 0 {
		return b
	}
	b = append(append(b, `,"last_protocol":`...), jsonString(ledger.ProtocolName(e.proto))...)
	if e.port == 0 {
		return b
	}
	return strconv.AppendUint(append(b, `,"last_port":`...), uint64(e.port), 10)
}

func appendTime(b []byte, t time.Time) []byte {
	b = append(b, '"')
	b = t.UTC().AppendFormat(b, time.RFC3339)
	return append(b, '"')
}

func jsonString(s string) []byte {
	b, err := json.Marshal(s)
	if err != nil {
		panic("a string is always JSON: " + err.Error())
	}
	return b
}

// appendShort writes a duration so that it can be read at a glance: rounded to its two largest units.
func appendShort(b []byte, d time.Duration) []byte {
	const day = 24 * time.Hour
	units := [...]struct {
		size time.Duration
		name byte
	}{{day, 'd'}, {time.Hour, 'h'}, {time.Minute, 'm'}, {time.Second, 's'}}
	for i, u := range units[:3] {
		next, afterNext := units[i+1], units[min(i+2, len(units)-1)]
		if d < u.size-afterNext.size/2 {
			continue // even rounded, it is shorter
		}
		d = d.Round(next.size)
		b = append(strconv.AppendInt(b, int64(d/u.size), 10), u.name)
		if n := d % u.size / next.size; n > 0 {
			b = append(strconv.AppendInt(b, int64(n), 10), next.name)
		}
		return b
	}
	return append(strconv.AppendInt(b, int64(d.Round(time.Second)/time.Second), 10), 's')
}

func short(d time.Duration) string { return string(appendShort(nil, d)) }

// appendPadded writes s and fills up with blanks to a number of columns.
func appendPadded(b []byte, s string, columns int) []byte {
	b = append(b, s...)
	for range columns - utf8.RuneCountInString(s) {
		b = append(b, ' ')
	}
	return b
}
