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
	var o targetOptions
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
afterwards, because a larger prefix is.

With --file the list comes from a file, or from standard input if FILE is "-",
as portmon ban reads it.`,
		Example: `  # unban an address, a network, everything, or what a script has banned
  portmon unban 203.0.113.7
  portmon unban 198.51.100.0/24
  portmon unban --all
  portmon unban --all --reason "guesses passwords"`,
		ValidArgsFunction: p.completeBanned,
		Args: func(cmd *cobra.Command, args []string) error {
			switch {
			case all && len(args) > 0:
				return usage(cmd, "--all and %s cannot be combined", args[0])
			case !all && len(args) == 0 && o.file == "":
				return usage(cmd, "missing argument: an address or a prefix to unban, or --all")
			case cmd.Flags().Changed("reason") && !all:
				return usage(cmd, "--reason requires --all")
			case cmd.Flags().Changed("reason") && reason == "":
				return usage(cmd, "--reason is empty: bans without a reason are those of the packet path")
			}
			return noTwoOf(cmd, "all", "file")
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			list, err := p.readListed(cmd, args, o)
			if err != nil {
				return err
			}
			c, h, err := p.open()
			if err != nil {
				return err
			}
			defer c.Close()
			if err := p.skipImpossible(h, list); err != nil {
				return err
			}
			switch {
			case reason != "":
				return p.unbanReason(h, reason)
			case all:
				return p.unbanAll(h)
			}
			return p.unban(h, list.targets)
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "lift all bans, and forget all offences")
	cmd.Flags().StringVar(&reason, "reason", "", "with --all: lift only the bans that were made with this `TEXT`")
	o.addFlags(cmd, "unban")
	cobra.CheckErr(cmd.RegisterFlagCompletionFunc("reason", cobra.NoFileCompletions))
	return cmd
}

// skipImpossible removes from a list what its file names by mistake: nothing
// that can be banned.
func (p *cli) skipImpossible(h *ruleset.Handle, list *targetList) error {
	refused := make([]error, len(list.targets))
	for i, t := range list.targets {
		if t.line > 0 {
			refused[i] = ruleset.CheckSource(t.prefix)
		}
	}
	some := len(list.targets)+len(list.wrong) > 0
	if err := p.skip(list, refused, "unban"); err != nil {
		return err
	}
	if some && len(list.targets) == 0 {
		return errors.New("nothing to unban")
	}
	return resolve(h, list.targets)
}

// lifting is what to unban.
type lifting struct {
	// alone are sources, or bans, of which others may be a part that stays.
	alone []nftset.Interval
	// within are prefixes that go with all that is within them.
	within []netip.Prefix
}

// liftingOf returns what to unban of targets. An address goes with the network
// that it is banned by, but not with the other addresses of that.
func liftingOf(targets []target) (l lifting) {
	for _, t := range targets {
		if !t.address {
			l.within = append(l.within, t.source)
			continue
		}
		if l.alone = append(l.alone, nftset.Prefix(t.source).Interval); t.source != t.prefix {
			l.alone = append(l.alone, nftset.Prefix(t.prefix).Interval)
		}
	}
	return l
}

// sources returns the sources that go alone.
func (l lifting) sources() (sources []netip.Prefix) {
	for _, iv := range l.alone {
		sources = append(sources, iv.Prefixes()...)
	}
	return sources
}

func sourcesOf(targets []target) []netip.Prefix {
	sources := make([]netip.Prefix, len(targets))
	for i, t := range targets {
		sources[i] = t.source
	}
	return sources
}

// lift lifts bans in the kernel. It returns those that it has lifted, and those
// of larger prefixes, which stay.
func (l lifting) lift(h *ruleset.Handle) (lifted, covered []ruleset.Entry, err error) {
	err = withSets(h, func() error {
		gone, around, err := h.UnbanAlone(l.alone...)
		lifted, covered = append(lifted, gone...), around
		if err == nil && len(l.within) > 0 {
			gone, around, err = h.Unban(l.within...)
			lifted, covered = append(lifted, gone...), append(covered, around...)
		}
		return err
	})
	return lifted, covered, err
}

// unban lifts the bans of targets. Without a table, only what is remembered of
// them is forgotten.
func (p *cli) unban(h *ruleset.Handle, targets []target) error {
	l, few := liftingOf(targets), len(targets) <= fewTargets
	remembered := make(map[netip.Prefix]bool)
	for _, t := range targets {
		if few && t.address {
			st, err := h.Lookup(t.prefix.Addr())
			if err != nil {
				return err
			}
			remembered[t.source] = st.Step > 0 || st.Suspect
		}
	}
	lifted, covered, err := l.lift(h)
	if err != nil {
		return fmt.Errorf("unban: %w", err)
	}
	had, forgetErr := p.forget(h, l, append(lifted, covered...))
	if !h.Exists {
		return cmp.Or(forgetErr, p.reportForgotten(had, false))
	}
	for _, source := range had {
		remembered[source] = true
	}
	if !few {
		p.print("unbanned %s of %s\n", text.Plural(len(lifted), "source"), text.Plural(len(targets), "source"))
	}
	var errs []error
	printed := make(map[nftset.Interval]bool) // a source can be under several bans
	for _, t := range targets {
		iv := nftset.Prefix(t.source).Interval
		found := false
		for i := 0; few && i < len(lifted); i++ {
			if e := &lifted[i]; iv.Covers(e.Interval) {
				if found = true; !printed[e.Interval] {
					p.print("unbanned %s\n", e.Interval)
				}
				printed[e.Interval] = true
			}
		}
		around := slices.IndexFunc(covered, func(e ruleset.Entry) bool { return e.Covers(iv) })
		switch {
		case around >= 0:
			errs = append(errs, &hinted{
				fmt.Errorf("%s is still banned: inside %s", text.Prefix(t.source), covered[around].Interval),
				"lift that: " + unbanOf(covered[around]),
			})
		case found || !few:
		case remembered[t.source]:
			p.note("%s was not banned; its offences are forgotten", t.name())
		default:
			p.note("%s was not banned", t.name())
		}
	}
	if forgetErr != nil {
		errs = append(errs, forgetErr)
	}
	return p.failEach(errs)
}

// reportForgotten reports what was remembered, without a table to lift it from.
func (p *cli) reportForgotten(had []netip.Prefix, all bool) error {
	if len(had) == 0 {
		return errNoTable
	}
	if all || len(had) > fewTargets {
		p.print("forgot %s\n", text.Plural(len(had), "remembered source"))
		return nil
	}
	slices.SortFunc(had, text.ComparePrefixes)
	for _, source := range had {
		p.print("forgot what was remembered of %s\n", text.Prefix(source))
	}
	return nil
}

func (p *cli) unbanAll(h *ruleset.Handle) error {
	n, err := countBans(h)
	if err := errors.Join(err, withSets(h, h.UnbanAll)); err != nil {
		return fmt.Errorf("unban all: %w", err)
	}
	had, err := p.forget(h, lifting{within: []netip.Prefix{
		netip.PrefixFrom(netip.IPv4Unspecified(), 0), netip.PrefixFrom(netip.IPv6Unspecified(), 0),
	}}, nil)
	if !h.Exists {
		return cmp.Or(err, p.reportForgotten(had, true))
	}
	p.print("lifted all %s\n", text.Plural(n, "ban"))
	return err
}

// unbanReason lifts the bans that somebody made with that reason.
func (p *cli) unbanReason(h *ruleset.Handle, reason string) error {
	if !h.Exists {
		return errNoTable
	}
	var l lifting
	var lifted []ruleset.Entry
	err := withSets(h, func() (err error) {
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
	_, err = p.forget(h, l, lifted)
	return err
}

// forget removes what is unbanned from what is remembered, so that it stays
// unbanned: from the watcher's memory, or from the file. touched are the bans
// that were lifted, or are in the way. It returns the sources of which something
// was remembered.
func (p *cli) forget(h *ruleset.Handle, l lifting, touched []ruleset.Entry) (had []netip.Prefix, err error) {
	path, err := p.statePath()
	if err == nil {
		if w := p.runningWatcher(path); w != nil {
			defer w.Close()
			if len(l.alone) > 0 {
				had, err = w.Unbanned(true, l.sources()...)
			}
			if err == nil && len(l.within) > 0 {
				var more []netip.Prefix
				more, err = w.Unbanned(false, l.within...)
				had = append(had, more...)
			}
		} else {
			had, err = p.forgetInBook(path, h, l, touched)
		}
	}
	if err != nil {
		return had, fmt.Errorf("lifted, but a reboot or a flush of nftables can bring the bans back: %w", err)
	}
	return had, nil
}

// forgetInBook removes what is unbanned from the book. If nothing within it goes
// as well, the rest of the book is not read.
func (p *cli) forgetInBook(path string, h *ruleset.Handle, l lifting, touched []ruleset.Entry) (had []netip.Prefix, err error) {
	report, err := lookAtBook(path, h)
	if err != nil || report.Missing {
		return nil, err
	}
	nets := sameTable(report, h) && slices.ContainsFunc(touched, func(e ruleset.Entry) bool { return e.Role == ruleset.RoleNet })
	var netsErr error
	change := func(b *book.Book) {
		if nets {
			netsErr = catchUpNets(b, h)
		}
		for _, source := range l.sources() {
			if b.Free(source) {
				had = append(had, source)
			}
		}
		had = append(had, b.FreeWithin(l.within...)...)
	}
	if nets || len(l.within) > 0 {
		err = p.changeBook(path, h, change)
	} else {
		err = book.Amend(bookConfig(path, h), l.sources(), change)
	}
	return had, cmp.Or(err, netsErr)
}

// catchUpNets enters into a book what is left of prefixes: what was banned as
// one is several in the kernel if a part of it was banned for another time.
func catchUpNets(b *book.Book, h *ruleset.Handle) error {
	held := make(map[netip.Prefix]book.Row)
	for e, err := range h.Entries(ruleset.RoleNet) {
		if err != nil {
			return err
		}
		e.Explain(0, false)
		now := book.ReadClock().Boot
		for _, prefix := range e.Prefixes() {
			r := e.Record(prefix)
			held[prefix] = book.RowOf(&r, now)
		}
	}
	for row := range b.Rows() {
		_, there := held[row.Source]
		if !there && row.ByHand && h.IsNet(row.Source, row.Timeout) {
			b.Lift(row.Source)
		}
	}
	for _, row := range held {
		b.Learn(row)
	}
	return nil
}
