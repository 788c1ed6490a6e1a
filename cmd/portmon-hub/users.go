package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/portmon/portmon/internal/fleet/wire"
)

// permissions returns what a host may publish and subscribe to by its standing.
// If the key that it was invited with stays, it has to suffice from the start.
func permissions(name string, s wire.Standing, keyStays bool) (publish, subscribe []string) {
	publish, subscribe = wire.Permissions(name)
	switch {
	case s == wire.Invited && !keyStays:
		publish = []string{wire.JoinPrefix + name}
	case s == wire.Quarantined:
		publish = publish[1:] // all but sightings
	}
	return publish, subscribe
}

func usersCommand(p *cli) *cobra.Command {
	var first bool
	cmd := &cobra.Command{
		Use:   "users",
		Short: "print the users of a NATS server that is not in this program",
		Long: `Users prints the authorization block of nats-server.conf: the hub, and the hosts
with what each may do. It is for a NATS server of your own, which the hub cannot
change: have that server read it again after each invite, release and revoke.

The server must have JetStream, TLS, and an account that nothing else uses.`,
		Example: `  # in nats-server.conf: include users.conf
  portmon-hub users --nats tls://nats.example.net:4222 >users.conf && nats-server --signal reload`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := p.load()
			if err != nil {
				return err
			}
			hosts := make(map[string]record)
			if !first {
				f, err := p.connect(cmd.Context(), c)
				if err != nil {
					return hint("a server that does not know the hub yet: portmon-hub users --first", "%w", err)
				}
				defer f.close()
				if hosts, err = f.hosts(cmd.Context()); err != nil {
					return err
				}
			}
			key, err := c.seed.PublicKey()
			if err != nil {
				return err
			}
			p.print("%s", usersBlock(key, hosts))
			return nil
		},
	}
	cmd.Flags().BoolVar(&first, "first", false, "print the hub alone, without asking the server")
	return cmd
}

// usersBlock returns the authorization block of nats-server.conf.
func usersBlock(hub string, hosts map[string]record) string {
	quote := func(subjects []string) string { return `["` + strings.Join(subjects, `", "`) + `"]` }
	var b strings.Builder
	fmt.Fprintf(&b, "authorization {\n  users = [\n    # the hub\n    { nkey: %s }\n", hub)
	for _, name := range sortedNames(hosts) {
		h := hosts[name]
		if h.Standing == wire.Revoked {
			continue
		}
		publish, subscribe := permissions(name, h.Standing, true)
		fmt.Fprintf(&b, "    # %s, %s\n    { nkey: %s, permissions: { publish: { allow: %s }, subscribe: { allow: %s } } }\n",
			name, h.Standing, h.Key, quote(publish), quote(subscribe))
	}
	return b.String() + "  ]\n}\n"
}
