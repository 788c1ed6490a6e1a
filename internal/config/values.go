package config

import (
	"fmt"
	"strconv"
)

// The methods of reader in this package which take a value return what it says. They return false, and leave the default in
// place, if the key is not in the file; and also if the value is bad, which they report.

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

// parseInteger reads an integer as TOML writes them: "65_536", "+1", "0xff". It returns false if it does not fit.
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
