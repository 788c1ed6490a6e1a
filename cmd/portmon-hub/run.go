package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/nats-io/nats.go"
	"github.com/spf13/cobra"

	"github.com/portmon/portmon/internal/folder"
)

func runCommand(p *cli) *cobra.Command {
	return &cobra.Command{
		Use:   "run",
		Short: "be the hub, until it is stopped",
		Long: `Run is the hub: it takes what hosts have seen, decides, and tells. The unit
portmon-hub.service runs it. It may be killed at any time; what it has stored it
goes on with.`,
		Example: "  portmon-hub run\n  portmon-hub run --nats tls://nats.example.net:4222",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := p.load()
			if err != nil {
				return err
			}
			return p.serve(cmd.Context(), c, func() {
				p.note("ready")
				_, _ = daemon.SdNotify(false, daemon.SdNotifyReady) // no systemd is no fault
			})
		},
	}
}

// serve runs the hub until ctx ends.
func (p *cli) serve(ctx context.Context, c *config, ready func()) (err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer func() {
		if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.Canceled) {
			err = cause // of whatever else has failed
		}
	}()
	d, err := folder.Open(c.dir)
	if err != nil {
		return fmt.Errorf("open %s: %w", c.dir, err)
	}
	defer d.Close()
	lock, err := d.Lock("run.lock", 0)
	if errors.Is(err, folder.ErrLocked) {
		return fmt.Errorf("lock %s: is another hub running?", c.dir)
	} else if err != nil {
		return fmt.Errorf("lock %s: %w", c.dir, err)
	}
	defer lock.Close()

	options := []nats.Option{
		nats.MaxReconnects(-1), nats.ReconnectWait(time.Second), nats.RetryOnFailedConnect(false),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if err != nil && ctx.Err() == nil {
				p.note("the connection to the server is lost: %s", err)
			}
		}),
		nats.ReconnectHandler(func(*nats.Conn) { p.note("connected again") }),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { p.note("nats: %s", err) }),
	}
	var b *broker
	if c.NATS == "" {
		if b, err = startBroker(c, &logger{ui: &p.ui, broken: func(err error) {
			cancel(hint("make room or mend the disk; the hub then goes on with what it has stored, and hosts tell again what it has not",
				"store what hosts tell: %w", err))
		}}); err != nil {
			return err
		}
		defer func() { b.Shutdown(); b.WaitForShutdown() }()
		options = append(options, nats.InProcessServer(b))
	}
	f, err := p.connect(ctx, c, options...)
	if err != nil {
		return err
	}
	defer f.close()
	h := newHub(p, c, f, b)
	if c.Page != "" {
		token, err := folder.ReadSecret(c.dir, tokenFile, maxFile)
		if err != nil {
			return fmt.Errorf("read the token of the page: %w", err)
		}
		l, err := net.Listen("tcp", c.Page)
		if err != nil {
			return fmt.Errorf("serve the page: %w", err)
		}
		server := &http.Server{
			Handler: h.pages(string(token)), ReadTimeout: 10 * time.Second, WriteTimeout: 10 * time.Second, MaxHeaderBytes: 16 << 10,
		}
		defer server.Close()
		go func() {
			if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
				cancel(fmt.Errorf("serve the page: %w", err))
			}
		}()
	}
	if err := h.run(ctx, ready); err != nil && ctx.Err() == nil {
		return err
	}
	return nil
}
