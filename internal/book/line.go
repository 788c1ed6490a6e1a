package book

import (
	"encoding/json"
	"math"
	"net/netip"
	"reflect"
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

// append appends a normalized row, or that its source is free, with dates of
// that clock. What is zero is left out.
func (l *line) append(b []byte, r *Row, free bool, c Clock) []byte {
	l.Row, l.free, l.permanent = *r, free, r.Banned && r.Timeout == 0
	if l.First == l.Last {
		l.First = 0
	}
	separator := byte('{')
	for _, f := range l.fields {
		if reflect.ValueOf(f.value).Elem().IsZero() {
			continue
		}
		b = append(append(append(b, separator), f.key...), ':')
		separator = ','
		switch v := f.value.(type) {
		case *bool:
			b = append(b, "true"...)
		case *int:
			b = strconv.AppendInt(b, int64(*v), 10)
		case *uint8:
			b = strconv.AppendUint(b, uint64(*v), 10)
		case *uint16:
			b = strconv.AppendUint(b, uint64(*v), 10)
		case *time.Duration:
			b = strconv.AppendFloat(b, v.Seconds(), 'f', -1, 64)
		case *Moment:
			b = append(c.Time(*v).UTC().AppendFormat(append(b, '"'), time.RFC3339Nano), '"')
		case *ruleset.Cause:
			b = append(append(append(b, '"'), v.String()...), '"')
		case *netip.Prefix:
			b = append(v.AppendTo(append(b, '"')), '"')
		case *string:
			b = append(b, mustJSON(*v)...)
		}
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

// parse reads an object of strings, numbers and flags, whose dates are of that
// clock, and returns the key of its source, and false for anything else.
func (l *line) parse(s string, c Clock) (key, bool) {
	l.Row, l.free, l.permanent = Row{}, false, false
	next := 0
	sign, s := token(s)
	for open := "{"; sign == open; open = "," {
		var name, colon, value string
		name, s = token(s)
		colon, s = token(s)
		value, s = token(s)
		sign, s = token(s)
		if colon != ":" {
			return key{}, false
		}
		for range l.fields { // most often, the first one; a later version may have others
			f := l.fields[next]
			if next = (next + 1) % len(l.fields); f.key == name {
				if parseValue(value, f.value, c) != nil {
					return key{}, false
				}
				break
			}
		}
	}
	if end, _ := token(s); sign != "}" || end != "" || l.Timeout > 0 && l.Until == 0 {
		return key{}, false
	}
	l.Banned = l.permanent || l.Timeout > 0
	if l.permanent {
		l.Timeout = 0
	}
	return l.normalize()
}

func parseValue(value string, to any, c Clock) (err error) {
	var n uint64
	text := strings.Trim(value, `"`)
	switch to := to.(type) {
	case *bool:
		*to, err = strconv.ParseBool(text)
	case *int:
		n, err = strconv.ParseUint(text, 10, 31)
		*to = int(n)
	case *uint8:
		n, err = strconv.ParseUint(text, 10, 8)
		*to = uint8(n)
	case *uint16:
		n, err = strconv.ParseUint(text, 10, 16)
		*to = uint16(n)
	case *time.Duration:
		var f float64
		f, err = strconv.ParseFloat(text, 64)
		*to = time.Duration(math.Round(min(f, 2*horizon.Seconds())*1000)) * time.Millisecond
	case *Moment:
		var t time.Time
		t, err = time.Parse(time.RFC3339Nano, text)
		*to = c.Boot.Add(min(max(t.Sub(c.Wall), -horizon), horizon))
	case *ruleset.Cause:
		*to, _ = ruleset.ParseCause(text) // unknown if a later version wrote it
	case *netip.Prefix:
		*to, err = netip.ParsePrefix(text)
	case *string:
		err = json.Unmarshal([]byte(value), to)
	}
	return err
}

// token returns what a text begins with: a sign, a string in its quotes, or a
// number or word; "" at the end.
func token(s string) (token, rest string) {
	for s != "" && s[0] <= ' ' {
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
