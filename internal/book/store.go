package book

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
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

// store is the file of a book that its owner changes.
type store struct {
	Config
	folder *folder.Folder
	lock   *os.File
	file   *os.File // nil if there is none yet
	keep   bool     // the file is to be kept as .bad when it is rewritten

	head    Header // the last one in the file
	lines   int    // in the file, below the first one
	written int    // of those, when the file was last rewritten
	partial bool   // the book has only some rows of the file, which cannot be rewritten

	pending []key  // sources of which a line is to be appended
	dirty   bool   // something is to be written
	rewrite bool   // appending is not enough
	next    Moment // when to write, at the earliest
	failed  atomic.Bool
	commit  func() error // called before the file is changed, unless it is nil
}

// open takes the lock of a file and opens it, if there is one.
func (s *store) open(wait time.Duration) (err error) {
	if s.folder, err = folder.Make(filepath.Dir(s.Path)); err != nil {
		return err
	}
	s.lock, err = s.folder.Lock(s.name()+lockSuffix, wait)
	if err != nil && !(s.Force && errors.Is(err, ErrLocked)) {
		return err
	}
	s.file, err = s.folder.Open(s.name(), unix.O_RDWR|unix.O_APPEND)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func (s *store) name() string { return filepath.Base(s.Path) }

func (s *store) close() {
	s.file.Close() // an error if it is nil
	s.lock.Close()
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

// Observes reports whether the table drops nothing, as far as the file says.
func (b *Book) Observes() bool { return b.observes }

// SetObserves says whether it does.
func (b *Book) SetObserves(observes bool) {
	if s := b.store; s != nil && b.observes != observes {
		s.dirty = true
	}
	b.observes = observes
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
	wait, err := b.Flush(now)
	if wait == nil {
		return err
	}
	return wait()
}

// Flush is Sync in two halves, for a loop that must not wait for the disk. It
// prepares what is to be written; wait, which must then be called, if need be
// by another goroutine, returns when it is on the disk. wait is nil if there is
// nothing to write. After an error of either, the file is rewritten the next
// time.
//
// Until wait has returned, the book may be changed, but Flush, Sync, Compact
// and Close may not be called.
func (b *Book) Flush(now Clock) (wait func() error, err error) {
	s := b.store
	if s == nil {
		return nil, nil
	}
	if s.failed.Swap(false) {
		s.replace()
	}
	if !s.dirty {
		return nil, nil
	}
	s.next = now.Boot.Add(syncEvery)
	finish, err := s.write(b, now)
	if err != nil {
		s.failed.Store(true)
		return nil, wrap("write", s.Path, err)
	}
	s.dirty, s.rewrite, s.pending = false, false, nil
	return func() error {
		err := finish()
		s.failed.Store(err != nil)
		return wrap("write", s.Path, err)
	}, nil
}

// Compact is Sync at an orderly end: the file is rewritten if anything has
// changed since that was last done, or if it is gone.
func (b *Book) Compact(now Clock) error {
	if s := b.store; s != nil {
		s.noteDrift(b, now)
		if s.dirty || s.lines > s.written || b.Len() > 0 && !s.inPlace() {
			s.replace()
		}
	}
	return b.Sync(now)
}

// Close gives up the lock, without writing. What is done to the book afterwards
// stays in memory.
func (b *Book) Close() {
	if b.store != nil {
		b.store.close()
		b.store = nil
	}
}

// write prepares the changes, and returns what brings them to the disk.
func (s *store) write(b *Book, now Clock) (finish func() error, err error) {
	if !s.inPlace() {
		// The file was removed or replaced, or the folder with the lock in it.
		s.close()
		if err = s.open(0); err == nil && s.file != nil {
			_, err = New(0).loadFile(s.file, s.Config, [][]byte{}, 0) // is it ours?
		}
		if err != nil {
			s.close()
			return nil, err
		}
		s.rewrite, s.keep = true, false
	}
	head := newHeader(s.Here, now)
	head.Table, head.Observe = b.table, b.observes
	if s.rewrite || s.Force || !s.partial && s.lines+len(s.pending) > 2*b.Len()+fewLines {
		return s.startRewrite(b, head)
	}
	var text []byte
	if s.head.Table != head.Table || s.head.Observe != head.Observe || s.drifted(now) || now.Boot.Sub(s.head.Clock().Boot) > headerEvery {
		s.head = head
		text = head.append(text)
		s.lines++
	}
	for _, k := range s.pending {
		r, ok := b.get(k)
		r.Source = k.prefix()
		text = appendRow(text, &r, !ok, s.head.Clock())
	}
	s.lines += len(s.pending)
	return func() error {
		info, err := s.file.Stat()
		if err == nil {
			err = s.awaitCommit()
		}
		if err != nil {
			return err
		}
		if _, err := s.file.Write(text); err != nil {
			return errors.Join(err, s.file.Truncate(info.Size())) // or half a line stays
		}
		return unix.Fdatasync(int(s.file.Fd()))
	}, nil
}

// awaitCommit calls commit, which takes long enough for another process that
// does not wait for the lock to replace the file.
func (s *store) awaitCommit() error {
	if s.commit == nil {
		return nil
	}
	if err := s.commit(); err != nil {
		return err
	}
	if !s.inPlace() {
		return ErrReplaced
	}
	return nil
}

// inPlace reports whether the path still leads to our folder and file.
func (s *store) inPlace() bool {
	if s.folder == nil {
		return false
	}
	info, err := s.file.Stat()
	if s.file == nil {
		return s.folder.InPlace(s.name(), nil)
	}
	return err == nil && s.folder.InPlace(s.name(), info)
}

// startRewrite writes all rows to a new file, which finish then puts in the
// place of the old one.
func (s *store) startRewrite(b *Book, head Header) (finish func() error, err error) {
	if s.partial {
		return nil, ErrReplaced
	}
	temp := s.name() + tempSuffix
	if s.Force {
		temp = s.name() + forceSuffix // the owner may be using the other one
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
	head.Rows = b.Len() + len(b.before)
	if err := encode(f, head, b.Rows()); err != nil {
		return nil, giveUp(err)
	}
	s.head, s.lines, s.written = head, head.Rows, head.Rows
	return func() error {
		err := f.Sync()
		if err == nil {
			err = s.awaitCommit()
		}
		if err == nil {
			err = s.putInPlace(temp)
		}
		if err != nil {
			return giveUp(err)
		}
		s.file.Close()
		s.file, s.keep = f, false
		return nil
	}, nil
}

// putInPlace puts the new file in the place of the old one, which is kept if it
// is damaged.
func (s *store) putInPlace(temp string) error {
	if !s.keep || s.file == nil {
		return s.folder.Rename(temp, s.name())
	}
	bad := s.name() + badSuffix
	if err := s.folder.Remove(bad); err != nil {
		return err
	}
	return s.folder.Replace(temp, s.name(), bad)
}
