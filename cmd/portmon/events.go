package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/internal/book"
	"github.com/portmon/portmon/internal/control"
	"github.com/portmon/portmon/internal/events"
)

// allEvents is more than a watcher keeps.
const allEvents = 1 << 20

func eventsCommand(p *cli) *cobra.Command {
	var follow bool
	var last int
	formatName := "json"
	var format events.Format
	cmd := &cobra.Command{
		Use:   "events",
		Short: "report events to other programs",
		Long: `Events prints what portmon watch has reported lately, one event on a line: bans,
bans that others lifted, a table that was deleted or repaired, sets without
room. The watcher keeps the last 2048 events in memory.

With --follow it prints, until it is interrupted or the watcher ends, the events
that come; with --last, a number of earlier ones before them. If the reader is
too slow, events are left out, and an event "lost" says how many.

The formats are json, which is portmon's own; ecs, JSON with the field names of
the Elastic Common Schema; and cef, the Common Event Format. Their fields are
explained in docs/events.md.`,
		Example: `  # who was banned for scanning lately?
  portmon events | jq -r 'select(.cause == "scan") | .prefix' || echo "nobody noted it"`,
		Args: func(cmd *cobra.Command, args []string) (err error) {
			host, _ := os.Hostname() // an event can do without
			if format, err = events.NewFormat(formatName, version(), host); err != nil {
				return fmt.Errorf("--format: %w", err)
			}
			if last < 0 {
				return errors.New("--last must not be negative")
			}
			if !follow && !cmd.Flags().Changed("last") {
				last = allEvents
			}
			return noArgs(cmd, args)
		},
		PreRunE: p.findState,
		RunE: func(*cobra.Command, []string) error {
			w, err := p.wantWatcher()
			if err != nil {
				return err
			}
			defer w.Close()
			ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT)
			defer stop()
			return w.Events(ctx, last, follow, func(line []byte) error {
				e, err := events.Decode(line)
				if err != nil {
					return err
				}
				p.print("%s", format(&e))
				if follow {
					return p.flush()
				}
				return nil
			})
		},
	}
	cmd.Flags().BoolVar(&follow, "follow", false, "go on with the events that come")
	cmd.Flags().IntVar(&last, "last", 0, "print the last `N` events (default all, with --follow none)")
	cmd.Flags().StringVar(&formatName, "format", formatName, "`FORMAT`: json, ecs or cef")
	cobra.CheckErr(cmd.RegisterFlagCompletionFunc("format",
		cobra.FixedCompletions([]cobra.Completion{"json", "ecs", "cef"}, cobra.ShellCompDirectiveNoFileComp)))
	return cmd
}

// wantWatcher connects to the watcher of this network namespace, or returns an
// error with the next step.
func (p *cli) wantWatcher() (watcher, error) {
	if p.stateErr != nil {
		return nil, p.stateErr
	}
	w, err := p.env.watcher(control.Path(p.state))
	if err == nil {
		var s control.Status
		if s, err = w.Status(); err == nil && s.NetNS != book.Here(0).NetNS {
			err = fmt.Errorf("%w in this network namespace", control.ErrNone)
		}
		if err != nil {
			w.Close()
		}
	}
	if errors.Is(err, control.ErrNone) {
		return nil, &hinted{err, "start one: `systemctl start portmon-watch`, or `portmon watch`"}
	}
	return w, err
}
