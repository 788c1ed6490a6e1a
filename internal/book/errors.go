package book

import (
	"errors"
	"fmt"
	"io/fs"

	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/internal/folder"
)

// Error says that a state file could not be read or written.
type Error struct {
	Op   string // "open", "read" or "write"
	Path string
	Err  error
}

// wrap returns an *Error, or nil.
func wrap(op, path string, err error) error {
	if wrapped := errors.As(err, new(*Error)); err == nil || wrapped {
		return err
	}
	return &Error{op, path, err}
}

func (e *Error) Error() string { return e.Op + " state " + e.Path + ": " + e.Err.Error() }
func (e *Error) Unwrap() error { return e.Err }

// Hint returns what can be done about it, or "" if it is not known.
func (e *Error) Hint() string {
	var refused *RefusedError
	isRefused := errors.As(e.Err, &refused)
	switch {
	case isRefused:
		return refused.Hint
	case errors.As(e.Err, new(*OriginError)), errors.Is(e.Err, unix.EROFS), errors.Is(e.Err, unix.ENOTDIR):
		return "name another file as state under [watch]"
	case errors.Is(e.Err, ErrLocked):
		return "find who holds it: fuser -v " + e.Path + lockSuffix
	case errors.Is(e.Err, unix.ENOSPC), errors.Is(e.Err, unix.EDQUOT), errors.Is(e.Err, unix.EFBIG):
		return "make room there; what was saved before is kept until then"
	case errors.Is(e.Err, fs.ErrPermission):
		return "run as root, or name a file that can be written as state under [watch]"
	}
	return ""
}

// ErrLocked means that another process owns the file, as a running watcher
// does.
var ErrLocked = folder.ErrLocked

// ErrReplaced means that another process replaced the file while it was written.
// What was to be written is not in it.
var ErrReplaced = errors.New("another process has just replaced it")

// RefusedError means that a file is neither read nor written.
type RefusedError = folder.RefusedError

// OriginError says that a file is about another machine or another network
// namespace. Every copy of a cloned image would otherwise ban those who offended
// the original.
type OriginError struct{ What, Saved, Here string }

func (e *OriginError) Error() string {
	preposition := "in"
	if e.What == "machine" {
		preposition = "on"
	}
	return fmt.Sprintf("written %s another %s (%s; this one is %s)", preposition, e.What, e.Saved, e.Here)
}
