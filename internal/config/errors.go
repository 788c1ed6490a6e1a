package config

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"

	"github.com/portmon/portmon/internal/text"
)

// Error is one fault of a configuration, or one of its [Config.Warnings].
type Error struct {
	File string

	// Line and Column count from 1, columns in bytes. In the configuration they
	// are those of the key, also for an element of a list. They are 0 if the
	// file as a whole is meant, or if it has too many keys to locate them.
	Line, Column int

	// Err says what is wrong, with the key and the value, and what is wanted.
	Err error
}

// Error returns "file:line:column: key: value: what is wrong", on one line,
// without what is not known.
func (e *Error) Error() string {
	place := e.File
	if e.Line > 0 {
		place = fmt.Sprintf("%s:%d:%d", e.File, e.Line, e.Column)
	}
	return place + ": " + text.Printable(e.Err.Error())
}

// Unwrap returns e.Err.
func (e *Error) Unwrap() error { return e.Err }

// Errors are the faults of a configuration: those of the configuration file
// first, ordered by line, then those of its whitelist files as they are read.
// There are at most 20, then an entry that says that there are more.
type Errors []*Error

// Error returns all faults, one per line.
func (e Errors) Error() string { return errors.Join(e.Unwrap()...).Error() }

// Unwrap returns the faults.
func (e Errors) Unwrap() []error {
	errs := make([]error, len(e))
	for i, err := range e {
		errs[i] = err
	}
	return errs
}

// maxReports is how many faults, and how many warnings, are reported. A list of
// addresses in the wrong format is one mistake, not a hundred thousand.
const maxReports = 20

// add appends an error, unless there are already more than are reported.
func (e *Errors) add(err *Error) {
	if len(*e) <= maxReports {
		*e = append(*e, err)
	}
}

// finish sorts what was found in a configuration file and its whitelist files,
// and says whether there is more.
func (e Errors) finish(file string) Errors {
	line := func(err *Error) int {
		if err.File != file {
			return math.MaxInt
		}
		return err.Line
	}
	slices.SortStableFunc(e, func(a, b *Error) int { return line(a) - line(b) })
	if len(e) > maxReports {
		e[maxReports].Err = fmt.Errorf("and more: only %d are shown", maxReports)
	}
	return e
}

// maxQuoted bounds a value in a message, in characters.
const maxQuoted = 60

// quote returns s as a string on one line that is safe to print, shortened if
// it is long.
func quote(s string) string { return strconv.Quote(text.Shorten(s, maxQuoted)) }
