package watch

import (
	"context"
	"errors"
	"iter"
	"net/netip"
	"time"

	"github.com/portmon/portmon/internal/book"
)

// ErrEnded means that the watcher has ended.
var ErrEnded = errors.New("the watcher has ended")

// ErrNotSaved means that what the watcher has noted is not on the disk yet.
var ErrNotSaved = errors.New("noted, but not on the disk yet, which does not answer")

// call has the loop call a function, and returns when it has.
func (w *Watcher) call(ctx context.Context, f func()) error {
	called := make(chan struct{})
	select {
	case w.calls <- func() { f(); close(called) }:
		<-called
		return nil
	case <-w.ended:
		return ErrEnded
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Stats returns the counters. It does not ask the kernel.
func (w *Watcher) Stats(ctx context.Context) (s Stats, err error) {
	err = w.call(ctx, func() {
		s = w.core.stats(book.ReadClock())
		s.Saves, s.SaveFailures, s.SaveError = w.saves, w.failures, w.saveError
	})
	return s, err
}

// Origin returns which table the book is about.
func (w *Watcher) Origin(ctx context.Context) (o book.Origin, err error) {
	err = w.call(ctx, func() { o = w.core.origin() })
	return o, err
}

// Rows yields what is remembered of sources, or all if none are named, and says
// which table it is about. The loop is asked for a few at a time, so that it goes
// on meanwhile, and no row that is there from the first to the last is missing.
// It may end with an error.
func (w *Watcher) Rows(ctx context.Context, of ...netip.Prefix) (o book.Origin, all iter.Seq2[book.Row, error], err error) {
	const few = 4096
	var next func() (book.Row, bool)
	var stop func()
	var rows []book.Row
	more := true
	take := func() {
		for rows = rows[:0]; len(rows) < few && more; {
			var row book.Row
			if row, more = next(); more {
				rows = append(rows, row)
			}
		}
	}
	err = w.call(ctx, func() {
		o = w.core.origin()
		next, stop = iter.Pull(w.core.rows(of))
		take()
	})
	if err != nil {
		return o, nil, err
	}
	return o, func(yield func(book.Row, error) bool) {
		defer func() {
			if more && w.call(context.WithoutCancel(ctx), func() { stop() }) != nil {
				stop() // the loop has ended
			}
		}()
		for {
			for _, row := range rows {
				if !yield(row, nil) {
					return
				}
			}
			if !more {
				return
			}
			if err := w.call(ctx, take); err != nil {
				yield(book.Row{}, err)
				return
			}
		}
	}, nil
}

// Save reads the table, and returns when all that has happened until now is on
// the disk.
func (w *Watcher) Save(ctx context.Context) error {
	saved := make(chan error, 1)
	err := w.call(ctx, func() {
		// The messages come first, if they are in time: they have the ports.
		w.core.readSoon(book.ReadClock().Boot.Add(heldBack))
		w.core.toCount = true
		w.waiting = append(w.waiting, saved)
	})
	if err != nil {
		return err
	}
	select {
	case err := <-saved: // at the end at the latest
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Unbanned records that the user has lifted the bans of prefixes, of each alone
// or of all that is within it: they are forgotten for good. It returns the
// sources of which something was remembered, once that is on the disk. If the
// context ends before, the error is [ErrNotSaved].
func (w *Watcher) Unbanned(ctx context.Context, alone bool, ps ...netip.Prefix) (had []netip.Prefix, err error) {
	return w.forget(ctx, func(now book.Clock) []netip.Prefix { return w.core.unbanned(ps, alone, now) })
}

// Disallowed records that the user has ended the allowances of prefixes and of
// all that is within them, as [Watcher.Unbanned] does with bans.
func (w *Watcher) Disallowed(ctx context.Context, ps ...netip.Prefix) (had []netip.Prefix, err error) {
	return w.forget(ctx, func(now book.Clock) []netip.Prefix { return w.core.disallowed(ps, now) })
}

// forget has the core forget sources, and returns them once that is on the disk.
func (w *Watcher) forget(ctx context.Context, f func(now book.Clock) []netip.Prefix) (had []netip.Prefix, err error) {
	saved := make(chan error, 1)
	err = w.call(ctx, func() {
		had = f(book.ReadClock())
		w.unbanned = append(w.unbanned, saved)
	})
	if err != nil {
		return nil, err
	}
	select {
	case err := <-saved: // at the end at the latest
		return had, err
	case <-ctx.Done():
		return had, ErrNotSaved
	}
}

// Written returns when all that is noted now is on the disk, and what the
// counters of the table have grown: those of a new one would be nobody's if the
// watcher was killed before.
func (w *Watcher) Written(ctx context.Context) error {
	if err := w.count(ctx); err != nil {
		return err
	}
	_, err := w.forget(ctx, func(book.Clock) []netip.Prefix { return nil })
	return err
}

// Applying records that the user is about to change the table: it is not
// repaired until the next reload, or for ten seconds.
func (w *Watcher) Applying(ctx context.Context) error {
	return w.call(ctx, func() { w.core.onApplying(book.ReadClock()) })
}

// Swapping records that the user is about to put the table back as it was: from
// when it returns, nothing is changed or read, nor heard of, until Swapped, or
// for a minute.
func (w *Watcher) Swapping(ctx context.Context) error {
	if err := w.count(ctx); err != nil {
		return err
	}
	for changing := true; changing; {
		err := w.call(ctx, func() {
			if w.core.paused == 0 {
				w.fault(w.monitor.Pause())
			}
			w.core.paused, changing = book.ReadClock().Boot.Add(swapTime), w.changing
		})
		if err != nil {
			return err
		}
		if changing { // what was begun before
			time.Sleep(time.Millisecond)
		}
	}
	return nil
}

// Swapped records that the table was put back, and has that handle, 0 if there
// is none: what it says and these rows say is all that counts.
func (w *Watcher) Swapped(ctx context.Context, handle uint64, rows *book.Book) error {
	return w.call(ctx, func() {
		w.resume()
		w.core.onSwapped(handle, rows, book.ReadClock())
	})
}

// resume ends what Swapping has begun.
func (w *Watcher) resume() {
	if w.core.paused != 0 {
		w.core.paused = 0
		w.fault(w.monitor.Resume())
		now := book.ReadClock()
		w.core.table.suspect()
		w.core.resync(now)
	}
}

// Removing records that the user is about to delete the table, within ten
// seconds: it is not made again then, and its bans are forgotten. The steps of
// the ladder are not.
func (w *Watcher) Removing(ctx context.Context) error {
	if err := w.count(ctx); err != nil {
		return err
	}
	return w.call(ctx, func() { w.core.onRemoving(book.ReadClock()) })
}

// Drilling records that the user is about to have sources offend for a test:
// for ten seconds, what becomes of them is not remembered, and no news.
func (w *Watcher) Drilling(ctx context.Context, sources ...netip.Prefix) error {
	return w.call(ctx, func() { w.core.onDrilling(sources, book.ReadClock()) })
}
