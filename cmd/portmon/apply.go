package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/portmon/portmon/internal/config"
	"github.com/portmon/portmon/nftset"
	"github.com/portmon/portmon/ruleset"
)

func applyCommand(p *cli) *cobra.Command {
	var check, dryRun bool
	cmd := &cobra.Command{
		Use:   "apply",
		Short: "put the configuration in force",
		Long: `Apply makes the table inet portmon what the configuration says, in one
transaction: the table is installed, or what differs is changed. Bans stay, and
no packet of a banned source slips through meanwhile. Applied again, it changes
nothing. If it fails, nothing has changed.

Bans that were remembered (see portmon save) are put back into a new table with
the time they have left. A watcher that runs does that by itself, and takes over
what has changed in the configuration.

Without a configuration file the built-in default is applied. No other table is
touched.

With --check the exit code is 3 if the kernel holds something else.`,
		Example: `  # what would change, whether nft agrees, and then to do it
  portmon apply --dry-run
  portmon apply --dry-run | nft --check --file -
  portmon apply`,
		ValidArgsFunction: cobra.NoFileCompletions,
		Args: func(cmd *cobra.Command, args []string) error {
			return errors.Join(noArgs(cmd, args), noTwoOf(cmd, "check", "dry-run"))
		},
		RunE: func(*cobra.Command, []string) error {
			conf, err := p.loadConfig()
			if err != nil {
				return err
			}
			c, err := p.dial()
			if err != nil {
				return err
			}
			defer c.Close()
			switch {
			case check:
				return p.applyCheck(c, conf)
			case dryRun:
				return p.applyDryRun(c, conf)
			}
			return p.apply(c, conf)
		},
	}
	cmd.Flags().BoolVar(&check, "check", false, "change nothing; tell what differs, and exit 3 if anything does")
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "change nothing; write the table in nft syntax, and as comments what would change")
	return cmd
}

func (p *cli) apply(c *nftset.Conn, conf *config.Config) error {
	r, err := ruleset.Apply(c, conf.Spec)
	if err != nil {
		return err
	}
	switch {
	case r.Empty():
		p.print("inet %s: nothing to change\n", tableName)
	case r.Created:
		p.print("inet %s: installed, %s\n", tableName, summary(r.Plan, conf))
	default:
		p.print("inet %s: changed: %s%s%s\n", tableName, strings.Join(changes(r.Plan), ", "), kept(c, r.Plan), lifted(r.Plan))
	}
	p.restore(c, conf)
	p.adviseOn(r, conf)
	return nil
}

// summary says what a configuration is about: "17 TCP and 0 UDP trap ports, ladder 8h 3d 30d".
func summary(plan *ruleset.Plan, conf *config.Config) string {
	t := trapsOf(plan.Table)
	return fmt.Sprintf("%d TCP and %d UDP trap ports, ladder %s", count(t.tcp), count(t.udp), ladder(conf.Spec.BanTime))
}

func ladder(tiers []time.Duration) string {
	var all []string
	for _, d := range tiers {
		all = append(all, config.FormatDuration(d))
	}
	return strings.Join(all, " ")
}

// changes names what a plan changes, but for the bans that it lifts.
func changes(plan *ruleset.Plan) []string {
	all := slices.DeleteFunc(plan.Summary(), func(what string) bool { return what == "bans of whitelisted sources" })
	if len(all) == 0 {
		return []string{"bans"}
	}
	return all
}

// kept says how many bans there are after a change.
func kept(c *nftset.Conn, plan *ruleset.Plan) string {
	n, err := countBans(c, plan.Table.Table)
	if err != nil {
		return ""
	}
	return "; kept " + plural(n, "ban")
}

func lifted(plan *ruleset.Plan) string {
	switch n := len(plan.Lifted); n {
	case 0:
		return ""
	case 1:
		return "; lifted 1 ban of a whitelisted source"
	default:
		return fmt.Sprintf("; lifted %d bans of whitelisted sources", n)
	}
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
