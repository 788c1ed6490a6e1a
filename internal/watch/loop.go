package watch

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/portmon/portmon/internal/nflog"
	"github.com/portmon/portmon/internal/state"
	"github.com/portmon/portmon/nftset"
)

// loop carries reports to the core, and edits from it. One goroutine, that of run, owns all of it; others only read sockets.
type loop struct {
	config  Config
	core    *core
	sets    []nftset.Set
	edit    *nftset.Conn
	log     *nflog.Conn
	monitor *nftset.Monitor

	reports chan report
	asks    chan func()   // to be called by the loop
	ended   chan struct{} // closed when nobody reads asks any more
	done    chan struct{} // closed when nobody reads reports any more
	readers sync.WaitGroup

	// due is when the sets are to be read again; zero if they are not.
	due time.Time
	// confirm tells that they are to be read once more after that, because the first reading was of sets that grew.
	confirm bool
	// saved gets the outcome of a saving that is under way; nil if there is none.
	saved chan error
	// again tells that it is to be followed by another one.
	again bool
	// overran tells that the count of the messages lost in an overrun is still to come.
	overran bool
	// saves and failures count what became of savings of the state.
	saves, failures uint64
}

const (
	// patience is how long others have for making the table again that they deleted.
	patience = time.Second
	// pause lies between two readings of the sets.
	pause = time.Second
	// housekeeping is how often what has expired is forgotten.
	housekeeping = time.Minute
)

// open subscribes to all that there is to hear.
func open(config Config) (*loop, error) {
	l, err := deaf(config)
	if err != nil {
		return nil, err
	}
	l.log, err = nflog.Dial(&nflog.Config{Group: config.Spec.LogGroup, NetNS: config.NetNS, ReadBuffer: config.ReadBuffer})
	if err != nil {
		l.close()
		return nil, err
	}
	l.monitor, err = nftset.Listen(&nftset.MonitorConfig{
		NetNS: config.NetNS, Table: l.table(), Sets: l.sets, ReadBuffer: config.ReadBuffer,
	})
	if err != nil {
		l.close()
		return nil, err
	}
	l.readers.Go(func() { readLog(l.log, l.reports, l.done) })
	l.readers.Go(func() { readEvents(l.monitor, l.reports, l.done) })
	return l, nil
}

// deaf returns a loop that hears nothing.
func deaf(config Config) (*loop, error) {
	edit, err := nftset.Dial(&nftset.Config{NetNS: config.NetNS})
	if err != nil {
		return nil, err
	}
	l := &loop{
		config: config, edit: edit, core: newCore(config.Spec, config.Forget, edit.PortID()),
		reports: make(chan report, backlog), asks: make(chan func()), ended: make(chan struct{}), done: make(chan struct{}),
	}
	l.sets = banSets(l.table())
	return l, nil
}

func (l *loop) table() nftset.Table {
	return nftset.Table{Family: nftset.FamilyINet, Name: l.config.Spec.Table}
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
	l.readers.Wait()
	l.edit.Close()
}

func (l *loop) run(ctx context.Context, reload <-chan Config) error {
	if err := l.begin(); err != nil {
		return err
	}
	if l.config.Ready != nil {
		l.config.Ready()
	}
	sweep := time.NewTicker(housekeeping)
	defer sweep.Stop()
	save := time.NewTicker(cmp.Or(l.config.SaveEvery, time.Minute))
	defer save.Stop()
	beat := time.NewTicker(cmp.Or(l.config.BeatEvery, 10*time.Second))
	defer beat.Stop()
	for {
		if l.config.Beat != nil {
			l.config.Beat()
		}
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
		case <-sweep.C:
			l.forget()
		case <-save.C:
			l.saveSoon()
		case err := <-l.saved:
			l.noteSaved(err)
		case f := <-l.asks:
			f()
		case <-beat.C:
		case <-wake.C:
		}
		wake.Stop()
		l.tend()
		l.finish()
	}
}

// begin learns all that is known, and acts upon it.
func (l *loop) begin() error {
	if _, err := l.recall(); err != nil {
		return err
	}
	if err := l.resync(); err != nil {
		return err
	}
	l.finish()
	if err := l.save(); err != nil {
		l.fault(err)
	}
	l.freed()
	return nil
}

// end takes in what was heard until now, and saves the state.
func (l *loop) end() error {
	if err := l.catchUp(); err != nil {
		l.fault(err)
	}
	l.settle()
	return l.save()
}

// catchUp takes in all that has happened until now. The kernel holds messages back for a moment, to send several at once; what has not
// come by then is in the sets.
func (l *loop) catchUp() error {
	const moment = 20 * time.Millisecond
	for wait := time.After(moment); wait != nil; {
		select {
		case r := <-l.reports:
			l.take(r)
		case <-wait:
			wait = nil
		}
	}
	l.drain()
	l.tend()
	var err error
	if l.core.table.state == standing {
		err = l.resync()
	}
	l.finish()
	return err
}

// drain takes in what waits already, so that it is answered together. It ends, although more may come all the time.
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
	now := state.Clock()
	stats := &l.core.stats
	for i := range r.messages {
		l.core.heard(&r.messages[i], now)
	}
	stats.LostMessages += uint64(max(r.lost.Messages, 0))
	// After an overrun, the next message tells how many were lost in it. Other gaps are no overrun, and say it all.
	switch {
	case r.lost.Overrun:
		l.overran = true
		stats.LogOverruns++
		l.resyncSoon()
	case r.lost.Messages > 0 && l.overran:
		l.overran = false
	case r.lost.Messages > 0:
		l.resyncSoon()
	}
	for _, ev := range r.events {
		l.core.happened(ev, now)
		if ev.Kind == nftset.Overrun {
			stats.EventOverruns++
			l.resyncSoon()
		}
	}
	if r.err != nil {
		l.fault(r.err)
	}
}

// resyncSoon has the sets read as soon as that is due, and again: what is read while it grows may not be all.
func (l *loop) resyncSoon() {
	if l.due.IsZero() {
		l.due = time.Now()
	}
	l.confirm = true
}

// idle returns how long there will be nothing to do unless a report comes.
func (l *loop) idle() time.Duration {
	d := housekeeping
	if !l.due.IsZero() {
		d = min(d, time.Until(l.due))
	}
	if t := &l.core.table; t.state == away {
		d = min(d, t.since.Add(patience).Sub(state.Clock().Mono))
	}
	return max(d, 0)
}

// tend does what is due.
func (l *loop) tend() {
	if !l.due.IsZero() && !time.Now().Before(l.due) {
		l.due = time.Time{}
		if l.confirm {
			l.due, l.confirm = time.Now().Add(pause), false
		}
		if err := l.resync(); err != nil {
			l.fault(err)
			l.due = time.Now().Add(pause)
		}
		l.freed()
	}
	if t := &l.core.table; t.state == away && state.Clock().Mono >= t.since.Add(patience) {
		t.since = state.Clock().Mono
		if err := l.reapply(); err != nil {
			l.fault(err)
		}
	}
	if err := l.reread(); err != nil {
		l.fault(err)
	}
}

// finish commits the edits and passes on the news.
func (l *loop) finish() {
	l.core.checkFull(state.Clock().Mono)
	fresh := l.core.fresh
	edits, news := l.core.take()
	l.commit(edits, fresh)
	l.tell(news)
}

// tell passes on news.
func (l *loop) tell(news []News) {
	for i := range news {
		l.core.stats.count(&news[i])
		if news[i].Kind == Removed {
			l.saveSoon() // or `portmon apply` would put back from the file what was removed on purpose
		}
	}
	if len(news) > 0 && l.config.News != nil {
		l.config.News(news)
	}
}

func (l *loop) forget() {
	now := state.Clock().Mono
	l.core.mir.sweep(now)
	l.core.led.Forget(now)
}

func (l *loop) reconfigure(config Config) error {
	if err := config.Spec.Validate(); err != nil {
		return err
	}
	if have, want := l.config.Spec, config.Spec; want.Table != have.Table || want.LogGroup != have.LogGroup {
		return errors.New("the name of the table and the log group cannot change while it is watched")
	}
	l.config.Spec, l.config.Forget = config.Spec, config.Forget
	l.core.reconfigure(config.Spec, config.Forget)
	l.core.inherit(state.Clock())
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
