package book

import (
	"encoding/json"
	"math"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/portmon/portmon/ruleset"
)

const rowStart = `{"prefix":"`

// appendRow appends the line of a normalized row, or that its source is free,
// with dates of that clock. What is zero is left out.
func appendRow(b []byte, r *Row, free bool, c Clock) []byte {
	if r.Before != nil {
		b = appendRow(b, r.Before, false, c) // a line of its own, ahead
	}
	date := func(key string, m Moment) {
		b = append(c.Time(m).UTC().AppendFormat(append(b, key...), time.RFC3339Nano), '"')
	}
	number := func(key string, n int) { b = strconv.AppendInt(append(b, key...), int64(n), 10) }
	b = append(r.Source.AppendTo(append(b, rowStart...)), '"')
	if free || r.Allowed || r.Observed && r.Before == nil { // earlier versions read just that of an allowance
		b = append(b, `,"free":true`...)
	}
	if r.Observed {
		b = append(b, `,"observed":true`...)
	}
	if r.Allowed {
		b = append(b, `,"allowed":true`...)
	}
	switch {
	case free || !r.Banned && !r.Allowed:
	case r.Timeout == 0:
		b = append(b, `,"permanent":true`...)
	default:
		b = strconv.AppendFloat(append(b, `,"timeout_seconds":`...), r.Timeout.Seconds(), 'f', -1, 64)
		date(`,"until":"`, r.Until)
	}
	if r.Step > 0 {
		number(`,"tier":`, r.Step)
		date(`,"tier_until":"`, r.StepUntil)
	}
	if r.Cause != ruleset.CauseUnknown {
		b = append(append(append(b, `,"cause":"`...), r.Cause.String()...), '"')
	}
	if r.Offences > 0 {
		number(`,"offences":`, r.Offences)
	}
	if r.First != r.Last {
		date(`,"first":"`, r.First)
	}
	if r.Last != 0 {
		date(`,"last":"`, r.Last)
	}
	if r.Proto != 0 {
		number(`,"last_protocol":`, int(r.Proto))
	}
	if r.Port != 0 {
		number(`,"last_port":`, int(r.Port))
	}
	if r.ByHand {
		b = append(b, `,"by_hand":true`...)
	}
	if r.Comment != "" {
		b = append(append(b, `,"comment":`...), mustJSON(r.Comment)...)
	}
	return append(b, "}\n"...)
}

func mustJSON(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic("headers and strings are always JSON: " + err.Error())
	}
	return b
}

// line is what a line of the file says of a source. encoding/json would take
// four times as long to read it, and ten times as long to write it: half a
// million are to be written within a second.
type line struct {
	Row
	free      bool // the source is unbanned and forgotten, or was not known before it was observed
	permanent bool // the ban or the allowance is for ever
}

// parse reads an object, whose dates are of that clock, and returns the key of
// its source. It returns false for anything else: what a damaged line seems to
// say must not replace what a whole one says.
func (l *line) parse(s string, c Clock) (key, bool) {
	*l = line{}
	sign, s := token(s)
	for open := "{"; sign == open; open = "," {
		var name, colon, value string
		name, s = token(s)
		colon, s = token(s)
		value, s = token(s)
		if colon != ":" || !l.set(name, value, c) {
			return key{}, false
		}
		sign, s = token(s)
	}
	if end, _ := token(s); sign != "}" || end != "" || l.Timeout > 0 && l.Until == 0 {
		return key{}, false
	}
	l.Banned = l.permanent || l.Timeout > 0
	if l.Allowed {
		if !l.Banned {
			return key{}, false
		}
		l.free, l.Banned = false, false
	}
	if l.permanent {
		l.Timeout = 0
	}
	if !l.free && !l.Banned && !l.Allowed && l.Step == 0 && l.Offences == 0 {
		return key{}, false // it would take the place of one that says something
	}
	return l.normalize()
}

// set sets what a name in its quotes stands for, and returns false if the value
// cannot be that.
func (l *line) set(name, value string, c Clock) (ok bool) {
	switch name {
	case `"prefix"`:
		var text string
		var err error
		text, ok = unquote(value)
		l.Source, err = netip.ParsePrefix(text)
		return ok && err == nil
	case `"free"`:
		return parseBool(value, &l.free)
	case `"observed"`:
		return parseBool(value, &l.Observed)
	case `"allowed"`:
		return parseBool(value, &l.Allowed)
	case `"permanent"`:
		return parseBool(value, &l.permanent)
	case `"by_hand"`:
		return parseBool(value, &l.ByHand)
	case `"timeout_seconds"`:
		f, err := strconv.ParseFloat(value, 64)
		if err != nil || !(f >= 0 && f <= horizon.Seconds()) || strings.ContainsAny(value[:min(2, len(value))], "+xX") {
			return false // ParseFloat takes NaN, and more that JSON does not have
		}
		l.Timeout = time.Duration(math.Round(f*1000)) * time.Millisecond
		return true
	case `"until"`:
		return parseDate(value, &l.Until, c)
	case `"tier_until"`:
		return parseDate(value, &l.StepUntil, c)
	case `"first"`:
		return parseDate(value, &l.First, c)
	case `"last"`:
		return parseDate(value, &l.Last, c)
	case `"tier"`:
		return parseNumber(value, 31, &l.Step)
	case `"offences"`:
		return parseNumber(value, 31, &l.Offences)
	case `"last_protocol"`:
		return parseNumber(value, 8, &l.Proto)
	case `"last_port"`:
		return parseNumber(value, 16, &l.Port)
	case `"cause"`:
		text, isText := unquote(value)
		l.Cause, ok = ruleset.ParseCause(text)
		return isText && (ok || json.Valid([]byte(value))) // a later version has written it
	case `"comment"`:
		return strings.HasPrefix(value, `"`) && json.Unmarshal([]byte(value), &l.Comment) == nil
	}
	// Of a later version, which adds no lists and no objects.
	return strings.HasPrefix(name, `"`) && json.Valid([]byte(name)) && json.Valid([]byte(value))
}

func parseBool(value string, to *bool) bool {
	*to = value == "true"
	return *to || value == "false"
}

func parseNumber[T int | uint8 | uint16](value string, bits int, to *T) bool {
	n, err := strconv.ParseUint(value, 10, bits)
	*to = T(n)
	return err == nil
}

func parseDate(value string, to *Moment, c Clock) bool {
	text, ok := unquote(value)
	t, err := time.Parse(time.RFC3339Nano, text)
	*to = c.Boot.Add(min(max(t.Sub(c.Wall), -horizon), horizon))
	return ok && err == nil
}

// unquote returns what a string in its quotes says.
func unquote(value string) (text string, ok bool) {
	last := len(value) - 1
	if last < 1 || value[0] != '"' || value[last] != '"' {
		return "", false
	}
	if strings.IndexByte(value, '\\') < 0 {
		return value[1:last], true
	}
	var unescaped string // on the heap, where text had better not be
	ok = json.Unmarshal([]byte(value), &unescaped) == nil
	return unescaped, ok
}

// token returns what a text begins with: a sign, a string in its quotes, or a
// number or word; "" at the end.
func token(s string) (token, rest string) {
	for s != "" && s[0] <= ' ' && strings.IndexByte(" \t\r\n", s[0]) >= 0 {
		s = s[1:]
	}
	if s == "" {
		return "", ""
	}
	n := 1
	switch s[0] {
	case '{', '}', ':', ',':
	case '"':
		for n < len(s) && s[n] != '"' {
			if s[n] == '\\' {
				n++
			}
			n++
		}
		n = min(n+1, len(s))
	default:
		for n < len(s) && s[n] > ' ' && s[n] != ',' && s[n] != '}' {
			n++
		}
	}
	return s[:n], s[n:]
}
