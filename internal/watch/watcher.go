package watch

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/portmon/portmon/internal/book"
	"github.com/portmon/portmon/internal/nflog"
	"github.com/portmon/portmon/nftset"
	"github.com/portmon/portmon/ruleset"
)

// Watcher listens to the kernel from the moment it is opened, and acts while Run
// runs. It passes reports to the core and carries out what that returns. The
// goroutine of Run owns all of it but the connections, which belong to the
// goroutines that read and change the kernel.
type Watcher struct {
	config Config
	core   *core

	log     *nflog.Conn
	monitor *nftset.Monitor
	sources *nftset.Conn // for the reader of the log
	reader  *nftset.Conn // for questions
	editor  *nftset.Conn // for changes

	// What the loop is to call: reports of what was received, and all else.
	reports, calls chan func()
	ended          chan struct{} // closed when nothing is called any more
	done           chan struct{} // closed to end what runs beside the loop
	beside         sync.WaitGroup
	unlocated      unlocated

	changing, syncing bool
	logEnded          bool
	waiting, unbanned []chan<- error // for what Save has read to be on the disk; for what is in the book now
	counting          []chan<- error // for the counters to be read
	ready             bool
	saves, failures   uint64
	saveError         error
}

// Open subscribes to the log group and to changes of the table. The error is
// [nflog.ErrBusy] if another watcher runs in this network namespace.
func Open(config Config) (_ *Watcher, err error) {
	w := &Watcher{
		config: config, reports: make(chan func(), backlog), calls: make(chan func()),
		ended: make(chan struct{}), done: make(chan struct{}),
		unlocated: unlocated{wake: make(chan struct{}, 1), done: make(chan struct{})},
	}
	defer func() {
		if err != nil {
			w.Close()
		}
	}()
	for _, c := range []**nftset.Conn{&w.sources, &w.reader, &w.editor} {
		if *c, err = nftset.Dial(&nftset.Config{NetNS: config.NetNS}); err != nil {
			return nil, err
		}
	}
	w.log, err = nflog.Dial(&nflog.Config{Group: config.Spec.LogGroup, NetNS: config.NetNS, ReadBuffer: config.ReadBuffer})
	if err != nil {
		return nil, err
	}
	table := nftset.Table{Family: nftset.FamilyINet, Name: config.Spec.Table}
	w.monitor, err = nftset.Listen(&nftset.MonitorConfig{
		NetNS: config.NetNS, Table: table, Sets: remembering(table.Name), ReadBuffer: config.ReadBuffer,
	})
	if err != nil {
		return nil, err
	}
	sources := &sources{conn: w.sources, table: config.Spec.Table}
	w.beside.Go(func() { w.readLog(sources) })
	w.beside.Go(w.readEvents)
	return w, nil
}

// Close ends the subscriptions. Run must have returned, or never have been
// called.
func (w *Watcher) Close() {
	close(w.done)
	if w.log != nil {
		w.log.Close()
	}
	if w.monitor != nil {
		w.monitor.Close()
	}
	for _, c := range []*nftset.Conn{w.sources, w.reader, w.editor} {
		if c != nil {
			c.Close() // ends a long dump with an error
		}
	}
	w.beside.Wait()
}

// Correct replaces the Spec. It must not be called once Run has been.
func (w *Watcher) Correct(spec ruleset.Spec) { w.config.Spec = spec }

// Run watches until the context ends; the kernel is left as it is. The error is
// nil then, unless the book could not be written. Run can be called once. Only
// Spec and Applied of a Config from reload are used.
func (w *Watcher) Run(ctx context.Context, reload <-chan Config) error {
	defer close(w.ended)
	if err := w.begin(); err != nil {
		return err
	}
	if w.config.Locate != nil {
		go w.locate() // nobody waits for a disk to answer after the end
	}
	for {
		w.dispatch()
		wake := time.NewTimer(w.idle())
		select {
		case <-ctx.Done():
			wake.Stop()
			return w.end()
		case config := <-reload:
			if err := w.reconfigure(config); err != nil {
				w.fault(err)
			}
		case f := <-w.reports:
			f()
			w.callWaiting()
		case f := <-w.calls:
			f()
		case <-wake.C:
		}
		wake.Stop()
	}
}

// dispatch starts what is to be done, beside the loop, and passes on the news.
func (w *Watcher) dispatch() {
	now := book.ReadClock()
	if p := w.core.paused; p != 0 && now.Boot >= p {
		w.resume() // whoever was to swap the table has died
	}
	w.core.tidy(now)
	w.ask(now)
	if todo, ok := w.core.nextChange(now); ok {
		w.changing = true
		w.beside.Go(func() {
			c := makeChange(w.editor, todo)
			w.pass(w.calls, func() { w.onChanged(c) })
		})
	}
	news := w.core.takeNews(now)
	w.sync(now)
	w.publish(news)
	if !w.ready && w.core.settled() {
		w.ready = true
		if w.config.Ready != nil {
			w.config.Ready()
		}
	}
}

// ask starts to read what is to be asked.
func (w *Watcher) ask(now book.Clock) {
	q, ok := w.core.nextQuestion(now)
	if !ok {
		return
	}
	table := w.config.Spec.Table // a reload replaces the Spec meanwhile
	w.beside.Go(func() {
		ask(w.reader, table, q, func(a answer) bool { return w.pass(w.calls, func() { w.onAnswer(a) }) })
	})
}

// idle returns for how long there is nothing to do unless a report comes.
func (w *Watcher) idle() time.Duration {
	now := book.ReadClock()
	return max(0, min(w.core.idle(now), w.untilSync(now)))
}

func (w *Watcher) onAnswer(a answer) {
	w.core.onAnswer(a)
	if a.err != nil && !gone(a.err) {
		w.fault(a.err)
	}
}

func (w *Watcher) onChanged(c changed) {
	w.changing = false
	w.core.onChanged(c, book.ReadClock())
	if c.look != nil && !w.core.toCount {
		w.answerCounting(c.err)
	}
	if c.err != nil && !gone(c.err) {
		w.fault(c.err)
	}
	for _, err := range c.refused {
		if errors.As(err, new(*ruleset.SourceError)) || errors.As(err, new(*ruleset.AllowFullError)) {
			w.fault(fmt.Errorf("not put back: %w", err))
		}
	}
}

// pass has the loop call f. It returns false once that is of no use any more.
func (w *Watcher) pass(to chan<- func(), f func()) bool {
	select {
	case to <- f:
		return true
	case <-w.done:
		return false
	}
}

// callWaiting handles the reports that are waiting, so that they are answered
// together. It ends even if more keep coming.
func (w *Watcher) callWaiting() {
	for range backlog {
		select {
		case f := <-w.reports:
			f()
		default:
			return
		}
	}
}

func (w *Watcher) reconfigure(config Config) error {
	if err := config.Spec.Validate(); err != nil {
		return err
	}
	if have, want := w.config.Spec, config.Spec; want.Table != have.Table || want.LogGroup != have.LogGroup {
		return errors.New("the name of the table and the log group cannot change while it is watched")
	}
	w.config.Spec = config.Spec
	w.core.reconfigure(config.Spec, config.Applied, w.config.MaxRows(), book.ReadClock())
	return nil
}

func (w *Watcher) fault(err error) {
	if err != nil && w.config.Fault != nil {
		w.config.Fault(fmt.Errorf("watch table inet %s: %w", w.config.Spec.Table, err))
	}
}
