package book

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/internal/folder"
)

const (
	syncEvery   = time.Second
	retryAfter  = 10 * time.Second
	headerEvery = 10 * time.Minute
	maxDrift    = time.Second / 2 // of the two clocks since the last header
	fewLines    = 1024            // are not worth rewriting, however many are dead

	lockSuffix  = ".lock"
	tempSuffix  = ".tmp"
	forceSuffix = ".save" // the temporary file of one without the lock
	badSuffix   = ".bad"
)

// store is the file of a book that its owner changes. What concerns the disk is
// only touched while disk is locked, so that a sync can wait for it beside the
// owner's loop; the rest is the loop's.
type store struct {
	path string
	name string // in its folder
	here Origin

	force bool // without the lock: the file is replaced, which its owner will notice

	disk   sync.Mutex
	folder *folder.Folder
	lock   *os.File
	file   *os.File // nil if there is none yet
	keep   bool     // the file is to be kept as .bad when it is rewritten
	failed atomic.Bool

	head    Header // the last one in the file
	lines   int    // in the file, without the first header
	partial bool   // the book has only some rows of the file, which cannot be rewritten
	pending []key  // sources of which a line is to be appended
	dirty   bool   // something is to be written
	changed bool   // something was, since the file was last rewritten
	rewrite bool   // appending is not enough
	next    Moment // when to write, at the earliest
}

// openStore takes the lock of a file and opens it, if there is one.
func openStore(c Config) (*store, error) {
	s := &store{path: c.Path, name: filepath.Base(c.Path), here: c.Here, force: c.Force, next: c.Now.Boot}
	if err := s.open(c.Wait); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

func (s *store) open(wait time.Duration) (err error) {
	if s.folder, err = folder.Make(filepath.Dir(s.path)); err != nil {
		return err
	}
	s.lock, err = s.folder.Lock(s.name+lockSuffix, wait)
	if err != nil && !(s.force && errors.Is(err, ErrLocked)) {
		return err
	}
	s.file, err = s.folder.Open(s.name, unix.O_RDWR|unix.O_APPEND)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
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
		s.folder.Close()
	}
	s.file, s.lock, s.folder = nil, nil, nil
}

// note has a line appended about a source.
func (s *store) note(b *Book, k key) {
	if s == nil {
		return
	}
	if s.dirty = true; !s.rewrite {
		s.pending = append(s.pending, k)
		if len(s.pending) > max(fewLines, b.Len()/2) {
			s.replace() // is shorter
		}
	}
}

// replace has the file rewritten instead of appended to.
func (s *store) replace() {
	if s != nil {
		s.dirty, s.rewrite, s.pending = true, true, nil
	}
}

// full reports whether the file is to be rewritten rather than appended to.
func (s *store) full(b *Book) bool {
	return s.rewrite || s.force || !s.partial && s.lines+len(s.pending) > 2*b.Len()+fewLines
}

// drifted reports whether the wall clock was set since the last header.
func (s *store) drifted(now Clock) bool {
	drift := now.Wall.Sub(s.head.Saved) - now.Boot.Sub(s.head.Clock().Boot)
	return drift.Abs() > maxDrift
}

// noteDrift has a header written if the wall clock was set.
func (s *store) noteDrift(b *Book, now Clock) {
	if s != nil && b.Len() > 0 && s.drifted(now) {
		s.dirty = true
	}
}

// Table returns the handle of the table that the rows are about, as far as the
// file says: what a table of that handle does not have was lifted from it.
func (b *Book) Table() uint64 { return b.table }

// SetTable says that the rows are about the table with that handle, once what
// was missing there has been put back, or taken out of the book.
func (b *Book) SetTable(handle uint64) {
	if s := b.store; s != nil && b.table != handle {
		s.dirty = true
	}
	b.table = handle
}

// NextSync returns when Sync or Flush is to be called: at most once a second.
// ok is false if there is nothing to write.
func (b *Book) NextSync() (at Moment, ok bool) {
	switch s := b.store; {
	case s == nil:
		return 0, false
	case s.failed.Load():
		return s.next.Add(retryAfter - syncEvery), true
	default:
		return s.next, s.dirty
	}
}

// Sync writes what has changed since the last time, and waits until it is on
// the disk.
func (b *Book) Sync(now Clock) error {
	if b.store == nil {
		return nil
	}
	b.store.disk.Lock()
	wait, err := b.store.flush(b, now)
	if wait == nil {
		return err
	}
	return wait()
}

// Flush is Sync in two halves, for a loop that must not wait for the disk. It
// hands what has changed to the kernel; wait, which must then be called, if
// need be by another goroutine, returns when it is on the disk. wait is nil if
// there is nothing to write, or if the one before has not returned. After an
// error of either, the file is rewritten the next time.
func (b *Book) Flush(now Clock) (wait func() error, err error) {
	if b.store == nil || !b.store.disk.TryLock() {
		return nil, nil
	}
	return b.store.flush(b, now)
}

// Compact is Sync at an orderly end: the file is rewritten if anything has
// changed since that was last done, or if it is gone.
func (b *Book) Compact(now Clock) error {
	s := b.store
	if s == nil {
		return nil
	}
	s.noteDrift(b, now)
	_, err := os.Lstat(s.path)
	gone := errors.Is(err, fs.ErrNotExist) && b.Len() > 0
	if s.changed || s.dirty || gone || s.failed.Load() {
		s.replace()
	}
	return b.Sync(now)
}

// Close gives up the lock, without writing. What is done to the book afterwards
// stays in memory.
func (b *Book) Close() {
	if s := b.store; s != nil {
		s.disk.Lock()
		defer s.disk.Unlock()
		s.close()
		b.store = nil
	}
}

// flush is called with disk locked, and unlocks it unless it returns wait.
func (s *store) flush(b *Book, now Clock) (wait func() error, err error) {
	if s.failed.Swap(false) {
		s.replace()
	}
	if !s.dirty {
		s.disk.Unlock()
		return nil, nil
	}
	s.next = now.Boot.Add(syncEvery)
	finish, err := s.write(b, now)
	if err != nil {
		s.failed.Store(true)
		s.disk.Unlock()
		return nil, wrap("write", s.path, err)
	}
	s.dirty, s.rewrite, s.pending = false, false, nil
	return func() error {
		defer s.disk.Unlock()
		err := finish()
		s.failed.Store(err != nil)
		return wrap("write", s.path, err)
	}, nil
}

// write hands the changes to the kernel, and returns what brings them to the
// disk.
func (s *store) write(b *Book, now Clock) (finish func() error, err error) {
	if !s.inPlace() {
		// The file was removed or replaced, or the folder with the lock in it.
		s.close()
		if err = s.open(0); err == nil && s.file != nil {
			err = checkHead(s.file) // may it be replaced?
		}
		if err != nil {
			s.close()
			return nil, err
		}
		s.rewrite, s.keep = true, false
	}
	head := newHeader(s.here, now)
	head.Table = b.table
	if s.full(b) {
		return s.startRewrite(b, head)
	}
	var lines []byte
	for _, k := range s.pending {
		if r, ok := b.get(k); ok {
			lines = appendRow(lines, &r, s.head.Clock())
		} else {
			lines = appendFree(lines, k.prefix())
		}
	}
	s.lines += len(s.pending)
	if s.head.Table != b.table || s.drifted(now) || now.Boot.Sub(s.head.Clock().Boot) > headerEvery {
		s.head = head
		lines = head.append(lines)
		s.lines++
	}
	s.changed = true
	info, err := s.file.Stat()
	if err != nil {
		return nil, err
	}
	if _, err := s.file.Write(lines); err != nil {
		return nil, errors.Join(err, s.file.Truncate(info.Size())) // or the next line sticks to half of one
	}
	return func() error { return unix.Fdatasync(int(s.file.Fd())) }, nil
}

// checkHead returns an error if a file does not begin with a header.
func checkHead(f *os.File) error {
	start := make([]byte, maxLine)
	n, _ := f.ReadAt(start, 0)
	line, _, _ := bytes.Cut(start[:n], []byte("\n"))
	return new(Header).parse(line)
}

// inPlace reports whether the path still leads to our folder and file.
func (s *store) inPlace() bool {
	var st unix.Stat_t
	switch {
	case s.folder == nil:
		return false
	case s.file == nil:
		return s.folder.InPlace(s.name, nil)
	}
	return unix.Fstat(int(s.file.Fd()), &st) == nil && s.folder.InPlace(s.name, &st)
}

// startRewrite writes all rows to a new file, which finish then puts in the
// place of the old one.
func (s *store) startRewrite(b *Book, head Header) (finish func() error, err error) {
	if s.partial {
		return nil, errors.New("it was replaced by another process just now")
	}
	temp, bad := s.name+tempSuffix, ""
	if s.force {
		temp = s.name + forceSuffix // the owner may be using the other one
	}
	if s.keep && s.file != nil {
		bad = s.name + badSuffix
		if err := s.folder.Check(bad); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	if err := s.folder.Remove(temp); err != nil { // of one that was killed
		return nil, err
	}
	f, err := s.folder.Create(temp)
	if err != nil {
		return nil, err
	}
	giveUp := func(err error) error {
		f.Close()
		return errors.Join(err, s.folder.Remove(temp))
	}
	head.Rows = b.Len()
	if err := encode(f, head, b.Rows()); err != nil {
		return nil, giveUp(err)
	}
	s.head, s.lines, s.changed = head, b.Len(), false
	return func() error {
		err := f.Sync()
		if err == nil {
			err = s.folder.Replace(temp, s.name, bad)
		}
		if err != nil {
			return giveUp(err)
		}
		if s.file != nil {
			s.file.Close()
		}
		s.file, s.keep = f, false
		return nil
	}, nil
}
