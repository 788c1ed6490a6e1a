package main

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/spf13/cobra"

	"github.com/portmon/portmon/internal/book"
	"github.com/portmon/portmon/internal/text"
	"github.com/portmon/portmon/nftset"
	"github.com/portmon/portmon/ruleset"
)

func unbanCommand(p *cli) *cobra.Command {
	var all bool
	var reason string
	var list targetList
	cmd := &cobra.Command{
		Use:   "unban ADDR|PREFIX|RANGE... | --file FILE | --all",
		Short: "lift bans and forget offences",
		Long: `Unban lifts the bans of addresses, and of prefixes and all that is within them,
and forgets their offences: the next one is the first again. An IPv6 address
stands for the network that it would be banned by, usually its /64; others in it
that were banned alone stay so. What was unbanned stays unbanned after a reboot
or a flush of nftables.

Without a table, remembered bans are forgotten all the same. It is not an error
if there is nothing to lift, but it is one if a source is still banned
afterwards, because a larger prefix is, or the fleet bans it.

With --file the list comes from a file, or from standard input if FILE is "-",
as portmon ban reads it.`,
		Example: `  # unban an address, a network, everything, or what a script has banned
  portmon unban 203.0.113.7
  portmon unban 198.51.100.0/24
  portmon unban --all
  portmon unban --all --reason "guesses passwords"`,
		ValidArgsFunction: p.complete(banRoles...),
		Args: func(cmd *cobra.Command, args []string) error {
			switch {
			case all && len(args) > 0:
				return usage(cmd, "--all and %s cannot be combined", args[0])
			case !all && len(args) == 0 && list.file == "":
				return usage(cmd, "missing argument: an address or a prefix to unban, or --all")
			case cmd.Flags().Changed("reason") && !all:
				return usage(cmd, "--reason requires --all")
			case cmd.Flags().Changed("reason") && reason == "":
				return usage(cmd, "--reason is empty: bans without a reason are those of the packet path")
			}
			return noTwoOf(cmd, "all", "file")
		},
		PreRunE: p.lookForState,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := list.read(p, cmd, args); err != nil || list.file != "" && len(list.targets) == 0 {
				return err
			}
			c, h, err := p.open()
			if err != nil {
				return err
			}
			defer c.Close()
			switch {
			case reason != "":
				return p.unbanReason(h, reason)
			case all:
				return p.unbanAll(h)
			}
			return p.unban(h, list)
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "lift all bans, and forget all offences")
	cmd.Flags().StringVar(&reason, "reason", "", "with --all: lift only the bans that were made with this `TEXT`")
	list.addFlags(cmd)
	return cmd
}

// lifting is what to unban.
type lifting struct {
	// alone are sources, or bans, of which others may be a part that stays.
	alone []nftset.Interval
	// within are prefixes that go with all that is within them.
	within []netip.Prefix
}

// lift lifts bans in the kernel. It returns those that it has lifted, and those
// of larger prefixes, which stay.
func (l *lifting) lift(h *ruleset.Handle) (lifted, covered []ruleset.Entry, err error) {
	err = withSets(h, func() error {
		gone, around, err := h.UnbanAlone(l.alone...)
		lifted, covered = append(lifted, gone...), around
		if err == nil && len(l.within) > 0 {
			gone, around, err = h.Unban(l.within...)
			lifted, covered = append(lifted, gone...), append(covered, around...)
		}
		return err
	})
	// What covers one of them may have been lifted for another.
	type ban struct {
		set string
		of  nftset.Interval
	}
	gone := make(map[ban]bool)
	for _, e := range lifted {
		gone[ban{e.Set, e.Interval}] = true
	}
	covered = slices.DeleteFunc(covered, func(e ruleset.Entry) bool { return gone[ban{e.Set, e.Interval}] })
	slices.SortFunc(lifted, func(a, b ruleset.Entry) int {
		return cmp.Or(a.From.Compare(b.From), b.To.Compare(a.To))
	})
	return lifted, covered, err
}

// unban lifts the bans of a list. Without a table, only what is remembered of
// them is forgotten.
func (p *cli) unban(h *ruleset.Handle, list targetList) error {
	for i := range list.targets {
		if t := &list.targets[i]; t.err == nil && t.line > 0 {
			t.err = ruleset.CheckSource(t.prefix) // in a list it is a mistake
		}
	}
	err := resolve(h, list.targets)
	if err == nil {
		err = list.skip(p)
	}
	if err != nil {
		return err
	}
	var l lifting
	for _, t := range list.targets {
		if !t.address {
			l.within = append(l.within, t.source)
			continue
		}
		// It goes with the network that it is banned by, but not with the other
		// addresses of that.
		if l.alone = append(l.alone, nftset.Prefix(t.source).Interval); t.source != t.prefix {
			l.alone = append(l.alone, nftset.Prefix(t.prefix).Interval)
		}
	}
	lifted, covered, err := l.lift(h)
	if err != nil {
		return fmt.Errorf("unban: %w", err)
	}
	forgetErr := p.forget(h, l, lifted)
	if !h.Exists {
		return forgetErr
	}
	few := len(list.targets) <= fewTargets
	if !few {
		p.print("unbanned %s of %s\n", text.Plural(len(lifted), "source"), text.Plural(len(list.targets), "source"))
	}
	if few {
		p.reportLifted(lifted)
	}
	fleet, err := fleetBans(h, list.targets)
	if err != nil {
		return errors.Join(err, forgetErr)
	}
	var errs []error
	if len(fleet) > 0 && !few {
		errs = append(errs, fmt.Errorf("%s of the fleet in the list stay: portmon-hub unban lifts them", text.Plural(len(fleet), "ban")))
		fleet = nil
	}
	for _, t := range list.targets {
		within := nftset.Prefix(t.ofFleet()).Interval
		if i := slices.IndexFunc(fleet, func(e ruleset.Entry) bool { return within.Overlaps(e.Interval) }); i >= 0 {
			errs = append(errs, &hinted{
				fmt.Errorf("%s is still banned: by the fleet, as %s", text.Prefix(t.prefix), fleet[i].Interval),
				fmt.Sprintf("spare it on this host: portmon allow %s; unban it on all of them: portmon-hub unban %s",
					text.Prefix(t.prefix), fleet[i].From),
			})
			continue
		}
		banned := func(e ruleset.Entry) bool { return e.Covers(nftset.Prefix(t.prefix).Interval) }
		if i := slices.IndexFunc(covered, banned); i >= 0 {
			errs = append(errs, &hinted{
				fmt.Errorf("%s is still banned: inside %s", text.Prefix(t.prefix), covered[i].Interval),
				"lift that: " + unbanOf(covered[i]),
			})
			continue
		}
		source := nftset.Prefix(t.source).Interval
		if few && !slices.ContainsFunc(lifted, func(e ruleset.Entry) bool { return source.Covers(e.Interval) }) {
			p.note("%s was not banned; its offences, if any, are forgotten", t.name())
		}
	}
	if forgetErr != nil {
		errs = append(errs, forgetErr)
	}
	return p.failEach(errs)
}

// fleetBans returns the bans of the fleet that targets are under, or have within
// them.
func fleetBans(h *ruleset.Handle, targets []target) (bans []ruleset.Entry, err error) {
	of := make([]netip.Prefix, len(targets))
	for i := range targets {
		of[i] = targets[i].ofFleet()
	}
	for e, err := range h.Fleet(of...) {
		if err != nil {
			return nil, fmt.Errorf("read the bans of the fleet: %w", err)
		}
		bans = append(bans, e)
	}
	return bans, nil
}

// ofFleet returns the prefix within which bans of the fleet concern a target.
func (t *target) ofFleet() netip.Prefix {
	if t.address {
		return ruleset.FleetSource(t.prefix.Addr())
	}
	return t.prefix
}

// reportLifted reports bans that were lifted.
func (p *cli) reportLifted(lifted []ruleset.Entry) {
	for i, e := range lifted {
		if i == 0 || e.Interval != lifted[i-1].Interval { // a source can be under several bans
			p.print("unbanned %s\n", e.Interval)
		}
	}
}

// unbanOf returns the command that lifts a ban. For a range that is not a
// prefix, which is not portmon's work, only nft has one.
func unbanOf(e ruleset.Entry) string {
	if p, ok := e.Prefix(); ok {
		return "portmon unban " + text.Prefix(p)
	}
	return fmt.Sprintf("nft delete element inet %s %s '{ %s }'", tableName, e.Set, e.Interval)
}

// allOf returns "all ", unless there are too few for that.
func allOf(n int) string {
	if n < 2 {
		return ""
	}
	return "all "
}

func (p *cli) unbanAll(h *ruleset.Handle) error {
	n, err := countBans(h)
	if err := errors.Join(err, withSets(h, h.UnbanAll)); err != nil {
		return fmt.Errorf("unban all: %w", err)
	}
	if h.Exists {
		p.print("lifted %s%s\n", allOf(n), text.Plural(n, "ban"))
	}
	return p.forget(h, lifting{within: everything}, nil)
}

// unbanReason lifts the bans that somebody made with that reason.
func (p *cli) unbanReason(h *ruleset.Handle, reason string) error {
	if !h.Exists {
		return errNoTable
	}
	var l lifting
	var lifted []ruleset.Entry
	err := withSets(h, func() error {
		l = lifting{}
		for e, err := range h.Bans() {
			if err != nil {
				return err
			}
			if noted, _ := ruleset.Offence(e.Comment); noted == reason {
				l.alone = append(l.alone, e.Interval)
			}
		}
		return nil
	})
	if err == nil {
		lifted, _, err = l.lift(h)
	}
	if err != nil {
		return fmt.Errorf("unban all with reason %q: %w", reason, err)
	}
	p.print("lifted %s with reason %q\n", text.Plural(len(lifted), "ban"), reason)
	return p.forget(h, l, lifted)
}

// forget removes what is unbanned from what is remembered, so that it stays
// unbanned: from the watcher's memory, or from the file. Without a table it
// reports how much was remembered, and returns errNoTable if nothing was.
func (p *cli) forget(h *ruleset.Handle, l lifting, lifted []ruleset.Entry) error {
	var alone, had []netip.Prefix
	for _, iv := range l.alone {
		alone = append(alone, iv.Prefixes()...)
	}
	err := p.stateErr
	if w, _ := p.runningWatcher(); w != nil {
		defer w.Close()
		had, err = w.Unbanned(true, alone...)
		if err == nil {
			var more []netip.Prefix
			more, err = w.Unbanned(false, l.within...)
			had = append(had, more...)
		}
	} else if err == nil {
		had, err = p.forgetInBook(h, alone, l.within, lifted)
	}
	switch {
	case err != nil:
		return fmt.Errorf("lifted, but a reboot or a flush of nftables can bring the bans back: %w", err)
	case h.Exists:
		return nil
	case len(had) == 0:
		return errNoTable
	}
	p.print("forgot %s\n", text.Plural(len(had), "remembered source"))
	return nil
}

// forgetInBook removes sources alone, and prefixes with all within them, from
// the book.
func (p *cli) forgetInBook(h *ruleset.Handle, alone, within []netip.Prefix, lifted []ruleset.Entry) (had []netip.Prefix, err error) {
	report, err := p.lookAtBook(h)
	if err != nil || report.Missing {
		return nil, err
	}
	forget := func(b *book.Book) {
		for _, source := range alone {
			if b.Free(source) {
				had = append(had, source)
			}
		}
		had = append(had, b.FreeWithin(within...)...)
	}
	// What was banned as one prefix is several in the kernel if a part of it was
	// banned for another time: the book is to say what is left.
	split := slices.ContainsFunc(lifted, func(e ruleset.Entry) bool { return e.Role == ruleset.RoleNet })
	if !split && len(within) == 0 {
		report, err = book.Amend(p.bookConfig(h), alone, forget, nil) // without reading the rest
		p.warnDamage(report)
		return had, err
	}
	err = p.changeBook(h, false, func(b *book.Book, _ book.Report) error {
		defer forget(b)
		if split && isAbout(b, h) {
			return p.catchUpNow(b, h)
		}
		return nil
	})
	return had, err
}
