// Package daemon is what `portmon watch` runs: the watcher, and all that hangs
// on it. That is the journal, notices, metrics, the socket for commands, and
// systemd.
//
// Whatever goes wrong with one of these parts is reported, and nothing else
// waits for it: the watcher calls us from its loop, and so nothing that it
// calls may block.
package daemon

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/internal/book"
	"github.com/portmon/portmon/internal/config"
	"github.com/portmon/portmon/internal/control"
	"github.com/portmon/portmon/internal/watch"
	"github.com/portmon/portmon/nftset"
)

// Config says what to run.
type Config struct {
	// Config is what the configuration file says, and Load reads that again. It
	// is called one at a time.
	Config *config.Config
	Load   func() (*config.Config, error)

	// Stderr is where the journal goes. With Times, its lines have the time;
	// systemd adds that itself.
	Stderr io.Writer
	Times  bool

	// Version and Host are shown in metrics and notices.
	Version, Host string

	// Dial connects to the kernel.
	Dial func() (*nftset.Conn, error)

	// Notify sends a state to systemd, from any goroutine; nil if it does not
	// run. Watchdog is how often it wants to hear that all is well; 0 is never.
	Notify   func(state string)
	Watchdog time.Duration
}

// daemon is a run of the watcher.
type daemon struct {
	config  Config
	stderr  *queue
	journal *journal
	watcher *watch.Watcher
	since   time.Time

	parts   sync.WaitGroup // all that runs beside the watcher
	reload  chan watch.Config
	isReady chan struct{} // closed when it is
	beaten  book.Moment   // when systemd was last notified; the loop's
	beating atomic.Bool   // a notification is being sent

	reloading sync.Mutex // held while the configuration changes

	mu      sync.Mutex // guards what follows
	current *config.Config
	notices *notices
	metrics *server // nil if there is none
	// stopMetrics returns when they are not served any more.
	stopMetrics func()
}

// Run runs until the context ends, for which the error is nil. Each value from
// reload has the configuration read again.
func Run(ctx context.Context, conf Config, reload <-chan struct{}) (err error) {
	// By default, Go ends a program that writes to a standard error which
	// nobody reads any more. To ignore the signal would be inherited by notice
	// commands.
	pipes := make(chan os.Signal, 1)
	signal.Notify(pipes, unix.SIGPIPE)
	defer signal.Stop(pipes)
	defer collectSooner()()

	d := newDaemon(conf)
	defer d.stderr.close()
	if d.watcher, err = watch.Open(d.watchConfig(conf.Config)); err != nil {
		return err
	}
	defer d.watcher.Close()
	// The parts end after the watcher, so that a notice of what it hears last
	// is sent, and questions are answered until it has ended.
	parts, end := context.WithCancel(context.WithoutCancel(ctx))
	defer d.parts.Wait()
	defer end()
	if err := d.startCommands(parts); err != nil {
		return err
	}
	d.startNotices(parts, conf.Config)
	d.startMetrics(parts, conf.Config)
	d.parts.Go(func() { d.reloads(parts, reload) })
	d.parts.Go(func() { giveBack(parts) })
	d.parts.Go(func() { d.notifyStopping(ctx, parts) })
	err = d.watcher.Run(ctx, d.reload)
	d.journal.close()
	end()
	d.parts.Wait() // what they have to say comes before the last line
	if err == nil {
		d.journal.Info("ended")
	}
	return err
}

func newDaemon(conf Config) *daemon {
	if conf.Notify == nil {
		conf.Notify = func(string) {}
	}
	d := &daemon{
		config: conf, current: conf.Config, since: time.Now(),
		reload: make(chan watch.Config), isReady: make(chan struct{}),
	}
	d.stderr = newQueue(conf.Stderr, conf.Times)
	d.journal = newJournal(newLogger(d.stderr, conf.Times))
	return d
}

// notifyStopping sends STOPPING=1 to systemd if ctx ends before the parts do.
func (d *daemon) notifyStopping(ctx, parts context.Context) {
	select {
	case <-ctx.Done():
	case <-parts.Done():
	}
	if ctx.Err() != nil {
		d.config.Notify("STOPPING=1")
	}
}

// watchConfig returns what the watcher needs of a configuration.
func (d *daemon) watchConfig(conf *config.Config) watch.Config {
	return watch.Config{
		Spec: conf.Spec, State: conf.Watch.State,
		Ready: d.onReady, News: d.onNews, Fault: d.journal.fault, Beat: d.onBeat, BeatEvery: d.beatEvery(),
	}
}

// tableName is the same in every configuration.
func (d *daemon) tableName() string { return d.config.Config.Spec.Table }

func (d *daemon) onReady() {
	d.config.Notify("READY=1\nSTATUS=watching table inet " + d.tableName())
	close(d.isReady)
	d.parts.Go(d.logStart)
}

// logStart logs what there is at the start.
func (d *daemon) logStart() {
	stats, err := d.watcher.Stats(context.Background())
	if err != nil {
		return // it has ended
	}
	if !stats.Table {
		d.journal.Warn(fmt.Sprintf("no table inet %s: waiting for `portmon apply`", d.tableName()))
		return
	}
	bans := 0
	for _, n := range stats.Bans {
		bans += n
	}
	d.journal.Info("watching", "table", "inet "+d.tableName(), "bans", bans, "offenders", stats.Offenders)
}

func (d *daemon) onNews(news []watch.News) {
	now := book.ReadClock()
	d.journal.news(news, now)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.notices.Tell(news, len(d.current.Spec.BanTime), now)
}

// beatEvery returns how often the watcher has to show that it lives: twice as
// often as systemd asks for.
func (d *daemon) beatEvery() time.Duration { return d.config.Watchdog / 2 }

// onBeat is called by the watcher more often than is needed.
func (d *daemon) onBeat() {
	now := book.ReadClock().Boot
	d.journal.flush(now)
	if d.config.Watchdog > 0 && now.Sub(d.beaten) >= d.beatEvery()/2 && d.beating.CompareAndSwap(false, true) {
		d.beaten = now
		go func() { // systemd may not take it for a while
			d.config.Notify("WATCHDOG=1")
			d.beating.Store(false)
		}()
	}
}

// status returns what commands ask for.
func (d *daemon) status(ctx context.Context) (control.Status, error) {
	w, err := d.watcher.Stats(ctx)
	d.mu.Lock()
	defer d.mu.Unlock()
	s := control.Status{
		PID: os.Getpid(), NetNS: book.Here(0).NetNS, Since: d.since, Config: d.current.Source,
		Table: w.Table, TableCurrent: w.TableCurrent, TableWrong: w.Wrong, Rows: w.Rows, Offenders: w.Offenders,
		Overruns: w.LogOverruns + w.EventOverruns, Resyncs: w.Resyncs, SaveFailures: w.SaveFailures,
		Metrics: d.current.Watch.Metrics, JournalDropped: d.stderr.dropped.Load(),
	}
	if w.SaveError != nil {
		s.SaveError = w.SaveError.Error()
	}
	if err := d.metrics.failure(); err != nil {
		s.MetricsError = err.Error()
	}
	return s, err
}
