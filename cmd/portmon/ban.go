package main

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/spf13/cobra"

	"github.com/portmon/portmon/internal/config"
	"github.com/portmon/portmon/nftset"
	"github.com/portmon/portmon/ruleset"
)

type banOptions struct {
	reason string
	force  bool
	// offence tells that the ban counts as an offence.
	offence bool
	length  time.Duration // 0 is that of the first tier
	// extend tells to leave a ban alone that lasts as long.
	extend bool
}

// byHand is the reason of a ban for which the user gives none.
const byHand = "by hand"

func banCommand(p *cli) *cobra.Command {
	var o banOptions
	var length string
	cmd := &cobra.Command{
		Use:   "ban ADDR|PREFIX...",
		Short: "ban by hand",
		Long: `Ban bans addresses and prefixes, for as long as the first tier of the ladder
lasts, or as --for says. An IPv6 address stands for the network that it would be
banned by, as a rule its /64; to ban it alone, write it as a prefix, with /128.
A source that is banned already gets the new duration, or, with --extend, the
longer one.

With --offence it counts as an offence: a watcher bans for longer who offends
again. This is for programs that have seen the source do wrong. Whoever is
banned already is left alone.

What is whitelisted cannot be banned. Nor can, without --force, the address that
you are connected from by SSH. All arguments are checked before anything is
done.`,
		Example: `  portmon ban 203.0.113.7 --for 3d --reason "guesses passwords"
  portmon ban 198.51.100.0/24 2001:db8:5:6::7 --for forever`,
		ValidArgsFunction: cobra.NoFileCompletions,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usage(cmd, "nobody to ban: want an address or a prefix")
			}
			return errors.Join(noTwoOf(cmd, "for", "offence"), noTwoOf(cmd, "extend", "offence"))
		},
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if cmd.Flags().Changed("for") {
				if o.length, err = parseBanTime(length); err != nil {
					return usage(cmd, "%w", err)
				}
			}
			if err := checkReason(o.reason, o.offence); err != nil {
				return usage(cmd, "%w", err)
			}
			targets, err := parseTargets(cmd, args)
			if err != nil {
				return err
			}
			for _, t := range targets {
				if t.prefix.Bits() == 0 {
					return usage(cmd, "ban %s: that is everybody", t.text)
				}
				if o.offence && !t.address {
					return usage(cmd, "ban %s: only an address can offend", t.text)
				}
			}
			return p.withTable(func(c *nftset.Conn, s *ruleset.State) error { return p.ban(c, s, targets, o) })
		},
	}
	cmd.Flags().StringVar(&length, "for", "", `ban for a `+"`DURATION`"+` such as 90s, 8h, 3d or 1w, or "forever"`)
	cmd.Flags().StringVar(&o.reason, "reason", byHand, "keep a `TEXT` with the ban, which list and why tell")
	cmd.Flags().BoolVar(&o.extend, "extend", false, "leave a ban alone that lasts as long or longer")
	cmd.Flags().BoolVar(&o.offence, "offence", false, "count it as an offence, as if a trap had made the ban; not with --for")
	cmd.Flags().BoolVar(&o.force, "force", false, "ban also the address that you are connected from by SSH")
	cobra.CheckErr(cmd.RegisterFlagCompletionFunc("for", cobra.FixedCompletions(
		[]cobra.Completion{"1h", "8h", "1d", "3d", "30d", forever}, cobra.ShellCompDirectiveNoFileComp)))
	cobra.CheckErr(cmd.RegisterFlagCompletionFunc("reason", cobra.NoFileCompletions))
	return cmd
}

func (p *cli) ban(c *nftset.Conn, s *ruleset.State, targets []target, o banOptions) error {
	var errs []error
	for _, t := range targets {
		if err := p.mayBan(c, s, t.source(s), o.force); err != nil {
			errs = append(errs, fmt.Errorf("ban %s: %w", t.text, err))
		}
	}
	if errs != nil {
		return p.failEach(errs)
	}
	for _, t := range targets {
		if err := p.banOne(c, s, t, o); err != nil {
			errs = append(errs, fmt.Errorf("ban %s: %w", t.text, err))
		}
	}
	return p.failEach(errs)
}

// failEach reports errors that have nothing to do with each other, each with its hint.
func (p *cli) failEach(errs []error) error {
	if errs == nil {
		return nil
	}
	for _, err := range errs {
		p.fail(err)
	}
	return said(exitFailed)
}

func (p *cli) banOne(c *nftset.Conn, s *ruleset.State, t target, o banOptions) error {
	prefix := t.source(s)
	length := o.length
	if length == 0 {
		set := firstTier(s, prefix.Addr())
		if set == nil {
			return &hinted{errors.New("the table has no first tier"), "run `portmon apply`, or say how long: --for 8h"}
		}
		length = set.Timeout
	}
	comment := cmp.Or(o.reason, byHand)
	if o.extend {
		b, err := lasting(c, s, prefix, length)
		if err != nil {
			return err
		}
		if b != nil {
			p.note("%s%s is banned already, %s", shortPrefix(prefix), t.meaning(prefix), remaining(*b))
			return nil
		}
	}
	if o.offence {
		if st, err := s.Lookup(c, prefix.Addr()); err != nil {
			return err
		} else if len(st.Bans) > 0 {
			p.note("%s%s is banned already", shortPrefix(prefix), t.meaning(prefix))
			return nil
		}
		comment = ruleset.OffenceMark + o.reason
	}
	// Without a comment, a watcher that starts later could not tell it from a ban that a trap has made.
	b, err := s.Ban(c, prefix, length, comment)
	var covered *ruleset.CoveredError
	var white *ruleset.WhitelistedError
	switch {
	case errors.As(err, &covered):
		return &hinted{err, "for a ban of its own, first lift that: " + unbanOf(covered.By)}
	case errors.As(err, &white):
		return whitelistHint(white)
	case err != nil:
		return err
	}
	p.print("banned %s%s for %s\n", shortPrefix(prefix), t.meaning(prefix), banTime(b.Expires))
	return p.tellLonger(c, s, prefix, b)
}

// lasting returns a ban of all of a prefix that lasts as long as one that would be made now, or longer; nil if there is none.
func lasting(c *nftset.Conn, s *ruleset.State, prefix netip.Prefix, length time.Duration) (*ruleset.Ban, error) {
	st, err := s.Lookup(c, prefix.Addr())
	if err != nil {
		return nil, err
	}
	for _, b := range st.Bans {
		if b.Covers(nftset.FromPrefix(prefix)) && (b.Expires == 0 || length != ruleset.Forever && b.Expires >= length) {
			return &b, nil
		}
	}
	return nil, nil
}

// remaining says how long a ban still lasts.
func remaining(b ruleset.Ban) string {
	if b.Expires == 0 {
		return "for ever, in " + b.Set
	}
	return fmt.Sprintf("%s left, in %s", short(b.Expires), b.Set)
}

// tellLonger says that the source is banned beyond the ban that was just made.
func (p *cli) tellLonger(c *nftset.Conn, s *ruleset.State, prefix netip.Prefix, made ruleset.Ban) error {
	st, err := s.Lookup(c, prefix.Addr())
	if err != nil {
		return err
	}
	iv := nftset.FromPrefix(prefix)
	for _, b := range st.Bans {
		if b.Set == made.Set || !b.Covers(iv) || made.Expires == 0 {
			continue
		}
		switch {
		case b.Expires == 0:
			p.note("%s is banned for ever already, in %s", shortPrefix(prefix), b.Set)
			return nil
		case b.Expires > made.Expires:
			p.note("%s is banned for longer already, in %s: %s left", shortPrefix(prefix), b.Set, short(b.Expires))
			return nil
		}
	}
	return nil
}

// meaning says why what is banned, or unbanned, is not what the user wrote.
func (t target) meaning(prefix netip.Prefix) string {
	switch {
	case t.address && !prefix.IsSingleIP():
		return ", the network of " + t.prefix.Addr().String() + ","
	case t.masked():
		return ", the network of " + t.text + ","
	}
	return ""
}

func banTime(d time.Duration) string {
	if d <= 0 {
		return "ever"
	}
	return config.FormatDuration(d)
}

// unbanOf returns the command that lifts a ban. For a range that is no prefix, which is not portmon's work, only nft has one.
func unbanOf(b ruleset.Ban) string {
	if p, ok := b.Prefix(); ok {
		return "portmon unban " + shortPrefix(p)
	}
	return fmt.Sprintf("nft delete element inet %s %s '{ %s }'", tableName, b.Set, b.Interval)
}
