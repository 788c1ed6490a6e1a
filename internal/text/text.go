// Package text writes durations, lists, prefixes, ports and foreign text the
// same way wherever portmon shows them, and reads durations and clocks. It
// imports nothing of portmon, so that every other package may use it.
package text

import (
	"cmp"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"golang.org/x/sys/unix"
)

const day = 24 * time.Hour

var units = [...]struct {
	size time.Duration
	name string
}{{day, "d"}, {time.Hour, "h"}, {time.Minute, "m"}, {time.Second, "s"}, {time.Millisecond, "ms"}}

// Duration writes a duration in full, as nft and the configuration do:
// "1d2h3m4s5ms", or "0s". A fraction of a millisecond is rounded up, because a
// timeout of 0 means "never" to the kernel.
func Duration(d time.Duration) string {
	d += time.Millisecond - 1
	s := ""
	for _, u := range units {
		if n := d / u.size; n > 0 {
			s += strconv.FormatInt(int64(n), 10) + u.name
			d %= u.size
		}
	}
	if s == "" {
		return "0s"
	}
	return s
}

// durationForm has the units that [ParseDuration] reads, in their order. Months
// and years are left out, as they have no fixed length.
var durationForm = regexp.MustCompile(`^(?:(\d+)w)?(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?$|^(\d+)$`)

// ParseDuration reads a duration from low to high such as "90s", "8h" or
// "1d12h": whole numbers of w, d, h, m and s, each unit at most once and the
// longest first, without spaces. A number alone is seconds. The error says what
// is wanted and does not repeat s.
func ParseDuration(s string, low, high time.Duration) (time.Duration, error) {
	examples := `90 (seconds) or "10m"`
	if high >= 7*day {
		examples = `90 (seconds), "10m", "8h", "3d", "1w" or "1d12h"`
	}
	wanted := fmt.Errorf("want a duration from %s to %s, such as %s", Duration(low), Duration(high), examples)
	parts := durationForm.FindStringSubmatch(s)
	switch {
	case strings.HasSuffix(s, "y") || strings.HasSuffix(s, "mo"):
		return 0, fmt.Errorf("months and years have no fixed length: %w", wanted)
	case parts == nil || s == "":
		return 0, wanted
	}
	var d time.Duration
	for i, unit := range []time.Duration{7 * day, day, time.Hour, time.Minute, time.Second, time.Second} {
		n, err := strconv.ParseInt(cmp.Or(parts[i+1], "0"), 10, 64)
		if err != nil || n > int64((high-d)/unit) {
			return 0, wanted
		}
		d += time.Duration(n) * unit
	}
	if d < low {
		return 0, wanted
	}
	return d, nil
}

// ShortDuration writes a duration that people read at a glance, rounded to
// seconds and to its two largest units: "2d20h", "59m1s", "0s".
func ShortDuration(d time.Duration) string {
	for i, u := range units[:3] {
		next, afterNext := units[i+1].size, units[min(i+2, 3)].size
		if d >= u.size-afterNext/2 { // or it does not even round up to this unit
			return Duration(d.Round(next))
		}
	}
	return Duration(d.Round(time.Second))
}

// Size writes a number of bytes in the largest unit that leaves no rest, such
// as "16 MiB", "64 KiB" or "1000 bytes".
func Size(n int64) string {
	switch {
	case n != 0 && n%(1<<20) == 0:
		return strconv.FormatInt(n>>20, 10) + " MiB"
	case n != 0 && n%(1<<10) == 0:
		return strconv.FormatInt(n>>10, 10) + " KiB"
	}
	return strconv.FormatInt(n, 10) + " bytes"
}

// Plural returns "1 ban", "2 bans".
func Plural(n int, noun string) string {
	if n != 1 {
		noun += "s"
	}
	return strconv.Itoa(n) + " " + noun
}

// Enumerate writes a list as a sentence does: "a, b or c".
func Enumerate(words []string, conjunction string) string {
	last := len(words) - 1
	if last < 1 {
		return strings.Join(words, "")
	}
	return strings.Join(words[:last], ", ") + " " + conjunction + " " + words[last]
}

// Prefix writes a prefix the short way: a single address without its length,
// and "" for the zero value.
func Prefix(p netip.Prefix) string {
	switch {
	case !p.IsValid():
		return ""
	case p.IsSingleIP():
		return p.Addr().String()
	}
	return p.String()
}

// ComparePrefixes orders prefixes by address, shorter ones first.
func ComparePrefixes(a, b netip.Prefix) int {
	return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
}

// Protocol returns "tcp", "udp", the number of any other IP protocol, or "" for
// 0, which means that it is not known.
func Protocol(proto uint8) string {
	switch proto {
	case 0:
		return ""
	case unix.IPPROTO_TCP:
		return "tcp"
	case unix.IPPROTO_UDP:
		return "udp"
	}
	return strconv.Itoa(int(proto))
}

// Port returns "tcp/23", "tcp" without a port, or "" if neither is known.
func Port(proto uint8, port uint16) string {
	return NamedPort(Protocol(proto), port)
}

// NamedPort is [Port] of a protocol by its name.
func NamedPort(proto string, port uint16) string {
	if proto == "" || port == 0 {
		return proto
	}
	return proto + "/" + strconv.Itoa(int(port))
}

// Seconds is a duration in JSON: a number with at most three decimals.
type Seconds time.Duration

// MarshalJSON implements [encoding/json.Marshaler].
func (s Seconds) MarshalJSON() ([]byte, error) { return s.Append(nil), nil }

// Append appends the JSON to b.
func (s Seconds) Append(b []byte) []byte {
	return strconv.AppendFloat(b, time.Duration(s).Round(time.Millisecond).Seconds(), 'f', -1, 64)
}

// ClockTime returns the moment at which the clocks of a zone show what u shows.
// If summer time begins at that midnight, they skip it: the day begins an hour
// later, but [time.Date] may return a moment of the day before.
func ClockTime(u time.Time, zone *time.Location) time.Time {
	t := time.Date(u.Year(), u.Month(), u.Day(), u.Hour(), u.Minute(), u.Second(), u.Nanosecond(), zone)
	if t.Day() != u.Day() {
		t = t.Add(time.Hour)
	}
	return t
}

// Join joins those parts that are not empty.
func Join(separator string, parts ...string) string {
	return strings.Join(slices.DeleteFunc(parts, func(s string) bool { return s == "" }), separator)
}

// Printable makes foreign text safe for a terminal, a log, a header or an
// environment: one line, white space as blanks, and U+FFFD for what is neither,
// such as the start of an escape sequence.
func Printable(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case unicode.IsSpace(r):
			return ' '
		case unicode.IsPrint(r):
			return r
		}
		return unicode.ReplacementChar
	}, s)
}

// Shorten returns s, or its first characters and "…" if it has more than that.
func Shorten(s string, limit int) string {
	n := 0
	for i := range s {
		if n++; n > limit {
			return s[:i] + "…"
		}
	}
	return s
}
