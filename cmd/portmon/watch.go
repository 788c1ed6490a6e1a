package main

import (
	"context"
	"os"
	"os/signal"
	"runtime/debug"
	"time"

	systemd "github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/internal/config"
	"github.com/portmon/portmon/internal/daemon"
)

func watchCommand(p *cli) *cobra.Command {
	return &cobra.Command{
		Use:   "watch",
		Short: "remember bans, repair the table, send notices",
		Long: `Watch runs until it is told to end. It hears of bans from the kernel, and keeps
them and what is remembered of offenders in a file, so that they outlast a
reload of nftables and a reboot. It takes bans that other programs make up the
ladder, puts back what they flush, and puts the table right if it is not what
the configuration says. It sends notices and serves metrics, if the
configuration says so.

The kernel bans without it. When it ends, all bans stay.

SIGHUP makes it read the configuration again; a wrong one is refused. SIGTERM
makes it save and end.`,
		Example: `  # for three seconds, to see what it does
  timeout --preserve-status 3 portmon watch`,
		ValidArgsFunction: cobra.NoFileCompletions,
		Args:              noArgs,
		RunE: func(*cobra.Command, []string) error {
			conf, _, err := p.loadConfig()
			if err != nil {
				return err
			}
			return p.watch(conf)
		},
	}
}

func (p *cli) watch(conf *config.Config) error {
	// A crash, and what a watchdog sends, end a Go program with code 2, which is
	// that of a wrong configuration: no service manager would start it again. With
	// this they end it with the trace, and by a signal.
	debug.SetTraceback("crash")
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT)
	defer stop()
	// A second later, the next signal kills. Not at once: timeout(1) sends each signal twice.
	context.AfterFunc(ctx, func() { time.AfterFunc(time.Second, stop) })
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, unix.SIGHUP)
	defer signal.Stop(hangups)
	reload := make(chan struct{})
	go func() {
		for range hangups {
			select {
			case reload <- struct{}{}:
			case <-ctx.Done():
				return
			}
		}
	}()
	host, _ := os.Hostname() // a notice can do without
	c := daemon.Config{
		Config: conf, Load: p.reloadConfig, Stderr: p.stderr, Times: p.getenv("JOURNAL_STREAM") == "",
		Version: version(), Host: host, Dial: p.dial,
	}
	if p.getenv("NOTIFY_SOCKET") != "" {
		c.Notify = func(state string) { systemd.SdNotify(false, state) } // who does not listen has to do without
		c.Watchdog = watchdog()
	}
	return daemon.Run(ctx, c, reload)
}

// reloadConfig reads the configuration again, and prints nothing: standard error
// may stall, and the watcher must not.
func (p *cli) reloadConfig() (*config.Config, error) {
	conf, err := config.Load(p.configFile)
	if err != nil {
		return nil, err
	}
	if _, err := p.hostFacts(&conf.Spec); err != nil {
		conf.Warnings = append(conf.Warnings, config.Warning{Place: config.Place{File: conf.Source}, Text: err.Error()})
	}
	return conf, nil
}

// watchdog returns how often systemd wants to hear from the process; 0 is never.
func watchdog() time.Duration {
	d, err := systemd.SdWatchdogEnabled(false)
	if err != nil {
		return 0
	}
	return d
}
