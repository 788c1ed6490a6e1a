package watch

import (
	"errors"
	"math"
	"time"

	"github.com/portmon/portmon/internal/book"
	"github.com/portmon/portmon/ruleset"
)

// heldBack is how long the kernel may hold log messages back, to send several
// at once, and how long they may take to get here. On a busy machine it can be
// longer: what must not be missed is read from the sets.
const heldBack = 30 * time.Millisecond

// lockPatience is how long to wait for a file: a command may have it for a
// moment.
const lockPatience = 5 * time.Second

// begin opens the book and makes the core.
func (w *Watcher) begin() error {
	s, err := ruleset.Read(w.editor, w.config.Spec.Table)
	if err != nil {
		return err
	}
	now := book.ReadClock()
	b, last := w.openBook(book.Here(s.Handle), now)
	known := uint64(0)
	if last.SameTable(book.Here(last.Table)) {
		known = last.Table
	}
	spec := w.config.Spec
	switch { // the mode is for whoever applies to choose
	case s.Digest != "":
		spec.Observe = s.Observe
	case known != 0:
		spec.Observe = b.Observes()
	}
	if s.Observe {
		b.SetObserves(true)
	} else if !b.Observes() {
		b.Enforce(false) // of a file that was torn at the switch
	}
	w.core = newCore(spec, b, w.editor.PortID(), known, now)
	w.core.tally = w.openTally(book.Here(s.Handle), now)
	if w.saveError != nil {
		w.core.anewAt = now.Boot
	}
	return nil
}

// openBook returns the book, and which table it describes. If its file cannot be
// used, the book is in memory only.
func (w *Watcher) openBook(here book.Origin, now book.Clock) (*book.Book, book.Origin) {
	rows := w.config.MaxRows()
	if w.config.State == "" {
		return book.New(rows), book.Origin{}
	}
	b, report, err := book.Open(book.Config{Path: w.config.State, MaxRows: rows, Here: here, Now: now, Wait: lockPatience})
	if err == nil && report.Origin != nil {
		// What was written on another machine is of no use here, as after this
		// one was cloned: the file is kept aside. Another network namespace may
		// still need its own.
		var other *book.OriginError
		if errors.As(report.Origin, &other); other != nil && other.What == "machine" {
			w.fault(report.Origin)
			b.Clear()
			return b, book.Origin{}
		}
		b.Close()
		err = report.Origin
	}
	if err != nil {
		w.saveError = err
		w.fault(err)
		return book.New(rows), book.Origin{}
	}
	if damage := report.String(); damage != "" {
		w.fault(errors.New(damage))
	}
	return b, report.Saved.Origin
}

// sync writes what has changed in the book, if that is due. Those who wait for
// that get an answer once all that happened before they asked is in the book.
func (w *Watcher) sync(now book.Clock) {
	if w.syncing || w.untilSync(now) > 0 {
		return
	}
	asked := w.unbanned
	if w.unbanned = nil; w.core.quiet() {
		asked, w.waiting = append(asked, w.waiting...), nil
	}
	wait, err := w.core.flush(now)
	count := w.core.tally.Flush(now)
	if wait == nil && count == nil {
		w.onSynced(err, false, asked)
		return
	}
	w.syncing = true
	w.beside.Go(func() {
		if wait != nil {
			err = wait()
		}
		var fault error
		switch { // offences that the book lacks will be learnt and counted again
		case count != nil && err != nil:
			w.core.tally.Postpone()
		case count != nil: // if it is killed before that, better too few are counted than too many
			fault = count()
		}
		w.pass(w.calls, func() {
			w.fault(fault)
			w.onSynced(err, wait != nil, asked)
		})
	})
}

// untilSync returns how long there is nothing to write.
func (w *Watcher) untilSync(now book.Clock) time.Duration {
	switch {
	case w.syncing:
		return time.Hour
	case len(w.unbanned) > 0 || len(w.waiting) > 0 && w.core.quiet():
		return 0
	}
	return w.core.untilSync(now)
}

// onSynced handles the outcome of writing the book, of which nothing may have
// been written, and tells it to those who asked.
func (w *Watcher) onSynced(err error, written bool, asked []chan<- error) {
	w.syncing = false
	switch {
	case err != nil:
		w.failures++
		w.saveError = err
		w.fault(err)
	case written:
		w.saves++
		w.saveError = nil
	default:
		err = w.saveError // of a file that cannot be used
	}
	for _, saved := range asked {
		saved <- err
	}
}

// end handles all that was logged until now, reads what was heard of and is not
// known yet, and writes the book. A log that does not end within a second has lost
// its end in an overrun.
func (w *Watcher) end() error {
	if err := w.log.Unbind(); err != nil {
		w.fault(err)
	}
	w.callWaiting()
	late, over := time.After(time.Second), false
	for !w.logEnded || w.changing || w.syncing || w.core.curious() && !over {
		w.ask(book.ReadClock())
		select {
		case f := <-w.reports:
			f()
			w.callWaiting()
		case f := <-w.calls:
			f()
		case <-late:
			w.logEnded, over = true, true
		}
	}
	now := book.ReadClock()
	if todo, ok := w.core.nextChange(now); ok && todo.put != nil {
		w.onChanged(makeChange(w.editor, todo))
	}
	w.core.release(math.MaxInt64)
	w.publish(w.core.takeNews(now))
	w.awaitLocated()
	err := w.core.close(now)
	w.closeTally(now, err == nil)
	w.answerCounting(nil)
	for _, saved := range append(w.waiting, w.unbanned...) {
		saved <- err
	}
	w.waiting, w.unbanned = nil, nil
	return err
}
