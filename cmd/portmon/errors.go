package main

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

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

// hinted is an error with its next step.
type hinted struct {
	error
	hint string
}

func (e *hinted) Unwrap() error { return e.error }
func (e *hinted) Hint() string  { return e.hint }

// errNoTable is returned by commands that need the table when there is none.
var errNoTable error = &hinted{errors.New("no table inet " + tableName), runApply}

// Next steps after more than one error.
const (
	runApply       = "run `portmon apply`"
	raiseSize      = "raise size in [ban] of the configuration, then " + runApply
	needsPrivilege = "run as root, or with CAP_NET_ADMIN"
)

// usageError is a mistake on the command line.
type usageError struct{ hinted }

// usage returns a usageError whose hint points to the help.
func usage(cmd *cobra.Command, format string, args ...any) error {
	return &usageError{hinted{fmt.Errorf(format, args...), "see " + cmd.CommandPath() + " --help"}}
}

// exitCodeError is an exit code without a message: everything was reported.
type exitCodeError int

func (e exitCodeError) Error() string { return fmt.Sprintf("exit code %d", int(e)) }

// exitCode returns the exit code for an error.
func exitCode(err error) int {
	var code exitCodeError
	switch {
	case err == nil:
		return exitDone
	case errors.As(err, &code):
		return int(code)
	case errors.As(err, new(*usageError)), errors.As(err, new(config.Errors)):
		return exitUsage
	case errors.Is(err, errNoTable):
		return exitNotInForce
	}
	return exitFailed
}

// hintFor returns the next step after an error, or "".
func hintFor(err error) string {
	var (
		itself interface{ Hint() string }
		fault  *config.Error
		white  *ruleset.WhitelistedError
		allow  *ruleset.AllowedError
	)
	switch {
	case errors.As(err, &itself):
		return itself.Hint()
	case errors.As(err, &fault) && fault.Line == 0 && errors.Is(err, fs.ErrNotExist):
		return "`portmon config init " + fault.File + "` writes one"
	case errors.As(err, new(*ruleset.ConflictError)):
		return "`portmon remove`, then `portmon apply`: all bans go with the table"
	case errors.As(err, &white):
		if a := white.Entry.From.Addr(); a.IsLoopback() || a.IsLinkLocalUnicast() || a.IsUnspecified() {
			return "" // whitelisted by every table
		}
		return "remove " + white.Entry.String() + " from the whitelist, then " + runApply
	case errors.As(err, &allow):
		return "end that first: portmon disallow " + allow.Entry.Interval.String()
	case errors.As(err, new(*ruleset.AllowFullError)):
		return "`portmon list --allowed` shows them, and `portmon disallow` ends some"
	case errors.Is(err, unix.EPERM):
		return needsPrivilege
	case errors.As(err, new(*nftset.OpError)) && errors.Is(err, unix.ENFILE):
		return raiseSize
	case errors.Is(err, fs.ErrPermission):
		return "run as root"
	}
	return ""
}

// faults splits the errors of a configuration, which are reported one by one. Of
// what could not be done because of them, the first says why.
func faults(err error) []error {
	var all config.Errors
	if !errors.As(err, &all) || len(all) == 0 {
		return []error{err}
	}
	if what := strings.TrimSuffix(err.Error(), all.Error()); what != "" {
		return append([]error{errors.New(what + all[0].Error())}, all.Unwrap()[1:]...)
	}
	return all.Unwrap()
}
