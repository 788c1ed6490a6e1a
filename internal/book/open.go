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
)

// Config says where a book is, and who opens it when.
type Config struct {
	Path    string // absolute
	MaxRows int    // 0 means DefaultMaxRows
	Here    Origin // what the book is to be about
	Now     Clock
	Wait    time.Duration // for the lock; 0 is not at all
}

// Open makes this process the owner of a book and reads it; its folder is made
// if it is missing. The file is not written until there is a change. That it is
// about another machine or network namespace is reported, and for the caller to
// refuse: if it calls Clear, the file is kept as .bad.
//
// The error is an [*Error]. It wraps [ErrLocked], a [*RefusedError] or what the
// system says.
func Open(c Config) (*Book, Report, error) {
	s, err := openStore(c)
	if err != nil {
		return nil, Report{}, wrap("open", c.Path, err)
	}
	b, report, err := s.load(c)
	if err != nil {
		s.close()
		return nil, Report{}, wrap("read", c.Path, err)
	}
	return b, report, nil
}

// Read reads the book of another owner, or of none, without a lock, as it is on
// the disk. Changes stay in memory.
func Read(c Config) (*Book, Report, error) { return read(c, nil) }

// Lookup is Read for some sources alone, in a fraction of the time.
func Lookup(c Config, sources ...netip.Prefix) (*Book, Report, error) {
	only := make(map[string]bool, len(sources))
	for _, p := range sources {
		if k, ok := keyOf(p); ok {
			only[k.prefix().String()] = true
		}
	}
	return read(c, only)
}

func read(c Config, only map[string]bool) (*Book, Report, error) {
	b := New(c.MaxRows)
	report := Report{Path: c.Path, Missing: true}
	d, err := openFolder(filepath.Dir(c.Path))
	if err == nil {
		defer d.dir.Close()
		var f *os.File
		if f, err = d.open(filepath.Base(c.Path), unix.O_RDONLY); err == nil {
			defer f.Close()
			report, err = b.loadFile(f, c, only)
		}
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, Report{}, wrap("read", c.Path, err)
	}
	return b, report, nil
}

// loadFile reads a file as large as it is now. What is larger than portmon
// makes it is refused, because it would take very long to read.
func (b *Book) loadFile(f *os.File, c Config, only map[string]bool) (Report, error) {
	info, err := f.Stat()
	if err != nil {
		return Report{}, err
	}
	if info.Size() > 64<<20+int64(b.max)*maxLine {
		return Report{}, &RefusedError{f.Name() + " is too large", "move it away"}
	}
	return b.load(io.LimitReader(f, info.Size()), c, info.ModTime(), only)
}
