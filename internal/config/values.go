package config

import (
	"fmt"
	"strconv"
	"strings"
)

// kind is the type of a TOML value, in the words of an error message.
type kind string

const (
	absent        kind = "" // the key is not in the file
	aString       kind = "a string"
	anInteger     kind = "an integer"
	aFloat        kind = "a number with a fraction"
	aBoolean      kind = "a boolean"
	aDate         kind = "a date or time"
	aList         kind = "a list"
	aTable        kind = "a table"
	aListOfTables kind = "a list of tables"
)

// value is a TOML value and where it stands.
type value struct {
	at    Place // without Value, which source makes when it is needed
	kind  kind
	text  string  // what a string says; how any other scalar is written
	items []value // of a list
}

// source returns the value as TOML would write it, on one line, shortened if it
// is long.
func (v value) source() string {
	switch v.kind {
	case aString:
		return quote(v.text)
	case aList:
		const limit = 4
		var items []string
		for _, item := range v.items[:min(limit, len(v.items))] {
			items = append(items, item.source())
		}
		if len(v.items) > limit {
			items = append(items, "…")
		}
		return shorten("[" + strings.Join(items, ", ") + "]")
	case aTable, aListOfTables:
		return "" // its keys may be many, and have their own lines
	default:
		return shorten(v.text)
	}
}

// place returns the value's place, with the value.
func (v value) place() Place {
	v.at.Value = v.source()
	return v.at
}

// The methods of reader in this package which take a value return what it says.
// They return false, and leave the default in place, if the key is not in the
// file; and also if the value is bad, which they report.

// list returns the elements of a list. What names them.
func (r *reader) list(v value, what string) ([]value, bool) {
	if v.kind != aList && v.kind != absent {
		r.fault(v.place(), "want a list of %s in brackets, not %s", what, v.kind)
	}
	return v.items, v.kind == aList
}

// text returns a string. What says what it should be.
func (r *reader) text(v value, what string) (string, bool) {
	if v.kind != aString && v.kind != absent {
		r.fault(v.place(), "want %s, not %s", what, v.kind)
	}
	return v.text, v.kind == aString
}

// integer returns an integer from low to high.
func (r *reader) integer(v value, low, high int64) (int64, bool) {
	switch v.kind {
	case absent:
		return 0, false
	case anInteger:
		n, ok := parseInteger(v.text)
		if !ok || n < low || n > high {
			r.fault(v.place(), "want an integer from %d to %d", low, high)
			return 0, false
		}
		return n, true
	default:
		r.fault(v.place(), "want an integer from %d to %d, not %s", low, high, v.kind)
		return 0, false
	}
}

// parseInteger reads an integer as TOML writes them: "65_536", "+1", "0xff". It
// returns false if it does not fit.
func parseInteger(s string) (int64, bool) {
	n, err := strconv.ParseInt(s, 0, 64)
	return n, err == nil
}

// position writes where in the file a place is.
func position(p Place) string { return fmt.Sprintf("line %d, column %d", p.Line, p.Column) }

// after reports whether a stands further down in the file than b.
func after(a, b Place) bool {
	return a.Line > b.Line || a.Line == b.Line && a.Column > b.Column
}
