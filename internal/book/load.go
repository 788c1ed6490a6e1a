package book

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"time"
)

// maxLine bounds a line, in bytes. The longest that is written, with a comment
// full of escapes, has half of it.
const maxLine = 4096

// Report says what was found in a file. Whatever is wrong with it, all rows
// that can be read were read.
type Report struct {
	Path    string
	Missing bool   // there is no file, or nothing in it
	Saved   Header // the last one; if there is none, it has the time of the last writing
	Rows    int
	// Torn says that the last line was cut off, as it is after a power cut.
	Torn bool
	// BadLines is how many other lines were skipped, and FirstBad the number of
	// the first of them, from 1.
	BadLines, FirstBad int
	// Origin is an *OriginError if the rows are not about this machine and
	// network namespace. It is for the caller to refuse them.
	Origin error

	lines int    // the first header is not counted
	first Header // zero if the first line is not one
}

// String returns a sentence about what a power cut does not explain, or "".
func (r Report) String() string {
	if r.BadLines == 0 {
		return ""
	}
	return fmt.Sprintf("state %s is damaged: lines skipped: %d, the first of them line %d; rows read: %d",
		r.Path, r.BadLines, r.FirstBad, r.Rows)
}

// Decode reads what [Encode] wrote, up to as many bytes as MaxRows rows can
// have. Of a Config it needs Here, Now and MaxRows.
func Decode(r io.Reader, c Config) (*Book, Report, error) {
	b := New(c.MaxRows)
	report, err := b.load(io.LimitReader(r, maxBytes(b.max)), c, c.Now.Wall, nil)
	return b, report, err
}

// loader reads lines into a book. While it does, moments are those of the boot
// that the last header is of.
type loader struct {
	Report
	book *Book
	only [][]byte // how the lines of the sources wanted begin; nil: all
	ours bool     // there was something that only portmon writes
}

// fewSources is up to how many sources are looked for line by line.
const fewSources = 16

// rowsOf returns how the lines about sources begin, as they are written.
func rowsOf(sources []netip.Prefix) [][]byte {
	starts := make([][]byte, 0, len(sources))
	for _, p := range sources {
		if k, ok := keyOf(p); ok {
			starts = append(starts, rowStartOf(k.prefix()))
		}
	}
	return starts
}

func rowStartOf(source netip.Prefix) []byte { return append(source.AppendTo([]byte(rowStart)), '"') }

// wants reports whether a line that begins like this may be of a source wanted.
func (l *loader) wants(line []byte) bool {
	if l.only == nil || !bytes.HasPrefix(line, []byte(rowStart)) {
		return true
	}
	for _, start := range l.only {
		if bytes.HasPrefix(line, start) {
			return true
		}
	}
	return false
}

// load reads a file that was last written at that time.
func (b *Book) load(r io.Reader, c Config, written time.Time, only [][]byte) (Report, error) {
	if !isDate(written) {
		written = time.Unix(0, 0)
	}
	l := loader{Report: Report{Path: c.Path, Missing: true, Saved: Header{Saved: written}}, book: b, only: only}
	if err := l.readAll(bufio.NewReaderSize(r, 256<<10)); err != nil {
		return l.Report, err
	}
	if l.Missing {
		l.BadLines = 0
		return l.Report, nil
	}
	if !l.ours {
		return l.Report, &RefusedError{
			Reason: "not written by portmon", Hint: "move it away, or name another file as state under [watch]",
		}
	}
	l.Origin = l.Saved.check(c.Here)
	l.moveTo(c.Here, c.Now)
	for i := range b.rows { // nothing has happened in the future, and no ban gets more than its time
		r := &b.rows[i]
		for _, m := range r.moments() {
			if *m != 0 {
				*m = bound(*m, c.Now.Boot)
			}
		}
		r.first, r.last = min(r.first, c.Now.Boot), min(r.last, c.Now.Boot)
		if r.timeout > 0 {
			r.until = min(r.until, c.Now.Boot.Add(r.timeout))
		}
	}
	b.Sweep(c.Now)
	l.Rows = b.Len()
	return l.Report, nil
}

func (l *loader) readAll(r *bufio.Reader) error {
	for number := 1; ; number++ {
		line, err := r.ReadSlice('\n')
		if len(line) == 0 && err == io.EOF {
			return nil
		}
		l.Missing = l.Missing && isBlank(line)
		bad := len(line) > maxLine // as a full buffer is
		for errors.Is(err, bufio.ErrBufferFull) {
			line, err = r.ReadSlice('\n')
			l.Missing = l.Missing && isBlank(line)
		}
		if l.Torn = err == io.EOF; err != nil && !l.Torn {
			return err
		}
		if !bad && l.wants(line) {
			if bad, err = l.line(line, number); err != nil {
				return err
			}
		}
		switch {
		case bad && l.Torn:
			l.ours = l.ours || bytes.HasPrefix([]byte(headerStart), line[:min(len(line), len(headerStart))])
			return nil
		case bad:
			if l.BadLines++; l.BadLines == 1 {
				l.FirstBad = number
			}
		}
		if number > 1 {
			l.lines++
		}
	}
}

func isBlank(b []byte) bool { return len(bytes.Trim(b, "\x00 \t\r\n")) == 0 }

// line handles a line, and reports whether it is bad.
func (l *loader) line(line []byte, number int) (bad bool, err error) {
	if !bytes.HasPrefix(line, []byte(rowStart)) {
		var h Header
		if err := h.parse(line); err == nil {
			l.moveTo(h.Origin, h.Clock())
			if l.Saved, l.ours = h, true; number == 1 {
				l.first = h
			}
			return false, nil
		} else if !errors.Is(err, errNotHeader) {
			return true, err
		}
	}
	row, k, free, ok := parseRow(line, l.Saved.Clock())
	switch {
	case !ok:
		return len(bytes.TrimSpace(line)) > 0 || number == 1, nil
	case !l.wants(rowStartOf(row.Source)):
	case free:
		l.book.remove(k)
	default:
		l.book.set(k, &row)
	}
	l.ours = true
	return number == 1, nil // it is read, but where is the header?
}

// moveTo goes on to a later reading of both clocks. If that is of another boot,
// only the wall clock shows how much time has passed: none if it shows less.
func (l *loader) moveTo(o Origin, now Clock) {
	before := l.Saved.Clock()
	if l.Saved.SameBoot(o) && now.Boot >= before.Boot {
		return
	}
	elapsed := min(max(0, now.Wall.Sub(before.Wall)), horizon)
	for i := range l.book.rows {
		for _, m := range l.book.rows[i].moments() {
			if *m != 0 {
				*m = bound(bound(*m, before.Boot).Add(now.Boot.Sub(before.Boot)-elapsed), now.Boot)
			}
		}
	}
}
