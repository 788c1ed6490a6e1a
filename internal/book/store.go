package book

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// store is the file of a book that its owner changes. What concerns the disk is
// only touched while disk is locked, so that a sync can wait for it beside the
// owner's loop; the rest is the loop's.
type store struct {
	path string
	name string // in its folder
	here Origin

	disk   sync.Mutex
	folder *folder
	lock   *os.File
	file   *os.File // nil if there is none yet
	keep   bool     // the file is to be kept as .bad when it is rewritten
	failed atomic.Bool

	head         Header // the last one in the file
	lines        int    // in the file, without the first header
	pending      []byte // lines to append
	pendingLines int
	dirty        bool   // something is to be written
	changed      bool   // something was, since the file was last rewritten
	rewrite      bool   // appending is not enough
	next         Moment // when to write, at the earliest
}

// openStore takes the lock of a file and opens it, if there is one.
func openStore(c Config) (*store, error) {
	s := &store{path: c.Path, name: filepath.Base(c.Path), here: c.Here, next: c.Now.Boot}
	if err := s.open(c.Wait); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

func (s *store) open(wait time.Duration) (err error) {
	dir := filepath.Dir(s.path)
	if s.folder, err = openFolder(dir); errors.Is(err, fs.ErrNotExist) {
		if err = os.MkdirAll(dir, 0o700); err == nil {
			s.folder, err = openFolder(dir)
		}
	}
	if err != nil {
		return err
	}
	if s.lock, err = s.folder.lock(s.name+lockSuffix, wait); err != nil {
		return err
	}
	s.file, err = s.folder.open(s.name, unix.O_RDWR|unix.O_APPEND)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// reopen opens what has taken the place of the file, if it may be replaced.
func (s *store) reopen() error {
	err := s.open(0)
	if err == nil && s.file != nil {
		_, err = s.readHead()
	}
	return err
}

func (s *store) close() {
	for _, f := range [...]*os.File{s.file, s.lock} {
		if f != nil {
			f.Close()
		}
	}
	if s.folder != nil {
		s.folder.dir.Close()
	}
	s.file, s.lock, s.folder = nil, nil, nil
}

// load reads the file into a book that is to be its owner's.
func (s *store) load(c Config) (b *Book, report Report, err error) {
	b, report = New(c.MaxRows), Report{Path: c.Path, Missing: true}
	if s.file != nil {
		if report, err = b.loadFile(s.file, c, nil); err != nil {
			return nil, report, err
		}
	}
	b.table = report.Saved.Origin().Table
	s.head, s.lines = report.Saved, report.lines
	s.keep = report.BadLines > 0 || report.Origin != nil
	s.rewrite = report.Missing || report.Torn || s.keep || report.first.Version < Version || !report.first.Origin().SameBoot(c.Here)
	if s.rewrite {
		s.head = newHeader(c.Here, c.Now) // the old one has served to tell how much time has passed
	}
	b.store = s
	return b, report, nil
}

// inPlace reports whether the path still leads to our folder and file.
func (s *store) inPlace() bool {
	same := func(a, b *unix.Stat_t) bool { return a.Ino == b.Ino && a.Dev == b.Dev }
	var dir, file, have unix.Stat_t
	if s.folder == nil || unix.Stat(filepath.Dir(s.path), &dir) != nil || !same(&dir, &s.folder.stat) {
		return false
	}
	err := unix.Fstatat(s.folder.fd(), s.name, &file, unix.AT_SYMLINK_NOFOLLOW)
	if s.file == nil {
		return errors.Is(err, fs.ErrNotExist)
	}
	return err == nil && unix.Fstat(int(s.file.Fd()), &have) == nil && same(&file, &have)
}

// append has a line appended: that of a row, or that its source is free.
func (s *store) append(b *Book, r *Row, free bool) {
	if s == nil {
		return
	}
	if s.dirty = true; s.rewrite {
		return
	}
	if free {
		s.pending = appendFree(s.pending, r.Source)
	} else {
		s.pending = appendRow(s.pending, r, s.head.Clock(), false)
	}
	if s.pendingLines++; s.pendingLines > max(fewLines, b.Len()/2) {
		s.replace() // is shorter
	}
}

// replace has the file rewritten instead of appended to.
func (s *store) replace() {
	if s != nil {
		s.dirty, s.rewrite, s.pending, s.pendingLines = true, true, nil, 0
	}
}
