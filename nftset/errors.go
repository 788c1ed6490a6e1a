package nftset

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// ErrChanged is returned by [Conn.Commit] when another program changed the
// ruleset after the generation that the transaction was made for. Read again,
// and try again.
var ErrChanged = errors.New("the ruleset changed meanwhile")

// OpError is the failure of one operation. Its cause is the kernel's errno
// where there is one, so errors.Is works with unix.EEXIST, unix.ENFILE,
// unix.EPERM and the like; absent objects are os.ErrNotExist as well, missing
// privilege is os.ErrPermission.
type OpError struct {
	Op      string    // what was being done: "add element"
	Object  string    // to what: "inet portmon ban4"; empty if to the transaction as a whole
	Element *Interval // to which of its elements; nil if it is not about one, or if the kernel does not say
	Err     error     // why not
	Text    string    // the kernel's own words (extended acknowledgement), often empty
	Others  int       // how many more operations of the same transaction failed
}

func (e *OpError) Error() string {
	var b strings.Builder
	b.WriteString(e.Op)
	if e.Element != nil {
		fmt.Fprintf(&b, " %v of", e.Element)
	}
	if e.Object != "" {
		b.WriteString(" " + e.Object)
	}
	b.WriteString(": " + e.cause())
	if e.Text != "" {
		b.WriteString(" (" + e.Text + ")")
	}
	if e.Others > 0 {
		fmt.Fprintf(&b, " (and %d more)", e.Others)
	}
	return b.String()
}

// cause puts what nf_tables means by an errno, which is often not what strerror
// says.
func (e *OpError) cause() string {
	elements := strings.HasSuffix(e.Op, "element")
	switch {
	case errors.Is(e.Err, unix.ERESTART):
		return ErrChanged.Error()
	case errors.Is(e.Err, unix.ENFILE):
		return "the set is full"
	case errors.Is(e.Err, unix.EEXIST) && elements:
		return "it overlaps an interval that is there"
	case errors.Is(e.Err, unix.EEXIST):
		return "it exists with other properties"
	case errors.Is(e.Err, unix.ENOENT):
		return "there is none"
	case errors.Is(e.Err, unix.EBUSY):
		return "it is in use"
	}
	return e.Err.Error()
}

// Unwrap returns the cause.
func (e *OpError) Unwrap() error { return e.Err }

// Is makes the errors of package os match, whatever the operation.
func (e *OpError) Is(target error) bool {
	switch target {
	case os.ErrNotExist:
		return errors.Is(e.Err, unix.ENOENT)
	case os.ErrPermission:
		return errors.Is(e.Err, unix.EPERM)
	case ErrChanged:
		return errors.Is(e.Err, unix.ERESTART)
	}
	return false
}
