package watch

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/portmon/portmon/internal/book"
	"github.com/portmon/portmon/internal/nflog"
	"github.com/portmon/portmon/nftset"
)

// loop carries reports to the core, and its wishes from it. One goroutine, that
// of run, owns all of it but the connections, which belong to those that read
// and change the kernel.
type loop struct {
	config Config
	core   *core

	log     *nflog.Conn
	monitor *nftset.Monitor
	sources *nftset.Conn // for the reader of the log
	reader  *nftset.Conn // for questions
	editor  *nftset.Conn // for changes

	reports chan report
	answers chan answer
	changes chan changed
	synced  chan synced
	orders  chan func()   // to be called by the loop
	ended   chan struct{} // closed when nobody reads orders any more
	done    chan struct{} // closed when nobody reads reports and answers any more
	readers sync.WaitGroup

	changing, syncing bool
	waiting           []save // those who have asked for it
	ready             bool
	overran           bool // the count of the messages lost in an overrun is still to come
	saves, failures   uint64
	saveError         error
}

// open subscribes to all that there is to hear.
func open(config Config) (_ *loop, err error) {
	l := &loop{
		config: config, reports: make(chan report, backlog), answers: make(chan answer), changes: make(chan changed, 1),
		synced: make(chan synced, 1), orders: make(chan func()), ended: make(chan struct{}), done: make(chan struct{}),
	}
	defer func() {
		if err != nil {
			l.close()
		}
	}()
	for _, c := range []**nftset.Conn{&l.sources, &l.reader, &l.editor} {
		if *c, err = nftset.Dial(&nftset.Config{NetNS: config.NetNS}); err != nil {
			return nil, err
		}
	}
	l.log, err = nflog.Dial(&nflog.Config{Group: config.Spec.LogGroup, NetNS: config.NetNS, ReadBuffer: config.ReadBuffer})
	if err != nil {
		return nil, err
	}
	table := nftset.Table{Family: nftset.FamilyINet, Name: config.Spec.Table}
	l.monitor, err = nftset.Listen(&nftset.MonitorConfig{
		NetNS: config.NetNS, Table: table, Sets: remembering(table), ReadBuffer: config.ReadBuffer,
	})
	if err != nil {
		return nil, err
	}
	sources := &sources{conn: l.sources, table: config.Spec.Table}
	l.readers.Go(func() { readLog(l.log, sources, l.reports, l.done) })
	l.readers.Go(func() { readEvents(l.monitor, l.reports, l.done) })
	return l, nil
}

// close ends the subscriptions, and returns when nobody reads any more.
func (l *loop) close() {
	close(l.done)
	if l.log != nil {
		l.log.Close()
	}
	if l.monitor != nil {
		l.monitor.Close()
	}
	for _, c := range []*nftset.Conn{l.sources, l.reader, l.editor} {
		if c != nil {
			c.Close() // whoever reads a long dump ends with an error
		}
	}
	l.readers.Wait()
}

func (l *loop) run(ctx context.Context, reload <-chan Config) error {
	if err := l.begin(); err != nil {
		return err
	}
	beat := time.NewTicker(cmp.Or(l.config.BeatEvery, 10*time.Second))
	defer beat.Stop()
	for {
		l.tend()
		wake := time.NewTimer(l.idle())
		select {
		case <-ctx.Done():
			wake.Stop()
			return l.end()
		case config := <-reload:
			if err := l.reconfigure(config); err != nil {
				l.fault(err)
			}
		case r := <-l.reports:
			l.take(r)
			l.drain()
		case a := <-l.answers:
			l.onAnswer(a)
		case c := <-l.changes:
			l.onChanged(c)
		case s := <-l.synced:
			l.onSynced(s)
		case f := <-l.orders:
			f()
		case <-beat.C:
		case <-wake.C:
		}
		wake.Stop()
		if l.config.Beat != nil {
			l.config.Beat()
		}
	}
}

// tend has done what is to be done, beside the loop, and passes on the news.
func (l *loop) tend() {
	now := book.ReadClock()
	l.core.tidy(now)
	if q, ok := l.core.nextQuestion(now); ok {
		l.readers.Go(func() {
			ask(l.reader, l.config.Spec.Table, q, func(a answer) bool { return send(l.answers, a, l.done) })
		})
	}
	if todo, ok := l.core.nextChange(now); ok {
		l.changing = true
		l.readers.Go(func() { l.changes <- do(l.editor, todo) })
	}
	l.sync(now)
	if news := l.core.takeNews(); len(news) > 0 && l.config.News != nil {
		l.config.News(news)
	}
	if !l.ready && l.core.settled() {
		l.ready = true
		l.freed()
		if l.config.Ready != nil {
			l.config.Ready()
		}
	}
}

// idle returns how long there will be nothing to do unless something is heard.
func (l *loop) idle() time.Duration {
	now := book.ReadClock()
	return max(0, min(l.core.idle(now), l.untilSync(now)))
}

func (l *loop) onAnswer(a answer) {
	l.core.onAnswer(a)
	if a.err != nil && !gone(a.err) {
		l.fault(a.err)
	}
	if a.last {
		l.freed()
	}
}

func (l *loop) onChanged(c changed) {
	l.changing = false
	l.core.onChanged(c, book.ReadClock())
	if c.err != nil && !gone(c.err) {
		l.fault(c.err)
	}
}

// drain takes in what waits already, so that it is answered together. It ends,
// although more may come all the time.
func (l *loop) drain() {
	for range backlog {
		select {
		case r := <-l.reports:
			l.take(r)
		default:
			return
		}
	}
}

func (l *loop) take(r report) {
	now := book.ReadClock()
	for i := range r.messages {
		l.core.onLogMessage(&r.messages[i].Message, r.messages[i].source, now)
	}
	// After an overrun, the next message tells how many were lost in it. Other
	// gaps are no overrun, and say it all.
	known := r.lost.Messages > 0 && l.overran
	if known || r.lost.Overrun {
		l.overran = r.lost.Overrun
	}
	if l.core.onLost(r.lost, now); r.lost.Messages > 0 && !known {
		l.core.resync(now)
	}
	for _, ev := range r.events {
		l.core.onEvent(ev, now)
	}
	if r.err != nil {
		l.fault(r.err)
	}
}

func (l *loop) reconfigure(config Config) error {
	if err := config.Spec.Validate(); err != nil {
		return err
	}
	if have, want := l.config.Spec, config.Spec; want.Table != have.Table || want.LogGroup != have.LogGroup {
		return errors.New("the name of the table and the log group cannot change while it is watched")
	}
	l.config.Spec = config.Spec
	l.core.reconfigure(config.Spec, l.config.maxRows(), book.ReadClock())
	return nil
}

func (l *loop) freed() {
	if l.config.Freed != nil {
		l.config.Freed()
	}
}

func (l *loop) fault(err error) {
	if l.config.Fault != nil {
		l.config.Fault(fmt.Errorf("watch table inet %s: %w", l.config.Spec.Table, err))
	}
}
