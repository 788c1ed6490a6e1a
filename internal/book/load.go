package book

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/netip"
)

// maxLine bounds a line, in bytes. The longest that is written, with a comment
// full of escapes, has half of it.
const maxLine = 4096

// maxBytes bounds what is read of a book: portmon writes no file that is
// larger, and to read one would take very long.
func maxBytes(rows int) int64 { return 64<<20 + int64(rows)*maxLine }

// Report says what was found in a file. Whatever is wrong with it, all rows
// that can be read were read.
type Report struct {
	Path    string
	Missing bool   // there is no file, or nothing in it
	Saved   Header // the last one; if there is none, it has the time of now
	Rows    int
	// Torn says that the last line was cut off, as it is after a power cut.
	Torn bool
	// BadLines is how many other lines were skipped, and FirstBad the number of
	// the first of them, from 1.
	BadLines, FirstBad int
	// Origin is an *OriginError if the rows are not about this machine and
	// network namespace. It is for the caller to refuse them.
	Origin error

	lines   int // below the first one
	written int // how many of them the file had when it was last rewritten
}

// String returns a sentence about what a power cut does not explain, or "".
func (r Report) String() string {
	if r.BadLines == 0 {
		return ""
	}
	return fmt.Sprintf("state %s is damaged: lines skipped: %d, the first of them line %d; rows read: %d",
		r.Path, r.BadLines, r.FirstBad, r.Rows)
}

// Encode writes rows for [Decode].
func Encode(w io.Writer, o Origin, now Clock, rows iter.Seq[Row]) error {
	return encode(w, newHeader(o, now), rows)
}

func encode(w io.Writer, h Header, rows iter.Seq[Row]) error {
	out, clock := bufio.NewWriterSize(w, 256<<10), h.Clock()
	b := h.append(nil)
	_, err := out.Write(b)
	for r := range rows {
		if err != nil {
			return err
		}
		if _, ok := r.normalize(); ok {
			b = appendRow(b[:0], &r, false, clock)
			_, err = out.Write(b)
		}
	}
	return errors.Join(err, out.Flush())
}

// Decode reads what [Encode] wrote, up to as many bytes as MaxRows rows can
// have. Of a Config it needs Here, Now and MaxRows.
func Decode(r io.Reader, c Config) (*Book, Report, error) {
	b := New(c.MaxRows)
	report, err := b.load(io.LimitReader(r, maxBytes(b.max)), c, nil)
	b.observes = report.Saved.Observe
	return b, report, err
}

// loader reads lines into a book. While it does, moments are those of the boot
// that the last header is of.
type loader struct {
	Report
	book *Book
	row  line
	only [][]byte // how the lines of the sources wanted begin; nil: all
	ours bool     // there was something that only portmon writes
}

// fewSources is up to how many sources are looked for line by line.
const fewSources = 16

// startsOf returns how the lines about sources begin, or nil if all lines are to
// be read.
func startsOf(sources []netip.Prefix) [][]byte {
	if sources == nil || len(sources) > fewSources {
		return nil
	}
	starts := make([][]byte, len(sources))
	for i, p := range sources {
		k, _ := keyOf(p)
		starts[i] = append(k.prefix().AppendTo([]byte(rowStart)), '"')
	}
	return starts
}

// skips reports whether a line is about a source that is not wanted.
func (l *loader) skips(text []byte) bool {
	if l.only == nil || !bytes.HasPrefix(text, []byte(rowStart)) {
		return false
	}
	for _, start := range l.only {
		if bytes.HasPrefix(text, start) {
			return false
		}
	}
	return true
}

// load reads a file, or only the rows whose lines begin in some ways. Rows
// without a header are as of now.
func (b *Book) load(r io.Reader, c Config, only [][]byte) (Report, error) {
	l := loader{
		Report: Report{Path: c.Path, Missing: true, Saved: newHeader(Origin{}, c.Now)},
		book:   b, only: only,
	}
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
	b.each(func(r *compact) { // nothing has happened in the future, and no ban gets more than its time
		for _, m := range r.moments() {
			if *m != 0 {
				*m = bound(*m, c.Now.Boot)
			}
		}
		r.first, r.last = min(r.first, c.Now.Boot), min(r.last, c.Now.Boot)
		if r.timeout > 0 {
			r.until = min(r.until, c.Now.Boot.Add(r.timeout))
		}
	})
	b.Sweep(c.Now)
	l.Rows = b.Len()
	return l.Report, nil
}

func (l *loader) readAll(in *bufio.Reader) error {
	for number := 1; ; number++ {
		text, err := in.ReadSlice('\n')
		if len(text) == 0 && err == io.EOF {
			return nil
		}
		l.Missing = l.Missing && isBlank(text)
		bad := len(text) > maxLine // as a full buffer is
		for errors.Is(err, bufio.ErrBufferFull) {
			text, err = in.ReadSlice('\n')
			l.Missing = l.Missing && isBlank(text)
		}
		if l.Torn = err == io.EOF; err != nil && !l.Torn {
			return err
		}
		if !bad && !l.skips(text) {
			if bad, err = l.read(text, number == 1); err != nil {
				return err
			}
		}
		switch {
		case bad && l.Torn:
			l.ours = l.ours || bytes.HasPrefix([]byte(headerStart), text[:min(len(text), len(headerStart))])
			return nil
		case bad:
			if l.BadLines++; l.BadLines == 1 {
				l.FirstBad = number
			}
		}
		l.lines = number - 1
	}
}

func isBlank(b []byte) bool { return len(bytes.Trim(b, "\x00 \t\r\n")) == 0 }

// read reads a line, and reports whether it is bad.
func (l *loader) read(text []byte, first bool) (bad bool, err error) {
	if !bytes.HasPrefix(text, []byte(rowStart)) {
		var h Header
		if err := h.parse(text); err == nil {
			l.moveTo(h.Origin, h.Clock())
			if l.Saved, l.ours = h, true; first {
				l.written = h.Rows
			}
			return false, nil
		} else if !errors.Is(err, errNotHeader) {
			return true, err
		}
	}
	switch k, ok := l.row.parse(string(text), l.Saved.Clock()); {
	case !ok:
		return first || len(bytes.TrimSpace(text)) > 0, nil
	case l.row.free && !l.row.Observed:
		l.book.remove(k)
	default:
		if before, ok := l.book.get(k); ok && l.row.Observed && !l.row.free {
			if l.row.Before = before.Before; !before.Observed {
				l.row.Before = &before
			}
		}
		l.book.set(k, &l.row.Row)
	}
	l.ours = true
	return first, nil // it is read, but where is the header?
}

// moveTo goes on to a later reading of both clocks. If that is of another boot,
// only the wall clock shows how much time has passed: none if it shows less.
func (l *loader) moveTo(o Origin, now Clock) {
	before := l.Saved.Clock()
	if l.Saved.SameBoot(o) && now.Boot >= before.Boot {
		return
	}
	elapsed := min(max(0, now.Wall.Sub(before.Wall)), horizon)
	l.book.each(func(r *compact) {
		for _, m := range r.moments() {
			if *m != 0 {
				*m = bound(bound(*m, before.Boot).Add(now.Boot.Sub(before.Boot)-elapsed), now.Boot)
			}
		}
	})
}

// each changes all rows, and what they were before.
func (b *Book) each(f func(*compact)) {
	for i := range b.rows {
		f(&b.rows[i])
	}
	for k, r := range b.before {
		c := r.pack()
		f(&c)
		*r = c.unpack(k, r.Comment)
	}
}
