package book

import (
	"errors"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/internal/folder"
)

// Config says where a book is, and who opens it when.
type Config struct {
	Path    string // absolute
	MaxRows int    // 0 means DefaultMaxRows
	Here    Origin // what the book is to be about
	Now     Clock
	Wait    time.Duration // for the lock; 0 is not at all
	// Force opens a book whose owner hangs. Its file is then replaced by a new
	// one; if the owner wakes up it notices, and writes its own again.
	Force bool
}

// Open makes this process the owner of a book and reads it; its folder is made
// if it is missing. The file is not written until there is a change. If it is
// about another machine or network namespace, the Report says so, and the
// caller refuses it: after Clear, the file is kept as .bad.
//
// The error is an [*Error]. It wraps [ErrLocked], a [*RefusedError] or what the
// system says.
func Open(c Config) (*Book, Report, error) { return openRows(c, nil, 0) }

// Amend lets change edit the rows of some sources in a book that has no owner
// at the moment. A new book is about the table of c.Here from the start. The
// error may wrap an [*OriginError]; nothing is changed then. commit, unless it is
// nil, is called when all is prepared, if there is anything to write; after an
// error, which is returned, the file stays as it is.
//
// Of a large book, only the rows of a few sources are read and lines about them
// appended, which takes some milliseconds, unless it needs to be rewritten.
func Amend(c Config, sources []netip.Prefix, change func(*Book), commit func() error) (Report, error) {
	b, report, err := openRows(c, startsOf(sources), len(sources))
	if err != nil {
		return report, err
	}
	defer b.Close()
	if report.Origin != nil {
		return report, wrap("read", c.Path, report.Origin)
	}
	if report.Missing {
		b.table, b.observes = c.Here.Table, c.Here.Observe
	}
	change(b)
	b.store.commit = commit
	return report, b.Sync(c.Now)
}

// openRows opens a book to which some more rows may be added.
func openRows(c Config, only [][]byte, more int) (b *Book, report Report, err error) {
	s := &store{Config: c, next: c.Now.Boot}
	if err := s.open(c.Wait); err != nil {
		s.close()
		return nil, Report{}, wrap("open", c.Path, err)
	}
	for ; ; only = nil {
		b, report = New(c.MaxRows), Report{Path: c.Path, Missing: true}
		if s.file == nil {
			b.reserve(more)
		} else if report, err = b.loadFile(s.file, c, only, more); err != nil {
			s.close()
			return nil, Report{}, wrap("read", c.Path, err)
		}
		s.head, s.lines, s.written, s.partial = report.Saved, report.lines, report.written, only != nil
		s.keep = report.BadLines > 0 || report.Origin != nil
		s.rewrite = report.Missing || report.Torn || s.keep || !s.head.SameBoot(c.Here) || s.head.Version < Version
		if !s.partial || !s.rewrite && s.lines <= 2*s.written+fewLines {
			break
		}
	}
	if s.rewrite {
		s.head = newHeader(c.Here, c.Now) // the old one has served to tell how much time has passed
	}
	b.store, b.observes = s, report.Saved.Observe
	here := c.Here
	if here.Table = report.Saved.Table; report.Saved.SameTable(here) { // tables of another boot may have the same handle
		b.table = here.Table
	}
	return b, report, nil
}

// Read reads the book of another owner, or of none, without a lock, as it is on
// the disk. If a few sources are named it reads only their rows, in a fraction
// of the time. Changes stay in memory.
func Read(c Config, sources ...netip.Prefix) (*Book, Report, error) {
	b := New(c.MaxRows)
	report := Report{Path: c.Path, Missing: true}
	d, err := folder.Open(filepath.Dir(c.Path))
	if err == nil {
		defer d.Close()
		var f *os.File
		if f, err = d.Open(filepath.Base(c.Path), unix.O_RDONLY); err == nil {
			defer f.Close()
			report, err = b.loadFile(f, c, startsOf(sources), 0)
		}
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, Report{}, wrap("read", c.Path, err)
	}
	return b, report, nil
}

// Look reports what a book is about, without reading its rows.
func Look(c Config) (Report, error) {
	_, report, err := Read(c, []netip.Prefix{}...)
	return report, err
}

// loadFile reads a file as large as it is now, to which some more rows may be
// added.
func (b *Book) loadFile(f *os.File, c Config, only [][]byte, more int) (Report, error) {
	info, err := f.Stat()
	if err != nil {
		return Report{}, err
	}
	if info.Size() > maxBytes(b.max) {
		return Report{}, &RefusedError{Reason: c.Path + " is too large", Hint: "move it away"}
	}
	if only == nil {
		const line = 256 // bytes, about
		b.reserve(int(info.Size()/line) + more)
	}
	return b.load(io.NewSectionReader(f, 0, info.Size()), c, only)
}
