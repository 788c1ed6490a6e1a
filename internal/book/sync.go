package book

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

const (
	syncEvery   = time.Second
	retryAfter  = 10 * time.Second
	headerEvery = 10 * time.Minute
	maxDrift    = time.Second / 2 // of the two clocks since the last header
	fewLines    = 1024            // are not worth rewriting, however many are dead

	tempSuffix = ".tmp"
	badSuffix  = ".bad"
)

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
// It reports false if there is nothing to write.
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

// Flush is Sync in two halves, for a loop that must not wait for the disk. What
// has changed is handed to the kernel; wait, which must then be called, if need
// be by another goroutine, returns when it is on the disk. wait is nil if there
// is nothing to write, or if the one before has not returned. After an error of
// either, the file is rewritten the next time.
func (b *Book) Flush(now Clock) (wait func() error, err error) {
	if b.store == nil || !b.store.disk.TryLock() {
		return nil, nil
	}
	return b.store.flush(b, now)
}

// Compact is Sync at an orderly end: if anything has changed since the file was
// last rewritten, or if it is gone, then it is rewritten.
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
	s.dirty, s.rewrite, s.pending, s.pendingLines = false, false, nil, 0
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
		// Somebody removed or replaced the file, or the folder with the lock in
		// it.
		s.close()
		if err := s.reopen(); err != nil {
			s.close()
			return nil, err
		}
		s.rewrite, s.keep = true, false
	}
	if s.rewrite || s.lines+s.pendingLines > 2*b.Len()+fewLines {
		return s.startRewrite(b, now)
	}
	// The next header goes behind the rows that were encoded by the last one.
	if s.head.Origin().Table != b.table || s.drifted(now) || now.Boot.Sub(s.head.Clock().Boot) > headerEvery {
		s.head = s.header(b, now)
		s.pending = s.head.append(s.pending)
		s.pendingLines++
	}
	s.changed = true
	s.lines += s.pendingLines
	if _, err := s.file.Write(s.pending); err != nil {
		return nil, err
	}
	return func() error { return unix.Fdatasync(int(s.file.Fd())) }, nil
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

func (s *store) header(b *Book, now Clock) Header {
	o := s.here
	o.Table = b.table
	return newHeader(o, now)
}

// startRewrite writes all rows to a new file, which finish then puts in the
// place of the old one.
func (s *store) startRewrite(b *Book, now Clock) (finish func() error, err error) {
	temp, bad := s.name+tempSuffix, ""
	if s.keep && s.file != nil {
		bad = s.name + badSuffix
		if err := s.folder.check(bad); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	if err := s.folder.remove(temp); err != nil { // of an owner that was killed
		return nil, err
	}
	f, err := s.folder.create(temp)
	if err != nil {
		return nil, err
	}
	head := s.header(b, now)
	head.Rows = b.Len()
	if err := encode(f, head, b.Rows()); err != nil {
		f.Close()
		return nil, errors.Join(err, s.folder.remove(temp))
	}
	s.head, s.lines, s.changed = head, b.Len(), false
	return func() error {
		err := f.Sync()
		if err == nil {
			err = s.folder.replace(temp, s.name, bad)
		}
		if err != nil {
			f.Close()
			return errors.Join(err, s.folder.remove(temp))
		}
		if s.file != nil {
			s.file.Close()
		}
		s.file, s.keep = f, false
		return nil
	}, nil
}

// Replace writes the rows, which are about that origin, to a new file in the
// place of one whose owner hangs. If that wakes up it notices, and writes its
// own again.
func (b *Book) Replace(path string, o Origin) error {
	return wrap("write", path, b.replaceFile(path, o))
}

func (b *Book) replaceFile(path string, o Origin) error {
	d, err := openFolder(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer d.dir.Close()
	const suffix = ".save" // the owner may be using the other one
	temp := filepath.Base(path) + suffix
	if err := d.remove(temp); err != nil {
		return err
	}
	f, err := d.create(temp)
	if err != nil {
		return err
	}
	defer f.Close()
	head := newHeader(o, ReadClock())
	head.Rows = b.Len()
	if err := errors.Join(encode(f, head, b.Rows()), f.Sync()); err != nil {
		return errors.Join(err, d.remove(temp))
	}
	return d.replace(temp, filepath.Base(path), "")
}
