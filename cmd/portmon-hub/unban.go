package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/spf13/cobra"

	"github.com/portmon/portmon/internal/fleet/wire"
	"github.com/portmon/portmon/internal/text"
)

func unbanCommand(p *cli) *cobra.Command {
	return &cobra.Command{
		Use:   "unban ADDRESS...",
		Short: "lift bans of the fleet",
		Long: `Unban lifts the bans that the fleet has of addresses, on all hosts; an IPv6
address stands for its /64. What hosts have seen of them until now does not count
any more, what they see from now on does. To have an address never banned, name
it in never in hub.toml.`,
		Example: "  portmon-hub unban 203.0.113.7",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var sources []netip.Prefix
			for _, arg := range args {
				a, err := netip.ParseAddr(arg)
				if err != nil {
					return &usageError{fmt.Errorf("%q is not an IP address", text.Printable(arg)), cmd.CommandPath()}
				}
				sources = append(sources, wire.SourceOf(a))
			}
			return p.withFleet(cmd.Context(), func(_ *config, f *fleet, _ map[string]record) error {
				var errs []error
				for i, source := range sources {
					switch lifted, err := f.unban(cmd.Context(), source); {
					case err != nil:
						errs = append(errs, fmt.Errorf("unban %s: %w", args[i], err))
					case lifted:
						p.print("unbanned %s\n", text.Prefix(source))
					default:
						p.note("%s is not banned by the fleet", text.Prefix(source))
					}
				}
				return errors.Join(errs...)
			})
		},
	}
}

// unban stores that the ban of a source is lifted, if it is in force. The running
// hub reads that as hosts do.
func (f *fleet) unban(ctx context.Context, source netip.Prefix) (lifted bool, err error) {
	stream, err := f.js.Stream(ctx, wire.Bans)
	if err != nil {
		return false, err
	}
	m, err := stream.GetLastMsgForSubject(ctx, wire.BanPrefix+wire.Key(source))
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return false, nil
	} else if err != nil {
		return false, err
	}
	var b wire.Ban
	if err := wire.Decode(m.Data, &b); err != nil {
		return false, err
	}
	if b.Left(f.now()) == 0 {
		return false, nil
	}
	b.Lifted, b.Forgiven = true, f.now().UTC()
	if b.Last.After(b.Forgiven) { // the clock of the server is estimated
		b.Forgiven = b.Last
	}
	data, err := wire.Encode(&b)
	if err != nil {
		return false, err
	}
	_, err = f.js.Publish(ctx, f.inlets[wire.Bans]+wire.Key(source), data, jetstream.WithMsgTTL(wire.MaxLength))
	return err == nil, err
}
