package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/internal/book"
	"github.com/portmon/portmon/internal/config"
	"github.com/portmon/portmon/nftset"
	"github.com/portmon/portmon/ruleset"
)

// Exit codes. Scripts and units rely on them.
const (
	exitDone       = 0
	exitFailed     = 1
	exitUsage      = 2 // wrong usage or configuration
	exitNotInForce = 3 // the table is not there, or it is not what the configuration says
)

// errNoTable is returned by commands that need the table when there is none.
var errNoTable = errors.New("no table inet " + tableName)

// usageError is a mistake on the command line.
type usageError struct {
	err  error
	hint string
}

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

// usage returns a usageError whose hint points to the help.
func usage(cmd *cobra.Command, format string, args ...any) error {
	return &usageError{fmt.Errorf(format, args...), "see " + cmd.CommandPath() + " --help"}
}

// exitCodeError is an exit code without a message: everything was reported.
type exitCodeError int

func (e exitCodeError) Error() string { return fmt.Sprintf("exit code %d", int(e)) }

// hinted is an error with a next step that hintFor cannot know.
type hinted struct {
	error
	hint string
}

func (e *hinted) Unwrap() error { return e.error }

// exitCode returns the exit code for an error.
func exitCode(err error) int {
	var code exitCodeError
	var wrong *usageError
	var faults config.Errors
	switch {
	case err == nil:
		return exitDone
	case errors.As(err, &code):
		return int(code)
	case errors.As(err, &wrong), errors.As(err, &faults):
		return exitUsage
	case errors.Is(err, errNoTable):
		return exitNotInForce
	}
	return exitFailed
}

// needsPrivilege is what to do when the kernel refuses a request.
const needsPrivilege = "run as root, or with CAP_NET_ADMIN"

// denied returns an error for missing privilege that says what could not be done
// to the table, in place of which request was refused first. Other errors it
// returns as they are.
func denied(verb string, err error) error {
	if !errors.Is(err, os.ErrPermission) {
		return err
	}
	return &hinted{fmt.Errorf("%s table inet %s: %w", verb, tableName, os.ErrPermission), needsPrivilege}
}

// hintFor returns the next step after an error, or "".
func hintFor(err error) string {
	var (
		wrong    *usageError
		special  *hinted
		fault    *config.Error
		conflict *ruleset.ConflictError
		white    *ruleset.WhitelistedError
		kernel   *nftset.OpError
		state    *book.Error
	)
	switch {
	case errors.As(err, &wrong):
		return wrong.hint
	case errors.As(err, &special):
		return special.hint
	case errors.As(err, &fault):
		switch {
		case errors.Is(err, fs.ErrNotExist) && fault.Line == 0:
			return "`portmon config init " + fault.File + "` writes one"
		case errors.Is(err, fs.ErrPermission):
			return "run as root"
		}
		return fault.Hint
	case errors.Is(err, errNoTable):
		return "run `portmon apply`"
	case errors.As(err, &state):
		return state.Hint()
	case errors.As(err, &conflict):
		return "`portmon remove`, then `portmon apply`: all bans go with the table"
	case errors.As(err, &white):
		if a := white.Entry.From.Addr(); a.IsLoopback() || a.IsLinkLocalUnicast() || a.IsUnspecified() {
			return "" // whitelisted by every table
		}
		return "remove " + white.Entry.String() + " from the whitelist, then run `portmon apply`"
	case errors.Is(err, unix.EPERM):
		return needsPrivilege
	case errors.As(err, &kernel) && errors.Is(err, unix.ENFILE):
		return "raise size in [ban] of the configuration, then run `portmon apply`"
	case errors.Is(err, fs.ErrPermission):
		return "run as root"
	}
	return ""
}

// faults splits the errors of a configuration, which are reported one by one.
func faults(err error) []error {
	var all config.Errors
	if errors.As(err, &all) {
		return all.Unwrap()
	}
	return []error{err}
}

// allOf returns the errors of a type in the tree of err.
func allOf[T error](err error) []T {
	if e, ok := err.(T); ok {
		return []T{e}
	}
	var all []T
	switch e := err.(type) {
	case interface{ Unwrap() error }:
		all = allOf[T](e.Unwrap())
	case interface{ Unwrap() []error }:
		for _, part := range e.Unwrap() {
			all = append(all, allOf[T](part)...)
		}
	}
	return all
}
