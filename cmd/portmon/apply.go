package main

import (
	"errors"
	"fmt"
	"io"
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

// kept says how many bans there are after a change. It is silent where the kernel would have to be asked for all of them.
func kept(c *nftset.Conn, plan *ruleset.Plan) string {
	n, known, err := bansByCount(c, plan.Table.Table)
	if err != nil || !known {
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

func (p *cli) applyCheck(c *nftset.Conn, conf *config.Config) error {
	r, err := ruleset.Prepare(c, conf.Spec)
	if conflicts := allOf[*ruleset.ConflictError](err); conflicts != nil {
		for _, conflict := range conflicts {
			p.print("inet %s: differs: %v\n", tableName, conflict)
		}
		return said(exitNotInForce)
	}
	if err != nil {
		return err
	}
	p.adviseOn(r, conf)
	switch {
	case r.Empty():
		p.print("inet %s: in force, as configured\n", tableName)
		return nil
	case r.Created:
		p.print("inet %s: not in force: there is no such table\n", tableName)
	default:
		p.print("inet %s: differs: %s\n", tableName, strings.Join(r.Summary(), ", "))
	}
	return said(exitNotInForce)
}

// allOf returns all errors of a type that an error is made of.
func allOf[T error](err error) []T {
	if e, ok := err.(T); ok {
		return []T{e}
	}
	var all []T
	switch e := err.(type) {
	case interface{ Unwrap() error }:
		all = allOf[T](e.Unwrap())
	case interface{ Unwrap() []error }:
		for _, part := range e.Unwrap() {
			all = append(all, allOf[T](part)...)
		}
	}
	return all
}

func (p *cli) applyDryRun(c *nftset.Conn, conf *config.Config) error {
	r, err := ruleset.Prepare(c, conf.Spec)
	if err != nil {
		return err
	}
	if r.Empty() {
		p.print("# inet %s: nothing would change\n", tableName)
	} else {
		p.print("# inet %s: this would change, in one transaction:\n", tableName)
	}
	err = errors.Join(r.Plan.Write(&commentWriter{w: p.out}), r.Table.Write(p.out))
	p.adviseOn(r, conf)
	if err != nil {
		return said(exitFailed) // told when the rest is flushed
	}
	return nil
}

// commentWriter makes every line a comment of nft's. It folds lines that are very long, such as the elements of a large set: the time
// that nft takes to read a comment grows with the square of its length.
type commentWriter struct {
	w      io.Writer
	column int
	buf    []byte
}

// foldColumn is where the next blank ends a line. No command is that long but those with elements.
const foldColumn = 1000

func (c *commentWriter) Write(b []byte) (int, error) {
	c.buf = c.buf[:0]
	for _, char := range b {
		if c.column == 0 {
			c.buf = append(c.buf, "# "...)
		}
		c.buf = append(c.buf, char)
		c.column++
		switch {
		case char == '\n':
			c.column = 0
		case char == ' ' && c.column >= foldColumn:
			c.buf = append(c.buf, "\n#   "...)
			c.column = 1
		}
	}
	if _, err := c.w.Write(c.buf); err != nil {
		return 0, err
	}
	return len(b), nil
}
