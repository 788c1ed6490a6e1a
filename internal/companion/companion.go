// Package companion is what `portmon watch` runs: the watcher, and all that hangs on it. That is the journal, notices, metrics, the
// socket for commands, and systemd.
package companion

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/portmon/portmon/internal/config"
	"github.com/portmon/portmon/internal/control"
	"github.com/portmon/portmon/internal/journal"
	"github.com/portmon/portmon/internal/ledger"
	"github.com/portmon/portmon/internal/state"
	"github.com/portmon/portmon/internal/watch"
	"github.com/portmon/portmon/nftset"
	"github.com/portmon/portmon/ruleset"
)

// Config says what to run.
type Config struct {
	// Config is what the configuration file says, and Load reads that again.
	Config *config.Config
	Load   func() (*config.Config, error)
	// Log is the journal.
	Log *slog.Logger
	// Version and Host are told to others.
	Version, Host string
	// Dial connects to the kernel.
	Dial func() (*nftset.Conn, error)
	// Notify tells systemd, from any goroutine; nil if nobody listens. Watchdog is how often it wants to be told that all is well; 0 is never.
	Notify   func(state string)
	Watchdog time.Duration
}

// companion is a run of the watcher.
type companion struct {
	config  Config
	journal *journal.Journal
	watcher *watch.Watcher
	// parts are those that run beside the watcher.
	parts   sync.WaitGroup
	reload  chan watch.Config
	isReady chan struct{} // closed when it is
	beaten  ledger.Instant

	reloading sync.Mutex // held while the configuration changes

	mu      sync.Mutex // guards what follows
	current *config.Config
	notices *notices
	metrics *http.Server // nil if there is none
}

// Run runs until the context ends, for which the error is nil. Each value from reload has the configuration read again.
func Run(ctx context.Context, conf Config, reload <-chan struct{}) (err error) {
	if conf.Notify == nil {
		conf.Notify = func(string) {}
	}
	defer frugal()()
	c := &companion{
		config: conf, current: conf.Config, journal: journal.New(conf.Log), reload: make(chan watch.Config), isReady: make(chan struct{}),
	}
	if c.watcher, err = watch.Open(c.watchConfig(conf.Config)); err != nil {
		return err
	}
	defer c.watcher.Close()
	// The parts end after the watcher, so that a notice is sent of what it hears last, and who asks it something is told that it has ended.
	parts, end := context.WithCancel(context.WithoutCancel(ctx))
	defer c.parts.Wait()
	defer end()
	if err := c.startControl(parts); err != nil {
		return err
	}
	c.startNotices(parts, conf.Config)
	c.startMetrics(parts, conf.Config)
	c.parts.Go(func() { c.reloads(parts, reload) })
	c.parts.Go(func() { c.sayStopping(ctx, parts) })
	err = c.watcher.Run(ctx, c.reload)
	c.journal.Close()
	end()
	c.parts.Wait() // what they have to say comes before the last line
	if err == nil {
		conf.Log.Info("ended")
	}
	return err
}

// sayStopping tells that the end has begun, when ctx ends before the parts do.
func (c *companion) sayStopping(ctx, parts context.Context) {
	select {
	case <-ctx.Done():
	case <-parts.Done():
	}
	if ctx.Err() != nil {
		c.config.Notify("STOPPING=1")
	}
}

// watchConfig returns what the watcher needs of a configuration.
func (c *companion) watchConfig(conf *config.Config) watch.Config {
	return watch.Config{
		Spec: conf.Spec, Forget: conf.Spec.Forget, State: conf.Watch.State,
		Ready: c.ready, News: c.news, Fault: c.fault, Freed: giveBack, Beat: c.beat, BeatEvery: c.beatEvery(),
	}
}

// ready is called by the watcher when it misses nothing any more.
func (c *companion) ready() {
	c.config.Notify("READY=1\nSTATUS=watching table inet " + c.tableName())
	close(c.isReady)
	c.parts.Go(c.introduce)
}

// tableName is the same in every configuration.
func (c *companion) tableName() string { return c.config.Config.Spec.Table }

// introduce says what there is at the start.
func (c *companion) introduce() {
	stats, err := c.watcher.Stats(context.Background())
	if err != nil {
		return // it has ended
	}
	if !stats.Table {
		c.config.Log.Warn(fmt.Sprintf("no table inet %s: waiting for `portmon apply`", c.tableName()))
		return
	}
	bans := 0
	for _, n := range stats.Bans {
		bans += n
	}
	c.config.Log.Info("watching", "table", "inet "+c.tableName(), "bans", bans, "offenders", stats.Offenders)
}

// news is called by the watcher with what has happened.
func (c *companion) news(news []watch.News) {
	now := state.Clock()
	c.journal.Tell(news, now)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.notices.tell(news, len(c.current.Spec.BanTime), now)
}

// fault is called by the watcher with what went wrong.
func (c *companion) fault(err error) { c.journal.Fault(err, state.Clock()) }

// beatEvery returns how often the watcher has to show that it lives: twice as often as systemd asks for.
func (c *companion) beatEvery() time.Duration { return c.config.Watchdog / 2 }

// beat is called by the watcher again and again, more often than is needed.
func (c *companion) beat() {
	now := state.Clock()
	c.journal.Flush(now)
	if c.config.Watchdog > 0 && now.Mono.Sub(c.beaten) >= c.beatEvery()/2 {
		c.beaten = now.Mono
		c.config.Notify("WATCHDOG=1")
	}
}

// startControl answers commands. Without it, all else goes on.
func (c *companion) startControl(ctx context.Context) error {
	path := control.Path(c.current.Watch.State)
	l, err := control.Listen(path)
	switch {
	case errors.Is(err, control.ErrBusy):
		return err
	case err != nil:
		c.config.Log.Warn(fmt.Sprintf("commands cannot ask this watcher: %v", err))
		return nil
	}
	server := &control.Server{Watcher: c.watcher, Config: c.source, Reload: func() error { return c.reloadNow(ctx) }}
	c.parts.Go(func() {
		if err := server.Serve(ctx, l); err != nil {
			c.config.Log.Warn(fmt.Sprintf("answer commands: %v", err))
		}
	})
	return nil
}

func (c *companion) source() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.current.Source
}

// table reads the table, for the metrics.
func (c *companion) table() (*ruleset.State, error) {
	conn, err := c.config.Dial()
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	return ruleset.Read(conn, c.tableName())
}
