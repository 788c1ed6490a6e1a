package state

import (
	"errors"
	"fmt"
	"io/fs"

	"golang.org/x/sys/unix"
)

// Error tells that a state file could not be read or written.
type Error struct {
	Op   string // "read" or "write"
	Path string
	Err  error
}

func newError(op, path string, err error) *Error { return &Error{op, path, err} }

func (e *Error) Error() string { return e.Op + " state " + e.Path + ": " + e.Err.Error() }
func (e *Error) Unwrap() error { return e.Err }

// Hint returns what can be done about it, or "" if nobody can tell.
func (e *Error) Hint() string {
	var foreign *ForeignError
	var newer *VersionError
	switch {
	case errors.As(e.Err, &foreign):
		return "move it away, or name another file as state under [watch]"
	case errors.As(e.Err, &newer):
		return "update portmon, or move the file away to begin without it"
	case errors.Is(e.Err, ErrLocked):
		return "find who holds it: fuser -v " + e.Path + lockSuffix
	case errors.Is(e.Err, unix.EROFS), errors.Is(e.Err, unix.ENOTDIR):
		return "name another file as state under [watch]"
	case errors.Is(e.Err, unix.ENOSPC), errors.Is(e.Err, unix.EDQUOT), errors.Is(e.Err, unix.EFBIG):
		return "make room there; the state saved before is kept until then"
	case errors.Is(e.Err, fs.ErrPermission) && e.Op == "read":
		return "run as root"
	case errors.Is(e.Err, fs.ErrPermission):
		return "run as root, or name a file that can be written as state under [watch]"
	}
	return ""
}

// VersionError tells that a file has another version of the format, as a rule that of a newer portmon. It is not overwritten: the
// next Write keeps it aside.
type VersionError struct{ Version int }

func (e *VersionError) Error() string {
	return fmt.Sprintf("version %d of the format, and this portmon knows version %d only", e.Version, Version)
}

// ForeignError tells that a file is none of portmon's. It is left alone: Write refuses to replace it.
type ForeignError struct{ Reason string }

func (e *ForeignError) Error() string { return e.Reason }

// MachineError tells that a state was saved on another machine, and was therefore not restored.
type MachineError struct{ Saved, Here string }

func (e *MachineError) Error() string {
	return fmt.Sprintf("saved on another machine (%s, this is %s)", e.Saved, e.Here)
}

// ErrLocked tells that somebody else did not cease to write the file for a long time.
var ErrLocked = errors.New("locked by another process")
