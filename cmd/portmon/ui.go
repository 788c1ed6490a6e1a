package main

// This file alone prints and exits. Its rules:
//
//   - Data, which is what a command was asked for, goes to standard output. All
//     else goes to standard error behind "portmon: ".
//   - An error says what was being done, to what, and why it failed. It starts
//     without a capital letter and ends without a full stop. If there is a next
//     step, it follows as a hint on a line of its own.
//   - Colours appear only on a terminal, and never with NO_COLOR or a TERM without any.
//     They say nothing that the words do not.
//   - Foreign text, from a file or the kernel, is escaped before it is printed.
//   - What fills the terminal restores it, however it ends.
//   - Data is buffered. A failure to write it is an error like any other.

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"os/signal"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	tea "charm.land/bubbletea/v2"
	"github.com/charmbracelet/colorprofile"
	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/internal/text"
	"github.com/portmon/portmon/internal/text/cell"
)

// ui writes the output of a command.
type ui struct {
	out       *bufio.Writer // data
	display   io.Writer     // where data goes, for what fills the terminal
	err       io.Writer     // all else
	outColour bool
	errColour bool
	config    *string // --config, which commands in hints repeat
	columns   int     // of the terminal that data goes to; 0 if it goes elsewhere
}

func newUI(e env) ui {
	colour := e.getenv("NO_COLOR") == "" && hasColours(e.getenv("TERM"))
	return ui{
		out:       bufio.NewWriterSize(e.stdout, 64<<10),
		display:   e.stdout,
		err:       e.stderr,
		outColour: colour && e.width(e.stdout) > 0,
		errColour: colour && e.width(e.stderr) > 0,
		columns:   e.width(e.stdout),
	}
}

// hasColours reports whether a kind of terminal has them. Nearly all that are in
// use do; the others are known by their names.
func hasColours(term string) bool {
	return term != "dumb" && !strings.HasPrefix(term, "vt1") && !strings.HasPrefix(term, "vt2") &&
		!strings.HasSuffix(term, "-m") && !strings.HasSuffix(term, "-mono")
}

// style is the parameter of an ANSI escape sequence (SGR).
type style string

const (
	plain  style = ""
	bold   style = "1"
	red    style = "31"
	green  style = "32"
	yellow style = "33"
)

// paint returns s in a style, if colours are on.
func paint(colours bool, s string, as style) string {
	if !colours || s == "" || as == plain {
		return s
	}
	return "\x1b[" + string(as) + "m" + s + "\x1b[0m"
}

// print writes data. Errors are returned when the data is flushed.
func (u *ui) print(format string, args ...any) { fmt.Fprintf(u.out, format, args...) }

// json writes data as JSON that people can read too.
func (u *ui) json(v any) error {
	enc := json.NewEncoder(u.out)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// table writes data in columns, the first row as their heading. It iterates
// over the rows twice instead of keeping them. The last cell of a row is cut to
// fit that many columns (0: no limit).
func (u *ui) table(rows iter.Seq[[]string], columns int) {
	var widths []int
	for row := range rows {
		widths = append(widths, make([]int, max(0, len(row)-len(widths)))...)
		for i, c := range row {
			widths[i] = max(widths[i], cell.Width(c))
		}
	}
	as := bold
	for row := range rows {
		line, last := "", len(row)-1
		for i, c := range row[:last] {
			line += cell.Pad(c, widths[i]+2)
		}
		end := row[last]
		if columns > 0 {
			end = cell.Fit(end, max(1, columns-cell.Width(line)), "…")
		}
		u.print("%s\n", paint(u.outColour, strings.TrimRight(line+end, " "), as))
		as = plain
	}
}

// say writes to standard error, each line behind the program's name. It flushes
// buffered data first, so that a terminal shows both in order.
func (u *ui) say(label string, as style, message string) {
	u.out.Flush()
	if label != "" {
		label = paint(u.errColour, label, as) + ": "
	}
	for line := range strings.Lines(message) {
		fmt.Fprintf(u.err, "portmon: %s%s\n", label, text.Printable(strings.TrimSuffix(line, "\n")))
	}
}

// note reports what needs no action.
func (u *ui) note(format string, args ...any) {
	u.say("", plain, u.asCalled(fmt.Sprintf(format, args...)))
}

// warn reports what the user should look at.
func (u *ui) warn(format string, args ...any) { u.say("warning", yellow, fmt.Sprintf(format, args...)) }

// hint prints the next step.
func (u *ui) hint(format string, args ...any) {
	u.say("hint", bold, u.asCalled(fmt.Sprintf(format, args...)))
}

// asCalled adds --config to the commands in a text whose effect depends on the
// configuration, if this one had it.
func (u *ui) asCalled(message string) string {
	if u.config == nil || *u.config == "" {
		return message
	}
	return hintedCommand.ReplaceAllStringFunc(message, func(command string) string {
		return command + " --config " + strconv.Quote(*u.config)
	})
}

var hintedCommand = regexp.MustCompile("portmon (?:apply|confirm|remove|save|" +
	"(?:list|unban|allow|disallow)(?: [0-9a-fA-F]*[.:][0-9a-fA-F.:/-]*)+)")

// fail reports an error and its hint.
func (u *ui) fail(err error) {
	for _, fault := range faults(err) {
		u.say("", plain, fault.Error())
		if h := hintFor(fault); h != "" {
			u.hint("%s", h)
		}
	}
}

// progress is a bar on the terminal that standard error is; elsewhere it is
// nothing.
type progress struct {
	w       io.Writer
	columns int
	shown   time.Time
}

func (p *cli) progress() *progress { return &progress{w: p.err, columns: p.env.width(p.stderr)} }

// show draws a part of the whole, at most ten times in a second.
func (b *progress) show(what string, part float64) {
	const width = 24
	now := time.Now()
	if b.columns == 0 || now.Sub(b.shown) < 100*time.Millisecond {
		return
	}
	b.shown = now
	done := int(max(0, min(1, part)) * width)
	room := max(0, b.columns-width-10)
	fmt.Fprintf(b.w, "\r\x1b[K[%s%s] %3.0f%% %s", strings.Repeat("#", done), strings.Repeat(".", width-done), 100*min(1, part),
		cell.Fit(text.Printable(what), room, "…"))
}

// end takes the bar away.
func (b *progress) end() {
	if !b.shown.IsZero() {
		fmt.Fprint(b.w, "\r\x1b[K")
	}
}

// finish reports err, flushes the data, and returns the exit code.
func (u *ui) finish(err error) int {
	code := exitCode(err)
	if _, ok := err.(exitCodeError); !ok && err != nil {
		u.fail(err)
	}
	if flushErr := u.flush(); flushErr != nil && !errors.Is(err, errors.Unwrap(flushErr)) {
		u.fail(flushErr)
		code = max(code, exitFailed)
	}
	return code
}

// flush writes the data that is buffered.
func (u *ui) flush() error {
	if err := u.out.Flush(); err != nil {
		return fmt.Errorf("write standard output: %w", err)
	}
	return nil
}

// screen fills the terminal with what a model shows until it quits, and restores
// the terminal however that ends. feed runs beside it, and sends it messages.
func (u *ui) screen(m tea.Model, in io.Reader, feed func(ctx context.Context, show func(any))) error {
	ctx, cancel := context.WithCancel(context.Background())
	// Left to find out for itself, it would run tmux.
	colours := colorprofile.ASCII
	if u.outColour {
		colours = colorprofile.ANSI
	}
	p := tea.NewProgram(m, tea.WithInput(in), tea.WithOutput(u.display), tea.WithFPS(10), tea.WithColorProfile(colours))
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, unix.SIGHUP)
	defer signal.Stop(hangup)
	var fed sync.WaitGroup
	fed.Go(func() { feed(ctx, func(msg any) { p.Send(msg) }) })
	fed.Go(func() {
		select {
		case <-hangup:
			p.Quit()
		case <-ctx.Done():
		}
	})
	_, err := p.Run()
	cancel()
	fed.Wait()
	if errors.Is(err, tea.ErrInterrupted) {
		err = nil
	}
	if err != nil {
		return fmt.Errorf("show the screen: %w", err)
	}
	return nil
}

func exit(code int) { os.Exit(code) }
