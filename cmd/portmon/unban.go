package main

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/spf13/cobra"

	"github.com/portmon/portmon/nftset"
	"github.com/portmon/portmon/ruleset"
)

func unbanCommand(p *cli) *cobra.Command {
	var all bool
	var reason string
	cmd := &cobra.Command{
		Use:   "unban ADDR|PREFIX... | --all",
		Short: "lift bans",
		Long: `Unban lifts the bans of addresses, and of prefixes and all that is within them.
An IPv6 address stands for the network that it would be banned by, as a rule its
/64. A source that is unbanned starts again at the first tier, even if it was
free already.

It is no error if there is nothing to lift. It is one if an address is still
banned afterwards, because the ban is of a larger prefix.`,
		Example: `  # let in somebody, a network, everybody, or whom a script has banned
  portmon unban 203.0.113.7
  portmon unban 198.51.100.0/24
  portmon unban --all
  portmon unban --all --reason "guesses passwords"`,
		ValidArgsFunction: p.completeBanned,
		Args: func(cmd *cobra.Command, args []string) error {
			switch {
			case all && len(args) > 0:
				return usage(cmd, "--all and %s do not go together", args[0])
			case !all && len(args) == 0:
				return usage(cmd, "nobody to unban: want an address, a prefix or --all")
			case cmd.Flags().Changed("reason") && !all:
				return usage(cmd, "--reason only goes with --all")
			case cmd.Flags().Changed("reason") && reason == "":
				return usage(cmd, "--reason is empty: bans without a reason are those of traps")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			targets, err := parseTargets(cmd, args)
			if err != nil {
				return err
			}
			return p.withTable(func(c *nftset.Conn, s *ruleset.State) error {
				if reason != "" {
					return p.unbanReason(c, s, reason)
				}
				if all {
					return p.unbanAll(c, s)
				}
				var errs []error
				for _, t := range targets {
					if err := p.unban(c, s, t); err != nil {
						errs = append(errs, err)
					}
				}
				return p.failEach(errs)
			})
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "lift all bans")
	cmd.Flags().StringVar(&reason, "reason", "", "with --all: lift only those that were made with this `TEXT`")
	cobra.CheckErr(cmd.RegisterFlagCompletionFunc("reason", cobra.NoFileCompletions))
	return cmd
}

func (p *cli) unban(c *nftset.Conn, s *ruleset.State, t target) error {
	prefix := t.source(s)
	bans, inside, err := s.Unban(c, prefix)
	for _, b := range longestEach(bans) {
		text := b.Interval.String()
		if b.Tier > 0 {
			text += fmt.Sprintf(" (tier %d)", b.Tier)
		}
		p.print("unbanned %s\n", text)
	}
	switch {
	case err != nil:
		return fmt.Errorf("unban %s: %w", t.text, err)
	case inside != nil:
		return &hinted{
			fmt.Errorf("%s is still banned: inside %s", shortPrefix(prefix), inside.Interval),
			"lift that: " + unbanOf(*inside),
		}
	case len(bans) == 0 && p.forgiven(prefix):
		p.note("%s%s was not banned; its offences are forgotten", shortPrefix(prefix), t.meaning(prefix))
	case len(bans) == 0:
		p.note("%s%s was not banned", shortPrefix(prefix), t.meaning(prefix))
	}
	return nil
}

// forgiven has the watcher forget the offences of a source, and reports whether there were any. Of a ban that is lifted it hears from
// the kernel, and forgets them by itself.
func (p *cli) forgiven(source netip.Prefix) bool {
	w, err := p.watcher(p.statePath())
	if err != nil {
		return false
	}
	defer w.Close()
	had, err := w.Forgive([]netip.Prefix{source})
	return err == nil && len(had) > 0
}

// longestEach returns, of each source that had bans in several tiers, the one of the longest; they come in this order.
func longestEach(bans []ruleset.Ban) []ruleset.Ban {
	seen := make(map[nftset.Interval]bool)
	var out []ruleset.Ban
	for _, b := range bans {
		if !seen[b.Interval] {
			seen[b.Interval] = true
			out = append(out, b)
		}
	}
	return out
}

func (p *cli) unbanAll(c *nftset.Conn, s *ruleset.State) error {
	n, err := countBans(c, s.Table)
	if err := errors.Join(err, s.UnbanAll(c)); err != nil {
		return fmt.Errorf("unban all: %w", err)
	}
	p.print("unbanned all: %s\n", plural(n, "ban"))
	return nil
}

// unbanReason lifts the bans that somebody made with that reason.
func (p *cli) unbanReason(c *nftset.Conn, s *ruleset.State, reason string) error {
	n, err := s.UnbanWhere(c, func(b ruleset.Ban) bool {
		said, _ := ruleset.Offence(b.Comment)
		return said == reason
	})
	if err != nil {
		return fmt.Errorf("unban all with reason %q: %w", reason, err)
	}
	p.print("unbanned all with reason %q: %s\n", reason, plural(n, "ban"))
	return nil
}
