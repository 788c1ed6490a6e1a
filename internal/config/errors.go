package config

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/portmon/portmon/internal/text"
)

// maxReports is how many faults, and how many warnings, are reported of a file.
// A list of addresses in the wrong format is one mistake, not a hundred thousand.
const maxReports = 20

// Error is one fault of a configuration, or one of its [Config.Warnings].
type Error struct {
	File string

	// Line and Column count from 1, columns in bytes. In the configuration they
	// are those of the key, also for an element of a list. They are 0 if the
	// file as a whole is meant, or if it has too many keys to locate them.
	Line, Column int

	// Key is the key in full, such as "trap.tcp". It is empty in a whitelist
	// file, and for faults of syntax.
	Key string

	// Value is the value at fault as TOML would write it, shortened if need be.
	// It is empty if the key itself is meant.
	Value string

	Err error // what is wrong, and what is wanted

	// Hint is a guess at what is wrong, or "".
	Hint string
}

// Error returns "file:line:column: key: value: what is wrong", on one line,
// without what is not known.
func (e *Error) Error() string {
	s := e.File
	for _, n := range []int{e.Line, e.Column} {
		if n > 0 {
			s += ":" + strconv.Itoa(n)
		}
	}
	for _, part := range []string{e.Key, e.Value, e.Err.Error()} {
		if part != "" {
			s += ": " + part
		}
	}
	return s
}

// Unwrap returns e.Err.
func (e *Error) Unwrap() error { return e.Err }

// Errors are the faults of a configuration: those of the configuration file
// first, then those of its whitelist files in the order in which they are
// listed, each ordered by line. There are at most 20 of each file, then an entry
// that says that there are more.
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

// limited cuts what was found in one file to maxReports entries, and one that
// says that there are more.
func limited(found Errors) Errors {
	if len(found) <= maxReports {
		return found
	}
	next := found[maxReports]
	return append(found[:maxReports:maxReports],
		&Error{File: next.File, Line: next.Line, Err: fmt.Errorf("and more: only the first %d are shown", maxReports)})
}

// maxQuoted bounds a value in a message, in characters.
const maxQuoted = 60

// quote returns s as a string on one line that is safe to print, shortened if
// it is long.
func quote(s string) string { return strconv.Quote(text.Shorten(s, maxQuoted)) }
