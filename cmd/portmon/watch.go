package main

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"runtime/debug"
	"time"

	sd "github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/internal/config"
	"github.com/portmon/portmon/internal/daemon"
	"github.com/portmon/portmon/internal/lastgood"
)

func watchCommand(p *cli) *cobra.Command {
	return &cobra.Command{
		Use:   "watch",
		Short: "remember bans, repair the table, send notices",
		Long: `Watch runs until it is stopped. It keeps bans and offences in a file, so that
they outlast a flush of nftables and a reboot. It restores the table if somebody
deletes or damages it, and takes bans that other programs make up the ladder. It
sends notices and serves metrics, if the configuration says so.

The kernel bans without it, repeat offenders for longer too. When it ends, all
bans stay.

SIGHUP makes it read the configuration again; a wrong one is refused. If it is
wrong at the start, the last good one counts. SIGTERM makes it save and end.`,
		Example: `  # try it for ten seconds
  timeout --preserve-status 10 portmon watch`,
		Args: noArgs,
		RunE: func(*cobra.Command, []string) error {
			conf, _, _ := p.loadAtBoot(false) // what is wrong is reported
			return p.watch(conf)
		},
	}
}

func (p *cli) watch(conf *config.Config) error {
	// A crash, and what a watchdog sends, end a Go program with code 2, which
	// is that of a wrong configuration: no service manager would start it
	// again. With this they end it with the trace, and by a signal.
	debug.SetTraceback("crash")
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT)
	defer stop()
	// A second later, the next signal kills. Not at once: timeout(1) sends each
	// signal twice.
	context.AfterFunc(ctx, func() { time.AfterFunc(time.Second, stop) })
	reload := make(chan os.Signal, 1)
	signal.Notify(reload, unix.SIGHUP)
	defer signal.Stop(reload)
	awaitTrial(conf.Watch.State, reload)
	host, _ := os.Hostname() // a notice can do without
	c := daemon.Config{
		Config: conf, Load: func() (*config.Config, error) { return p.reloadConfig(reload) },
		// systemd notes by itself when a line came.
		Stderr: daemon.Journald(p.stderr, p.getenv("JOURNAL_STREAM"), daemon.JournalSocket), Times: p.getenv("JOURNAL_STREAM") == "",
		Version: version(), Host: host, Dial: p.dial,
	}
	if p.getenv("NOTIFY_SOCKET") != "" {
		c.Notify = func(state string) { sd.SdNotify(false, state) } // who does not listen has to do without
		c.Watchdog = watchdog()
	}
	if conf.Watch.State != "" {
		return daemon.Run(ctx, c, reload)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go p.awaitState(ctx, cancel)
	err := daemon.Run(ctx, c, reload)
	if err == nil && context.Cause(ctx) == errCorrected {
		return errCorrected
	}
	return err
}

// errCorrected is how a watcher ends that did not know its state.
var errCorrected error = &hinted{
	errors.New("the configuration tells again where its state is: what was in its place ends"),
	"a service manager starts the watcher anew; or run `portmon watch`",
}

// awaitState has a watcher end that does not know where its state is, as soon as
// the configuration tells. No command can reach it, so that it would undo what
// apply does then.
func (p *cli) awaitState(ctx context.Context, end context.CancelCauseFunc) {
	tick := time.NewTicker(200 * time.Millisecond) // less than what it waits before it repairs
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			if _, _, _, err := config.Glance(p.configFile); err == nil {
				end(errCorrected)
			}
		case <-ctx.Done():
			return
		}
	}
}

// reloadConfig reads the configuration again, for as long as the program runs.
// What is doubtful about it is for the journal to say.
func (p *cli) reloadConfig(reload chan<- os.Signal) (*config.Config, error) {
	conf, err := config.Load(p.configFile)
	if err != nil {
		return nil, err
	}
	if failedTrial(conf, &conf.Spec, false) != nil {
		conf = p.standIn()
	}
	awaitTrial(conf.Watch.State, reload)
	_, err = p.hostFacts(&conf.Spec)
	return conf, err
}

// awaitTrial has the configuration read again after a trial that nobody has
// ended, because who was to do it was killed: then the last good one counts.
func awaitTrial(state string, reload chan<- os.Signal) {
	t, err := lastgood.ReadTrial(state)
	if err != nil {
		return
	}
	left, on := t.Left()
	if !on {
		return
	}
	time.AfterFunc(left+lastgood.Grace+time.Second, func() {
		if now, err := lastgood.ReadTrial(state); err == nil && now != nil && now.ID == t.ID && now.Failed.IsZero() {
			select {
			case reload <- unix.SIGHUP:
			default:
			}
		}
	})
}

// watchdog returns how often systemd wants to hear from the process; 0 is
// never.
func watchdog() time.Duration {
	d, err := sd.SdWatchdogEnabled(false)
	if err != nil {
		return 0
	}
	return d
}
