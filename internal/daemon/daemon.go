// Package daemon is what `portmon watch` runs: the watcher, and around it the
// journal, notices, metrics, the socket for commands, and the notifications to
// systemd.
//
// A fault in one of these parts is reported and does not delay the others. The
// watcher calls this package from its loop, so nothing that it calls may block.
package daemon

import (
	"context"
	"errors"
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
	"github.com/portmon/portmon/internal/events"
	"github.com/portmon/portmon/internal/fleet"
	"github.com/portmon/portmon/internal/geo"
	"github.com/portmon/portmon/internal/names"
	"github.com/portmon/portmon/internal/nflog"
	"github.com/portmon/portmon/internal/notice"
	"github.com/portmon/portmon/internal/watch"
	"github.com/portmon/portmon/nftset"
	"github.com/portmon/portmon/ruleset"
)

// Config says what to run.
type Config struct {
	// Config is what the configuration file says. Load reads it again; calls do
	// not overlap.
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

	// Notify sends a state to systemd, from any goroutine; nil without systemd.
	// Watchdog is how often systemd must be notified that all is well; 0 is
	// never.
	Notify   func(state string)
	Watchdog time.Duration
}

// daemon is a run of the watcher.
type daemon struct {
	config  Config
	stderr  *queue
	journal *journal
	events  *events.Ring
	watcher *watch.Watcher
	since   time.Time
	places  geo.DB // tells where sources are
	users   users  // tells what they are connected to

	parts   sync.WaitGroup // all that runs beside the watcher
	reload  chan watch.Config
	renamed chan struct{} // the names in the configuration may be others
	isReady chan struct{} // closed when it is

	reloading sync.Mutex // held while the configuration changes
	joining   sync.Mutex // held while the part in a fleet changes

	fleetIn atomic.Uint64 // the handle of the table that has the bans of the fleet

	mu      sync.Mutex // guards what follows
	current *config.Config
	notices *notice.Sender
	named   []names.Status
	metrics *server // nil if there is none
	fleet   *fleet.Client
	// countries counts bans.
	countries map[string]uint64
	// stopMetrics returns when the metrics are not served any more.
	stopNotices, stopMetrics, stopFleet func()
}

// Run runs until the context ends, for which the error is nil. Each signal from
// reload has the configuration read again.
func Run(ctx context.Context, conf Config, reload <-chan os.Signal) (err error) {
	// By default, Go ends a program that writes to a standard error without a
	// reader. If we ignored the signal, notice commands would inherit that.
	pipes := make(chan os.Signal, 1)
	signal.Notify(pipes, unix.SIGPIPE)
	defer signal.Stop(pipes)
	refuseHugePages()
	defer collectAt(collectSooner)()

	d := newDaemon(conf)
	defer d.stderr.close()
	if d.watcher, err = d.openWatcher(ctx); err != nil {
		return err
	}
	defer d.watcher.Close()
	// The parts end after the watcher, so that notices of its last news are
	// sent, and commands are answered until it has ended.
	parts, end := context.WithCancel(context.WithoutCancel(ctx))
	defer d.parts.Wait()
	defer end()
	if err := d.startCommands(parts); err != nil {
		return err
	}
	d.catchUp()
	d.startPlaces(d.current)
	defer d.places.Close()
	d.startNotices(parts, d.current)
	d.startMetrics(parts, d.current)
	d.startFleet(parts, d.current)
	d.parts.Go(func() { d.reloads(parts, reload) })
	d.parts.Go(func() { d.followNames(parts) })
	d.parts.Go(func() { d.followPlaces(parts) })
	d.parts.Go(func() { giveBack(parts) })
	d.parts.Go(func() { d.beat(parts) })
	d.parts.Go(func() { d.notifyStopping(ctx, parts) })
	err = d.watcher.Run(ctx, d.reload)
	d.journal.close()
	end()
	d.parts.Wait() // what they log comes before the last line
	if err == nil {
		d.journal.Info("ended")
	}
	return err
}

// openWatcher waits for `portmon top` to give back the log group, which another
// watcher would keep.
func (d *daemon) openWatcher(ctx context.Context) (w *watch.Watcher, err error) {
	for deadline := time.Now().Add(2 * nflog.Turn); ; sleep(ctx, nflog.Gap/4) {
		w, err = watch.Open(d.watchConfig(d.current))
		if !errors.Is(err, nflog.ErrBusy) || ctx.Err() != nil || time.Now().After(deadline) {
			return w, err
		}
		if d.current.Watch.State == "" {
			continue
		}
		if other, none := control.Dial(control.Path(d.current.Watch.State)); none == nil {
			other.Close()
			return nil, err
		}
	}
}

// catchUp reads the configuration again before the watcher runs: an apply that
// did not find it listening could not have it reload, and it would undo that.
func (d *daemon) catchUp() {
	if !d.reloading.TryLock() {
		return // one that did is waiting for the watcher to run
	}
	defer d.reloading.Unlock()
	conf, err := d.config.Load()
	switch {
	case err != nil: // an apply refuses it as well
	case conf.Watch.State != d.current.Watch.State || conf.Spec.LogGroup != d.current.Spec.LogGroup:
		d.journal.Warn("state or log_group has changed since the watcher read them: restart it")
	default:
		d.mu.Lock()
		d.current = conf
		d.mu.Unlock()
		d.watcher.Correct(conf.Spec)
	}
}

func newDaemon(conf Config) *daemon {
	if conf.Notify == nil {
		conf.Notify = func(string) {}
	}
	d := &daemon{
		config: conf, current: conf.Config, since: time.Now(), events: events.NewRing(keptEvents),
		reload: make(chan watch.Config), renamed: make(chan struct{}, 1), isReady: make(chan struct{}),
		notices: notice.New(new(config.Config), notice.Host{}, nil), stopNotices: func() {}, stopMetrics: func() {}, stopFleet: func() {},
		countries: make(map[string]uint64),
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
		Locate: d.places.Of, Uses: d.users.port, Ready: d.onReady, News: d.onNews, Fault: d.journal.fault,
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
	d.journal.Info("watching", "table", "inet "+d.tableName(), "mode", ruleset.Mode(stats.Observing), "bans", bans, "offenders", stats.Offenders)
}

func (d *daemon) onNews(news []watch.News) {
	now := book.ReadClock()
	d.journal.news(news, now)
	for i := range news {
		d.events.Add(events.New(&news[i], now))
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.share(news, now)
	d.countCountries(news)
	d.notices.Tell(news, d.current.Spec.BanTime, now)
}

// beat has the journal write what it left out, and systemd notified that the
// watcher lives, for as long as its loop answers.
func (d *daemon) beat(ctx context.Context) {
	every := time.Second
	if d.config.Watchdog > 0 {
		every = min(every, d.config.Watchdog/4)
	}
	for sleep(ctx, every); ctx.Err() == nil; sleep(ctx, every) {
		d.journal.flush(book.ReadClock().Boot)
		if d.config.Watchdog > 0 {
			ask, cancel := context.WithTimeout(ctx, d.config.Watchdog)
			if _, err := d.watcher.Origin(ask); err == nil {
				d.config.Notify("WATCHDOG=1")
			}
			cancel()
		}
	}
}

// status returns what commands ask for.
func (d *daemon) status(ctx context.Context) (control.Status, error) {
	w, err := d.watcher.Stats(ctx)
	fleet := d.fleetStatus()
	d.mu.Lock()
	defer d.mu.Unlock()
	s := control.Status{
		PID: os.Getpid(), NetNS: book.Here(0).NetNS, Since: d.since.UTC().Truncate(time.Second), Config: d.current.Source,
		Table: w.Table, TableCurrent: w.TableCurrent, TableWrong: w.Wrong, Mode: ruleset.Mode(w.Observing), Rows: w.Rows, Offenders: w.Offenders,
		Overruns: w.LogOverruns + w.EventOverruns, Resyncs: w.Resyncs, SaveFailures: w.SaveFailures,
		Metrics: d.current.Watch.Metrics, JournalDropped: d.stderr.dropped.Load(), Fleet: fleet,
	}
	for _, n := range d.named {
		name := control.Name{Name: n.Name, Addresses: n.Addrs, Since: n.Since.UTC().Truncate(time.Second), Failures: n.Failures}
		if n.Err != nil {
			name.Error = n.Err.Error()
		}
		s.Names = append(s.Names, name)
	}
	if w.SaveError != nil {
		s.SaveError = w.SaveError.Error()
	}
	if err := d.metrics.failure(); err != nil {
		s.MetricsError = err.Error()
	}
	return s, err
}
