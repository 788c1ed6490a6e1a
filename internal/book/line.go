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

// line is what a line of the file says of a source. encoding/json would take
// four times as long to read it, and ten times as long to write it: half a
// million are to be written within a second.
type line struct {
	Row
	free      bool // the source is unbanned and forgotten
	permanent bool // the ban is for ever
	fields    []field
}

// field is a key in its quotes, and a pointer to the value.
type field struct {
	key   string
	value any
}

const rowStart = `{"prefix":"`

// newLine returns a line to be used for many rows.
func newLine() *line {
	l := new(line)
	l.fields = []field{
		{`"prefix"`, &l.Source},
		{`"free"`, &l.free},
		{`"permanent"`, &l.permanent},
		{`"timeout_seconds"`, &l.Timeout},
		{`"until"`, &l.Until},
		{`"tier"`, &l.Step},
		{`"tier_until"`, &l.StepUntil},
		{`"cause"`, &l.Cause},
		{`"offences"`, &l.Offences},
		{`"first"`, &l.First},
		{`"last"`, &l.Last},
		{`"last_protocol"`, &l.Proto},
		{`"last_port"`, &l.Port},
		{`"by_hand"`, &l.ByHand},
		{`"comment"`, &l.Comment},
	}
	return l
}

// appendRow appends the line of a normalized row, or that its source is free,
// with dates of that clock. What is zero is left out.
func appendRow(b []byte, r *Row, free bool, c Clock) []byte {
	date := func(key string, m Moment) {
		b = append(c.Time(m).UTC().AppendFormat(append(b, key...), time.RFC3339Nano), '"')
	}
	number := func(key string, n int) { b = strconv.AppendInt(append(b, key...), int64(n), 10) }
	b = append(r.Source.AppendTo(append(b, rowStart...)), '"')
	switch {
	case free:
		b = append(b, `,"free":true`...)
	case r.Banned && r.Timeout == 0:
		b = append(b, `,"permanent":true`...)
	case r.Banned:
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

// parse reads an object, whose dates are of that clock, and returns the key of
// its source. It returns false for anything else: what a damaged line seems to
// say must not replace what a whole one says.
func (l *line) parse(s string, c Clock) (key, bool) {
	l.Row, l.free, l.permanent = Row{}, false, false
	next := 0
	sign, s := token(s)
	for open := "{"; sign == open; open = "," {
		var name, colon, value string
		name, s = token(s)
		colon, s = token(s)
		if colon != ":" {
			return key{}, false
		}
		rest, known := s, false
		value, s = token(s)
		for range l.fields { // most often, it is the first one
			f := l.fields[next]
			if next = (next + 1) % len(l.fields); f.key == name {
				if known = true; !parseValue(value, f.value, c) {
					return key{}, false
				}
				break
			}
		}
		if !known { // of a later version
			var skipped json.RawMessage
			d := json.NewDecoder(strings.NewReader(rest))
			if !strings.HasPrefix(name, `"`) || !json.Valid([]byte(name)) || d.Decode(&skipped) != nil {
				return key{}, false
			}
			s = rest[d.InputOffset():]
		}
		sign, s = token(s)
	}
	if end, _ := token(s); sign != "}" || end != "" || l.Timeout > 0 && l.Until == 0 {
		return key{}, false
	}
	l.Banned = l.permanent || l.Timeout > 0
	if l.permanent {
		l.Timeout = 0
	}
	if !l.free && !l.Banned && l.Step == 0 && l.Offences == 0 {
		return key{}, false // it would take the place of one that says something
	}
	return l.normalize()
}

// parseValue reads a value, and returns false if it is none of that type.
func parseValue(value string, to any, c Clock) bool {
	switch to := to.(type) {
	case *bool:
		*to = value == "true"
		return *to || value == "false"
	case *int:
		n, err := strconv.ParseUint(value, 10, 31)
		*to = int(n)
		return err == nil
	case *uint8:
		n, err := strconv.ParseUint(value, 10, 8)
		*to = uint8(n)
		return err == nil
	case *uint16:
		n, err := strconv.ParseUint(value, 10, 16)
		*to = uint16(n)
		return err == nil
	case *time.Duration:
		f, err := strconv.ParseFloat(value, 64)
		if err != nil || !(f >= 0 && f <= horizon.Seconds()) || strings.ContainsAny(value[:min(2, len(value))], "+xX") {
			return false // ParseFloat takes NaN, and more that JSON does not have
		}
		*to = time.Duration(math.Round(f*1000)) * time.Millisecond
		return true
	case *string:
		return strings.HasPrefix(value, `"`) && json.Unmarshal([]byte(value), to) == nil
	}
	text, ok := unquote(value)
	if !ok {
		return false
	}
	switch to := to.(type) {
	case *Moment:
		t, err := time.Parse(time.RFC3339Nano, text)
		*to = c.Boot.Add(min(max(t.Sub(c.Wall), -horizon), horizon))
		return err == nil
	case *netip.Prefix:
		var err error
		*to, err = netip.ParsePrefix(text)
		return err == nil
	case *ruleset.Cause:
		var known bool
		*to, known = ruleset.ParseCause(text)
		return known || json.Valid([]byte(value)) // a later version has written it
	}
	return false
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
