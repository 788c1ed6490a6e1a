package watch

import (
	"errors"
	"slices"
	"time"

	"github.com/portmon/portmon/internal/book"
	"github.com/portmon/portmon/ruleset"
)

// heldBack is how long the kernel may hold log messages back, to send several at
// once, and how long it may take until they are here.
const heldBack = 30 * time.Millisecond

// save is somebody who waits until all that has happened is on the disk.
type save struct {
	due   book.Moment // not before that
	saved chan<- error
}

// begin opens the book, and the core on top of it.
func (l *loop) begin() error {
	s, err := ruleset.Read(l.editor, l.config.Spec.Table)
	if err != nil {
		return err
	}
	now := book.ReadClock()
	b, last := l.openBook(book.Here(s.Handle), now)
	known := uint64(0)
	if last.SameTable(book.Here(last.Table)) {
		known = last.Table
	}
	l.core = newCore(l.config.Spec, b, l.editor.PortID(), known, now)
	return nil
}

// openBook returns the book, and which table it is about. Without its file all
// else goes on, in memory.
func (l *loop) openBook(here book.Origin, now book.Clock) (*book.Book, book.Origin) {
	rows := l.config.maxRows()
	if l.config.State == "" {
		return book.New(rows), book.Origin{}
	}
	// A command may have it for a moment.
	const wait = 5 * time.Second
	b, report, err := book.Open(book.Config{Path: l.config.State, MaxRows: rows, Here: here, Now: now, Wait: wait})
	if err == nil && report.Origin != nil {
		// What was written on another machine is of no use here, as after this one
		// was cloned: the file is kept aside. Another network namespace may still
		// need its own.
		if other, _ := errors.AsType[*book.OriginError](report.Origin); other != nil && other.What == "machine" {
			l.fault(report.Origin)
			b.Clear()
			return b, book.Origin{}
		}
		b.Close()
		err = report.Origin
	}
	if err != nil {
		l.saveError = err
		l.fault(err)
		return book.New(rows), book.Origin{}
	}
	if damage := report.String(); damage != "" {
		l.fault(errors.New(damage))
	}
	return b, report.Saved.Origin()
}

// sync writes what has changed in the book, if that is due.
func (l *loop) sync(now book.Clock) {
	if l.syncing {
		return
	}
	asked := l.dueSaves(now)
	if len(asked) == 0 && l.core.untilSync(now) > 0 {
		return
	}
	wait, err := l.core.flush(now)
	if wait == nil {
		l.onSynced(synced{err, err == nil, asked})
		return
	}
	l.syncing = true
	l.readers.Go(func() { l.synced <- synced{wait(), false, asked} })
}

// synced is the outcome of writing the book.
type synced struct {
	err     error
	nothing bool // was to be written
	asked   []save
}

func (l *loop) onSynced(s synced) {
	l.syncing = false
	switch {
	case s.err != nil:
		l.failures++
		l.saveError = s.err
		l.fault(s.err)
	case !s.nothing:
		l.saves++
		l.saveError = nil
		l.freed()
	case s.err == nil && l.saveError != nil && len(s.asked) > 0:
		s.err = l.saveError // there is no file to write to
	}
	for _, a := range s.asked {
		a.saved <- s.err
	}
}

// untilSync returns how long there is nothing to write.
func (l *loop) untilSync(now book.Clock) time.Duration {
	d := time.Hour
	if l.syncing {
		return d
	}
	for _, s := range l.waiting {
		if l.core.quiet() {
			d = min(d, s.due.Sub(now.Boot))
		}
	}
	return min(d, l.core.untilSync(now))
}

// dueSaves returns those who wait for a save, once all that happened before they
// asked has been taken in.
func (l *loop) dueSaves(now book.Clock) (due []save) {
	if !l.core.quiet() {
		return nil
	}
	l.waiting = slices.DeleteFunc(l.waiting, func(s save) bool {
		if now.Boot < s.due {
			return false
		}
		due = append(due, s)
		return true
	})
	return due
}

// end takes in what was heard until now, and writes the book.
func (l *loop) end() error {
	for wait := time.After(heldBack); wait != nil; {
		select {
		case r := <-l.reports:
			l.take(r)
		case <-wait:
			wait = nil
		}
	}
	l.drain()
	if l.changing {
		l.onChanged(<-l.changes)
	}
	now := book.ReadClock()
	if todo, ok := l.core.nextChange(now); ok && todo.put != nil {
		l.onChanged(do(l.editor, todo))
	}
	if news := l.core.takeNews(); len(news) > 0 && l.config.News != nil {
		l.config.News(news)
	}
	if l.syncing {
		l.onSynced(<-l.synced)
	}
	err := l.core.close(now)
	for _, s := range l.waiting {
		s.saved <- err
	}
	l.waiting = nil
	l.freed()
	return err
}
