package main

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/portmon/portmon/internal/book"
	"github.com/portmon/portmon/internal/route"
	"github.com/portmon/portmon/internal/text"
	"github.com/portmon/portmon/nftset"
	"github.com/portmon/portmon/ruleset"
)

// allowTime is how long a source is allowed if the user does not say.
const allowTime = 8 * time.Hour

type allowOptions struct {
	length time.Duration // 0: allowTime; below: forever
	reason string
}

func allowCommand(p *cli) *cobra.Command {
	var o allowOptions
	var length string
	var login bool
	cmd := &cobra.Command{
		Use:   "allow ADDR|PREFIX|RANGE... | --login",
		Short: "allow addresses and prefixes for a time",
		Long: `Allow sees to it that addresses, prefixes and ranges are never banned and never
dropped, for 8 hours or as --for says, as if they were whitelisted: what they do
is no offence. It lifts their bans and forgets their offences. A ban of a larger
prefix stays, and has no effect on what is allowed. An IPv6 address is allowed
alone; to allow its network, write it with /64.

A source that is allowed already gets the duration of --for, also if that is
shorter; without --for, one by hand that lasts as long or longer is left alone.
Where allowances overlap, the longest counts. What a name or a login allows for
longer is allowed by hand as long, and does not end with it. Allowances are
remembered as bans are, and outlast a reboot.

With --login it allows the host that has just logged in, for as long as login in
[allow] of the configuration says: an IPv6 host with its /64, since its address
changes. It is for pam_exec in /etc/pam.d/sshd, and takes everything from its
environment. A failed login allows nobody. Whatever goes wrong, it ends within a
second with exit code 0, so that it can neither fail nor delay a login.`,
		Example: `  portmon allow 203.0.113.7
  portmon allow 198.51.100.0/24 2001:db8:5:6::/64 --for 3d --reason "audit"
  # at the end of /etc/pam.d/sshd
  # session optional pam_exec.so quiet type=open_session /usr/bin/portmon allow --login`,
		Args: func(cmd *cobra.Command, args []string) error {
			switch {
			case login && len(args) > 0:
				return usage(cmd, "--login and %s cannot be combined", args[0])
			case !login && len(args) == 0:
				return usage(cmd, "missing argument: an address or a prefix to allow, or --login")
			}
			return errors.Join(noTwoOf(cmd, "login", "for"), noTwoOf(cmd, "login", "reason"))
		},
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if login {
				p.allowLogin()
				return nil
			}
			if cmd.Flags().Changed("for") {
				if o.length, err = parseBanTime(length); err != nil {
					return usage(cmd, "%w", err)
				}
			}
			if err := checkReason(o.reason, ruleset.CauseHand.String()+": "); err != nil {
				return usage(cmd, "%w", err)
			}
			targets, err := parseTargets(cmd, args)
			if err == nil {
				err = p.lookForState(cmd, nil)
			}
			if err != nil {
				return err
			}
			return p.withTable(func(h *ruleset.Handle) error { return p.allow(h, targets, o) })
		},
	}
	addFor(cmd, &length, "allow")
	cmd.Flags().StringVar(&o.reason, "reason", "", "keep a `TEXT` with it, which list --allowed and why show")
	cmd.Flags().BoolVar(&login, "login", false, "allow the host that pam_exec says has logged in")
	return cmd
}

// allow allows targets, unless any of them cannot be.
func (p *cli) allow(h *ruleset.Handle, targets []target, o allowOptions) error {
	length := allowTime
	if o.length != 0 {
		length = max(o.length, 0) // 0 is forever from here on
	}
	var records []ruleset.Record
	var errs []error
	for _, t := range targets {
		if err := ruleset.CheckSource(t.prefix); err != nil {
			errs = append(errs, fmt.Errorf("allow %s: %w", t.text, err))
			continue
		}
		exempt, err := h.Exempt(t.prefix)
		if err != nil {
			return fmt.Errorf("allow %s: %w", t.text, err)
		}
		if own, err := needless(h, t.prefix); err != nil {
			return fmt.Errorf("allow %s: %w", t.text, err)
		} else if own && exempt == nil {
			p.note("%s is an address of this host, and never banned by itself", text.Prefix(t.prefix))
			continue
		}
		need, lasts := needsAllowance(exempt, t.prefix, length, o.length == 0)
		if !need {
			p.note("%v", exempt)
			continue
		}
		records = append(records, ruleset.Record{
			Source: t.prefix, Allowed: true, Timeout: lasts, Remaining: lasts, Cause: ruleset.CauseHand, Comment: o.reason,
		})
	}
	if len(errs) > 0 || len(records) == 0 {
		return p.failEach(errs)
	}
	made, refused, lifted, covered, err := p.rememberAllowed(h, records)
	if err != nil {
		return fmt.Errorf("allow: %w", err)
	}
	for _, r := range made {
		lasts := forever
		if r.Timeout > 0 {
			lasts = "for " + text.ShortDuration(r.Timeout)
		}
		p.print("allowed %s %s\n", text.Prefix(r.Source), lasts)
	}
	p.reportLifted(lifted)
	for _, err := range refused {
		if err != nil {
			errs = append(errs, fmt.Errorf("allow: %w", err))
		}
	}
	for _, r := range made {
		for _, e := range covered {
			if e.Covers(nftset.Prefix(r.Source).Interval) {
				p.note("the ban of %s stays, and has no effect on %s", e.Interval, text.Prefix(r.Source))
			}
		}
	}
	return p.failEach(errs)
}

// needless reports whether a prefix is an address of this host, which only a
// user can ban, and none has.
func needless(h *ruleset.Handle, p netip.Prefix) (bool, error) {
	if !p.IsSingleIP() {
		return false, nil
	}
	back, err := route.Back(p.Addr(), "")
	if err != nil || !back.Own {
		return false, err
	}
	st, err := h.Lookup(p.Addr())
	return !st.Banned(), err
}

// needsAllowance reports whether a prefix needs an allowance by hand for a time,
// 0 for ever, and for how long then. It does not if it is whitelisted, or allowed
// by hand for as long, by a larger prefix or unless its own allowance may be
// shortened. What a name or a login allows goes with that; so that it does not go
// sooner because of this, the longer time counts.
func needsAllowance(exempt error, p netip.Prefix, length time.Duration, extend bool) (need bool, lasts time.Duration) {
	var allowed *ruleset.AllowedError
	if !errors.As(exempt, &allowed) {
		return exempt == nil, length
	}
	e := allowed.Entry
	longer := (heldBan{e.Set, e.Remaining}).outlasts(length) && (extend || e.Interval != nftset.Prefix(p).Interval)
	if longer {
		length = e.Remaining
	}
	return !longer || e.Cause != ruleset.CauseHand, length
}

// rememberAllowed allows sources and lifts their bans, and notes that unless a
// watcher does. Those that are refused have no room.
func (p *cli) rememberAllowed(h *ruleset.Handle, records []ruleset.Record) (
	made []ruleset.Record, refused []error, lifted, covered []ruleset.Entry, err error,
) {
	if set := ruleset.RoleAllow.Set(records[0].Source.Addr(), 0); h.Set(set) == nil {
		err := fmt.Errorf("the table is that of an earlier version: it has no set %s", set)
		return nil, nil, nil, nil, &hinted{err, runApply}
	}
	made, err = p.rememberBans(h, records, func() ([]ruleset.Record, error) {
		err := withSets(h, func() (err error) { refused, lifted, covered, err = h.Allow(records); return err })
		return accepted(records, refused), err
	})
	if err != nil {
		return nil, nil, nil, nil, err
	}
	// What was banned or remembered within them is to stay forgotten. To look for
	// steps within a prefix, all of the book is read, for which no login waits.
	var l lifting
	for _, e := range lifted {
		l.alone = append(l.alone, e.Interval)
	}
	for _, r := range made {
		if !r.Source.IsSingleIP() && r.Cause == ruleset.CauseHand {
			l.within = append(l.within, r.Source)
		}
	}
	if len(l.alone)+len(l.within) > 0 {
		err = p.forget(h, l, lifted)
	}
	return made, refused, lifted, covered, err
}

// accepted returns the records that were not refused.
func accepted(records []ruleset.Record, refused []error) (made []ruleset.Record) {
	for i, r := range records {
		if refused == nil || refused[i] == nil {
			made = append(made, r)
		}
	}
	return made
}

func disallowCommand(p *cli) *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use:   "disallow ADDR|PREFIX|RANGE... | --all",
		Short: "end what portmon allow began",
		Long: `Disallow ends the allowances of addresses, and of prefixes and all that is
within them, whoever made them. What was disallowed stays so after a reboot or a
flush of nftables. Bans that were lifted do not come back.

Without a table, remembered allowances are forgotten all the same. It is not an
error if there is nothing to end, but it is one if a source is still allowed
afterwards, because a larger prefix is.`,
		Example: `  portmon disallow 203.0.113.7
  portmon disallow --all`,
		ValidArgsFunction: p.complete(allowRoles...),
		Args: func(cmd *cobra.Command, args []string) error {
			switch {
			case all && len(args) > 0:
				return usage(cmd, "--all and %s cannot be combined", args[0])
			case !all && len(args) == 0:
				return usage(cmd, "missing argument: an address or a prefix to disallow, or --all")
			}
			return nil
		},
		PreRunE: p.lookForState,
		RunE: func(cmd *cobra.Command, args []string) error {
			targets, err := parseTargets(cmd, args)
			if err != nil {
				return err
			}
			c, h, err := p.open()
			if err != nil {
				return err
			}
			defer c.Close()
			return p.disallow(h, targets, all)
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "end all allowances")
	return cmd
}

// disallow ends the allowances of targets, or all.
func (p *cli) disallow(h *ruleset.Handle, targets []target, all bool) error {
	prefixes := everything
	if !all {
		prefixes = nil
		for _, t := range targets {
			prefixes = append(prefixes, t.prefix)
		}
	}
	var ended, covered []ruleset.Entry
	err := withSets(h, func() error {
		gone, around, err := h.Disallow(prefixes...)
		ended, covered = append(ended, gone...), around
		return err
	})
	if err != nil && !errors.Is(err, errNoTable) {
		return fmt.Errorf("disallow: %w", err)
	}
	had, err := p.forgetAllowed(h, prefixes)
	switch {
	case err != nil:
		err = fmt.Errorf("ended, but a reboot or a flush of nftables can bring the allowances back: %w", err)
	case !h.Exists && len(had) == 0:
		return errNoTable
	case !h.Exists:
		p.print("forgot %s\n", text.Plural(len(had), "remembered allowance"))
		return nil
	case all:
		p.print("ended %s%s\n", allOf(len(ended)), text.Plural(len(ended), "allowance"))
	default:
		for _, e := range ended {
			p.print("disallowed %s\n", e.Interval)
		}
	}
	var errs []error
	for _, t := range targets {
		iv := nftset.Prefix(t.prefix).Interval
		if i := slices.IndexFunc(covered, func(e ruleset.Entry) bool { return e.Covers(iv) }); i >= 0 {
			errs = append(errs, &hinted{
				fmt.Errorf("%s is still allowed: inside %s", text.Prefix(t.prefix), covered[i].Interval),
				"end that: portmon disallow " + covered[i].Interval.String(),
			})
		} else if !slices.ContainsFunc(ended, func(e ruleset.Entry) bool { return iv.Covers(e.Interval) }) {
			p.note("%s was not allowed", text.Prefix(t.prefix))
		}
	}
	if err != nil {
		errs = append(errs, err)
	}
	return p.failEach(errs)
}

// everything is all addresses.
var everything = []netip.Prefix{
	netip.PrefixFrom(netip.IPv4Unspecified(), 0), netip.PrefixFrom(netip.IPv6Unspecified(), 0),
}

// forgetAllowed removes the allowances of prefixes, and of all within them, from
// what is remembered, so that they do not come back.
func (p *cli) forgetAllowed(h *ruleset.Handle, prefixes []netip.Prefix) (had []netip.Prefix, err error) {
	if w, _ := p.runningWatcher(); w != nil {
		defer w.Close()
		return w.Disallowed(prefixes...)
	}
	if p.stateErr != nil {
		return nil, p.stateErr
	}
	report, err := p.lookAtBook(h)
	if err != nil || report.Missing {
		return nil, err
	}
	err = p.changeBook(h, false, func(b *book.Book, _ book.Report) error {
		if had = b.Disallow(prefixes...); !isAbout(b, h) {
			return nil
		}
		// What was allowed as one prefix is several in the kernel if a part of it
		// was allowed for another time: the book is to say what is left.
		return p.catchUpNow(b, h)
	})
	return slices.Compact(had), err
}
