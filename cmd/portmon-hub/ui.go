package main

// This file alone prints and exits. Data goes to standard output, all else to
// standard error behind "portmon-hub: ", one line for each message. An error
// says what was being done, to what, and why it failed; a next step follows on a
// line of its own. Foreign text is escaped.

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"text/tabwriter"

	"github.com/portmon/portmon/internal/text"
)

// Exit codes, as those of portmon.
const (
	exitDone   = 0
	exitFailed = 1
	exitUsage  = 2 // wrong usage or configuration
)

// ui writes the output of a command.
type ui struct {
	out *bufio.Writer // data
	mu  *sync.Mutex   // held while it writes to
	err io.Writer     // all else
}

func newUI(stdout, stderr io.Writer) ui {
	return ui{bufio.NewWriter(stdout), new(sync.Mutex), stderr}
}

// print writes data. Errors are returned when the data is flushed.
func (u *ui) print(format string, args ...any) { fmt.Fprintf(u.out, format, args...) }

// table writes data in columns, the first row as their heading.
func (u *ui) table(rows [][]string) {
	w := tabwriter.NewWriter(u.out, 0, 0, 2, ' ', 0)
	for _, row := range rows {
		fmt.Fprintln(w, text.Printable(strings.Join(row[:1], ""))+"\t"+strings.Join(row[1:], "\t"))
	}
	w.Flush()
}

// note reports what happened.
func (u *ui) note(format string, args ...any) {
	u.mu.Lock()
	defer u.mu.Unlock()
	fmt.Fprintf(u.err, "portmon-hub: %s\n", text.Printable(fmt.Sprintf(format, args...)))
}

// finish reports err, flushes the data, and returns the exit code.
func (u *ui) finish(err error) int {
	if flushErr := u.out.Flush(); err == nil && flushErr != nil {
		err = fmt.Errorf("write standard output: %w", flushErr)
	}
	if err == nil {
		return exitDone
	}
	u.note("%s", err)
	if h := interface{ Hint() string }(nil); errors.As(err, &h) {
		u.note("hint: %s", h.Hint())
	}
	if errors.As(err, new(*usageError)) || errors.As(err, new(*configError)) {
		return exitUsage
	}
	return exitFailed
}

func exit(code int) { os.Exit(code) }
