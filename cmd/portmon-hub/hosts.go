package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"
	"github.com/spf13/cobra"

	"github.com/portmon/portmon/internal/fleet/wire"
	"github.com/portmon/portmon/internal/text"
)

func sortedNames(hosts map[string]record) []string { return slices.Sorted(maps.Keys(hosts)) }

// withFleet calls f with the streams and the hosts that are in them.
func (p *cli) withFleet(ctx context.Context, f func(c *config, f *fleet, hosts map[string]record) error) error {
	c, err := p.load()
	if err != nil {
		return err
	}
	fleet, err := p.connect(ctx, c)
	if err != nil {
		return err
	}
	defer fleet.close()
	hosts, err := fleet.hosts(ctx)
	if err != nil {
		return err
	}
	return f(c, fleet, hosts)
}

// hostName checks the one argument of a command.
func hostName(cmd *cobra.Command, args []string) error {
	if len(args) != 1 {
		return errors.New("want the name of one host")
	}
	if err := wire.CheckHost(args[0]); err != nil {
		return fmt.Errorf("%q: %w", args[0], err)
	}
	return nil
}

func inviteCommand(p *cli) *cobra.Command {
	lifetime := "24h"
	cmd := &cobra.Command{
		Use:   "invite NAME",
		Short: "print a token with which a host joins",
		Long: `Invite prints a token for one host, which is a secret until the host has joined
with it: portmon fleet join TOKEN. After that it is good for nothing.`,
		Example: "  portmon-hub invite web-1",
		Args:    hostName,
		RunE: func(cmd *cobra.Command, args []string) error {
			d, err := text.ParseDuration(lifetime, time.Minute, 30*24*time.Hour)
			if err != nil {
				return &usageError{fmt.Errorf("--for %q: %w", lifetime, err), cmd.CommandPath()}
			}
			return p.withFleet(cmd.Context(), func(c *config, f *fleet, hosts map[string]record) error {
				token, err := f.invite(cmd.Context(), c, hosts[args[0]], args[0], d)
				if err != nil {
					return fmt.Errorf("invite %s: %w", args[0], err)
				}
				p.print("%s\n", token)
				p.note("on %s, within %s: portmon fleet join TOKEN", args[0], text.Duration(d))
				if c.NATS != "" {
					p.note("before that, have the NATS server know it: portmon-hub users")
				}
				return nil
			})
		},
	}
	cmd.Flags().StringVar(&lifetime, "for", lifetime, "`TIME` in which the host has to join")
	return cmd
}

// invite stores an invitation of a host, of which r is known.
func (f *fleet) invite(ctx context.Context, c *config, r record, name string, d time.Duration) (*wire.Token, error) {
	if r.Standing == wire.Member || r.Standing == wire.Quarantined {
		return nil, hint("portmon-hub revoke "+name, "it has joined already")
	}
	key, err := nkeys.CreateUser()
	if err != nil {
		return nil, err
	}
	public, err := key.PublicKey()
	if err != nil {
		return nil, err
	}
	seed, err := key.Seed()
	if err != nil {
		return nil, err
	}
	now := f.now().UTC()
	r.Host = wire.Host{Key: public, Standing: wire.Invited, Since: now, Expires: now.Add(d)}
	if r, err = f.setHost(ctx, name, r); err != nil {
		return nil, err
	}
	if err := f.settle(name, r); err != nil {
		return nil, err
	}
	return &wire.Token{URLs: c.URLs, Host: name, Seed: string(seed), Pin: c.Pin}, nil
}

func hostsCommand(p *cli) *cobra.Command {
	return &cobra.Command{
		Use:   "hosts",
		Short: "list the hosts of the fleet",
		Long: `Hosts lists the hosts of the fleet: the standing of each and since when it has
that, when the running hub heard it last, and why one is in quarantine.`,
		Example: "  portmon-hub hosts",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return p.withFleet(cmd.Context(), func(_ *config, f *fleet, hosts map[string]record) error {
				running, err := f.seen()
				if err != nil {
					p.note("%s", err) // the rest is in the stream
				}
				rows := [][]string{{"HOST", "STANDING", "SINCE", "HEARD", "REASON"}}
				for _, name := range sortedNames(hosts) {
					h, last := hosts[name], "-"
					standing := string(h.Standing)
					if h.Standing == wire.Invited && f.now().After(h.Expires) {
						standing = "invitation expired"
					}
					if at := running[name].Heard; at > 0 {
						last = text.ShortDuration(max(0, f.now().Sub(time.Unix(at, 0)))) + " ago"
					}
					rows = append(rows, []string{name, standing, h.Since.Local().Format(time.DateTime), last, text.Printable(h.Reason)})
				}
				p.table(rows)
				return nil
			})
		},
	}
}

// askSubject is where the running hub says what it knows of hosts.
const askSubject = "portmon.hub.hosts"

// seen is that, of one host.
type seen struct {
	Revision uint64 `json:"revision"` // of its record
	Heard    int64  `json:"heard"`    // Unix time; 0 if not since the hub started
}

// seen asks the running hub what it knows.
func (f *fleet) seen() (hosts map[string]seen, err error) {
	m, err := f.nc.Request(askSubject, nil, 2*time.Second)
	if err == nil {
		err = json.Unmarshal(m.Data, &hosts)
	}
	if err != nil {
		return nil, fmt.Errorf("ask the running hub: %w", err)
	}
	return hosts, nil
}

// settle waits until the running hub has taken note of a change.
func (f *fleet) settle(name string, r record) error {
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		hosts, err := f.seen()
		switch {
		case err == nil && hosts[name].Revision >= r.revision:
			return nil
		case time.Now().After(deadline):
			return hint("it counts when the hub runs: systemctl status portmon-hub", "%s: stored, but the hub does not act on it: %w", name,
				cmp.Or(err, errors.New("it is busy")))
		}
	}
}

func (h *hub) answerAsk(m *nats.Msg) {
	hosts := make(map[string]seen)
	h.mu.Lock()
	for name, k := range h.hosts {
		s := seen{Revision: k.revision}
		if !k.heard.IsZero() {
			s.Heard = k.heard.Unix()
		}
		hosts[name] = s
	}
	h.mu.Unlock()
	if data, err := json.Marshal(hosts); err == nil {
		_ = m.Respond(data) // who asked may be gone
	}
}

func releaseCommand(p *cli) *cobra.Command {
	return &cobra.Command{
		Use:   "release NAME",
		Short: "end the quarantine of a host",
		Long: `Release makes a quarantined host a member again. What it says from then on
counts; what it said before stays withdrawn.`,
		Example: "  portmon-hub release web-1",
		Args:    hostName,
		RunE: func(cmd *cobra.Command, args []string) error {
			return p.change(cmd.Context(), args[0], (*fleet).release)
		},
	}
}

func revokeCommand(p *cli) *cobra.Command {
	return &cobra.Command{
		Use:   "revoke NAME",
		Short: "expel a host, and withdraw what only it said",
		Long: `Revoke expels a host: its key opens nothing any more, and bans that rest on what
it said are withdrawn within a second.`,
		Example: "  portmon-hub revoke web-1",
		Args:    hostName,
		RunE: func(cmd *cobra.Command, args []string) error {
			return p.change(cmd.Context(), args[0], (*fleet).revoke)
		},
	}
}

// change changes the standing of a host. The running hub does the rest.
func (p *cli) change(ctx context.Context, name string, change func(*fleet, context.Context, string, record) error) error {
	return p.withFleet(ctx, func(c *config, f *fleet, hosts map[string]record) error {
		if err := change(f, ctx, name, hosts[name]); err != nil {
			return err
		}
		if c.NATS != "" {
			p.note("have the NATS server know it: portmon-hub users")
		}
		return nil
	})
}

func (f *fleet) release(ctx context.Context, name string, r record) error {
	if r.Standing != wire.Quarantined {
		return fmt.Errorf("release %s: it is not quarantined", name)
	}
	now := f.now().UTC()
	r.Standing, r.Since, r.From, r.Reason = wire.Member, now, now, ""
	r, err := f.setHost(ctx, name, r)
	if err != nil {
		return err
	}
	return f.settle(name, r)
}

func (f *fleet) revoke(ctx context.Context, name string, r record) error {
	if r.Standing == "" {
		return hint("portmon-hub hosts", "revoke %s: there is no such host", strconv.Quote(name))
	}
	r.Standing, r.Since, r.Reason = wire.Revoked, f.now().UTC(), "by hand"
	r, err := f.setHost(ctx, name, r)
	if err != nil {
		return err
	}
	return f.settle(name, r)
}
