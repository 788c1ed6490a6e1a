package config

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// What is reported of one file, faults and warnings counted apart. A list of
// addresses in the wrong format is one mistake, not a hundred thousand; and so
// is a wrong file given for the configuration, all of whose keys are unknown.
const (
	maxReports          = 100 // of the configuration file
	maxWhitelistReports = 20
)

// Place says what an [Error] or a [Warning] is about.
type Place struct {
	File string

	// Line and Column count from 1, columns in bytes. They are 0 if the file as
	// a whole is meant.
	Line, Column int

	// Key is the key in full, such as "trap.tcp". It is empty in a whitelist
	// file and where the fault is one of syntax.
	Key string

	// Value is the value at fault as TOML would write it, shortened if need be.
	// It is empty if the key itself is meant.
	Value string
}

// String returns what is known of "file:line:column: key: value".
func (p Place) String() string {
	var b strings.Builder
	b.WriteString(p.File)
	for _, n := range []int{p.Line, p.Column} {
		if n > 0 {
			b.WriteString(":" + strconv.Itoa(n))
		}
	}
	for _, s := range []string{p.Key, p.Value} {
		if s != "" {
			b.WriteString(": " + s)
		}
	}
	return b.String()
}

// Error is one fault of a configuration.
type Error struct {
	Place
	Err error // what is wrong, and what is allowed

	hint string
}

// Error returns "file:line:column: key: value: what is wrong", on one line.
func (e *Error) Error() string { return e.String() + ": " + e.Err.Error() }

// Unwrap returns e.Err.
func (e *Error) Unwrap() error { return e.Err }

// Hint returns a guess at what was meant, phrased as a question, or "" if there
// is none. Only faults of syntax have hints: the others say in Err what is
// allowed.
func (e *Error) Hint() string { return e.hint }

// Errors are all faults of a configuration: those of the configuration file
// first, then those of its whitelist files in the order in which they are
// listed, each ordered by line. Of a whitelist file with more than 20 faults
// the first 20 are here, and an entry which counts the rest; the limit of the
// configuration file is 100.
type Errors []*Error

// Error returns all faults, one per line.
func (e Errors) Error() string {
	lines := make([]string, len(e))
	for i, err := range e {
		lines[i] = err.Error()
	}
	return strings.Join(lines, "\n")
}

// Unwrap returns the faults.
func (e Errors) Unwrap() []error {
	errs := make([]error, len(e))
	for i, err := range e {
		errs[i] = err
	}
	return errs
}

// Warning is something that is accepted, but that the administrator should look
// at.
type Warning struct {
	Place
	Text string
}

// String returns "file:line:column: key: value: text", on one line.
func (w Warning) String() string { return w.Place.String() + ": " + w.Text }

// tidy puts what was found into its final order, and cuts what is too much of
// one file. Files are in the order of the reports, the configuration file
// first.
func tidy(found Errors, files []string) Errors {
	slices.SortStableFunc(found, func(a, b *Error) int {
		return cmp.Or(
			cmp.Compare(slices.Index(files, a.File), slices.Index(files, b.File)),
			cmp.Compare(a.Line, b.Line),
			cmp.Compare(a.Column, b.Column),
		)
	})
	var kept Errors
	for i, file := range files {
		n := 0
		for n < len(found) && found[n].File == file {
			n++
		}
		limit := maxReports
		if i > 0 {
			limit = maxWhitelistReports
		}
		kept = append(kept, found[:min(n, limit)]...)
		if n > limit {
			at := Place{File: file, Line: found[limit].Line}
			kept = append(kept, &Error{Place: at, Err: fmt.Errorf("and %d more", n-limit)})
		}
		found = found[n:]
	}
	return kept
}

// quote returns s as a string on one line which is safe to print, shortened if
// it is long.
func quote(s string) string {
	short := cut(s)
	if len(short) < len(s) {
		return strconv.Quote(short) + "…"
	}
	return strconv.Quote(s)
}

// shorten returns s, or its beginning if it is long.
func shorten(s string) string {
	if short := cut(s); len(short) < len(s) {
		return short + "…"
	}
	return s
}

// cut returns the beginning of s, as much as a message has room for.
func cut(s string) string {
	limit := 60
	if len(s) <= limit {
		return s
	}
	for limit > 0 && !utf8.RuneStart(s[limit]) {
		limit--
	}
	return s[:limit]
}
