package main

// This file alone prints and exits. Its rules:
//
//   - Data, which is what a command was asked for, goes to standard output. All
//     else goes to standard error behind "portmon: ".
//   - An error says what was being done, to what, and why it failed, without a
//     capital letter at its start and a full stop at its end. If there is a next
//     step, it follows as a hint on a line of its own.
//   - Colours appear only on a terminal, and never with NO_COLOR or TERM=dumb.
//     They say nothing that the words do not.
//   - What others wrote, into a file or into the kernel, reaches a terminal as
//     nothing but text.
//   - Data is buffered; that it could not be written is an error like any other.

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"os"
	"regexp"
	"strings"
	"unicode"

	"github.com/portmon/portmon/internal/text"
)

// ui is the program's voice.
type ui struct {
	out       *bufio.Writer // data
	err       io.Writer     // all else
	outColour bool
	errColour bool
	config    *string // --config, which commands in hints repeat
	columns   int     // of the terminal that data goes to; 0 if it goes elsewhere
}

func newUI(e env) ui {
	colour := e.getenv("NO_COLOR") == "" && e.getenv("TERM") != "dumb"
	u := ui{
		out:       bufio.NewWriterSize(e.stdout, 64<<10),
		err:       e.stderr,
		outColour: colour && e.isTerminal(e.stdout),
		errColour: colour && e.isTerminal(e.stderr),
	}
	if e.isTerminal(e.stdout) {
		u.columns = e.width(e.stdout)
	}
	return u
}

// style is the parameter of an ANSI escape sequence that selects how characters
// look.
type style string

const (
	plain  style = ""
	bold   style = "1"
	red    style = "31"
	green  style = "32"
	yellow style = "33"
)

// paint returns s in a style, if there are colours.
func paint(colours bool, s string, as style) string {
	if !colours || s == "" || as == plain {
		return s
	}
	return "\x1b[" + string(as) + "m" + s + "\x1b[0m"
}

// print writes data. A failure shows when the data is flushed.
func (u *ui) print(format string, args ...any) { fmt.Fprintf(u.out, format, args...) }

// json writes data as JSON that people can read too.
func (u *ui) json(v any) error {
	enc := json.NewEncoder(u.out)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// table writes data in columns, the first row as their heading. It goes through
// the rows twice instead of keeping them. All cells are ASCII but the last of a
// row, which may have colours, and is cut if there are that many columns.
func (u *ui) table(rows iter.Seq[[]string], columns int) {
	var widths []int
	for row := range rows {
		widths = append(widths, make([]int, max(0, len(row)-len(widths)))...)
		for i, cell := range row {
			widths[i] = max(widths[i], len(cell))
		}
	}
	as := bold
	for row := range rows {
		line, last := "", len(row)-1
		for i, cell := range row[:last] {
			line += cell + strings.Repeat(" ", widths[i]-len(cell)+2)
		}
		end := []rune(row[last])
		if room := columns - len(line); columns > 0 && len(end) > room {
			end = append(end[:max(room-1, 0)], '…')
		}
		u.print("%s\n", paint(u.outColour, strings.TrimRight(line+string(end), " "), as))
		as = plain
	}
}

// say writes to standard error, each line behind the program's name. Data that
// is still buffered comes first, so that a terminal that gets both shows them
// in order.
func (u *ui) say(label string, as style, message string) {
	u.out.Flush()
	if label != "" {
		label = paint(u.errColour, label, as) + ": "
	}
	for line := range strings.Lines(message) {
		fmt.Fprintf(u.err, "portmon: %s%s\n", label, text.Printable(strings.TrimSuffix(line, "\n")))
	}
}

// note says what the user should know and need not act upon.
func (u *ui) note(format string, args ...any) { u.say("", plain, fmt.Sprintf(format, args...)) }

// warn says what the user should look at.
func (u *ui) warn(format string, args ...any) { u.say("warning", yellow, fmt.Sprintf(format, args...)) }

// hint says what to do next.
func (u *ui) hint(format string, args ...any) {
	message := fmt.Sprintf(format, args...)
	if u.config != nil && *u.config != "" {
		message = hintedCommand.ReplaceAllString(message, "$1 --config "+strings.ReplaceAll(shellWord(*u.config), "$", "$$"))
	}
	u.say("hint", bold, message)
}

// hintedCommand finds the commands in hints that another configuration would
// lead elsewhere.
var hintedCommand = regexp.MustCompile("(portmon (?:apply|remove|(?:list|unban) [0-9a-fA-F.:/-]+))")

// shellWord quotes a word for a shell, if it has to be.
func shellWord(s string) string {
	if strings.ContainsFunc(s, func(r rune) bool {
		return !unicode.IsLetter(r) && !unicode.IsDigit(r) && !strings.ContainsRune("/._-+:@,", r)
	}) {
		return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
	}
	return s
}

// fail says what went wrong, and what to do about it.
func (u *ui) fail(err error) {
	for _, fault := range faults(err) {
		u.say("", plain, fault.Error())
		if h := hintFor(fault); h != "" {
			u.hint("%s", h)
		}
	}
}

// finish reports err, writes the data that is left, and returns the exit code.
func (u *ui) finish(err error) int {
	code := exitCode(err)
	if _, ok := err.(said); !ok && err != nil {
		u.fail(err)
	}
	if err := u.out.Flush(); err != nil {
		u.fail(fmt.Errorf("write standard output: %w", err))
		code = max(code, exitFailed)
	}
	return code
}

func exit(code int) { os.Exit(code) }
