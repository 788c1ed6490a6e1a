package main

import (
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
stands for the network that it would be banned by, usually its /64. What was
unbanned stays unbanned after a reboot or a flush of nftables.

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
			case reason != "" && !h.Exists:
				return errNoTable
			case reason != "":
				return p.unbanReason(h, reason)
			case all && h.Exists:
				return p.unbanAll(h)
			case all:
				return p.unbanRemembered(h, everything, true)
			case h.Exists:
				return p.unban(h, list.targets)
			}
			return p.unbanRemembered(h, sourcesOf(list.targets), false)
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "lift all bans, and forget all offences")
	cmd.Flags().StringVar(&reason, "reason", "", "with --all: lift only the bans that were made with this `TEXT`")
	o.addFlags(cmd, "unban")
	cobra.CheckErr(cmd.RegisterFlagCompletionFunc("reason", cobra.NoFileCompletions))
	return cmd
}

// skipImpossible takes out of a list the entries of a file that cannot be
// banned, and so are mistakes.
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

func (p *cli) unban(h *ruleset.Handle, targets []target) error {
	few := len(targets) <= fewTargets
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
	sources := sourcesOf(targets)
	var lifted, covered []ruleset.Entry
	err := withSets(h, func() error {
		more, stay, err := h.Unban(sources...)
		lifted, covered = append(lifted, more...), stay
		return err
	})
	if err != nil {
		return fmt.Errorf("unban: %w", err)
	}
	had, forgetErr := p.forget(h, sources...)
	for _, source := range had {
		remembered[source] = true
	}
	if !few {
		p.print("unbanned %s of %s\n", text.Plural(len(lifted), "source"), text.Plural(len(sources), "source"))
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

func sourcesOf(targets []target) (sources []netip.Prefix) {
	for _, t := range targets {
		sources = append(sources, t.source)
	}
	return sources
}

// unbanRemembered takes bans out of what is remembered, without a table to lift
// them from. It returns errNoTable if there are none.
func (p *cli) unbanRemembered(h *ruleset.Handle, prefixes []netip.Prefix, all bool) error {
	k, err := p.knowledge(h)
	if err != nil {
		return err
	}
	var wanted []nftset.Interval
	for _, prefix := range prefixes {
		wanted = append(wanted, nftset.Prefix(prefix).Interval)
	}
	wanted = nftset.Merge(wanted)
	var had []netip.Prefix
	for row := range k.Rows() {
		iv := nftset.Prefix(row.Source).Interval
		if around, ok := nftset.Find(wanted, iv.From); ok && around.Covers(iv) && row.BannedAt(k.clock.Boot) {
			had = append(had, row.Source)
		}
	}
	slices.SortFunc(had, text.ComparePrefixes)
	if _, err := p.forget(h, prefixes...); err != nil {
		return err
	}
	switch {
	case len(had) == 0:
		return errNoTable
	case all || len(had) > fewTargets:
		p.print("forgot %s\n", text.Plural(len(had), "remembered ban"))
		return nil
	}
	for _, source := range had {
		p.print("forgot the remembered ban of %s\n", text.Prefix(source))
	}
	return nil
}

// everything is what --all is about.
var everything = []netip.Prefix{netip.PrefixFrom(netip.IPv4Unspecified(), 0), netip.PrefixFrom(netip.IPv6Unspecified(), 0)}

func (p *cli) unbanAll(h *ruleset.Handle) error {
	n, err := countBans(h)
	if err := errors.Join(err, withSets(h, h.UnbanAll)); err != nil {
		return fmt.Errorf("unban all: %w", err)
	}
	p.print("lifted all %s\n", text.Plural(n, "ban"))
	_, err = p.forget(h, everything...)
	return err
}

// unbanReason lifts the bans that somebody made with that reason.
func (p *cli) unbanReason(h *ruleset.Handle, reason string) error {
	var sources []netip.Prefix
	n := 0
	err := withSets(h, func() error {
		more, err := h.UnbanWhere(func(e ruleset.Entry) bool {
			noted, _ := ruleset.Offence(e.Comment)
			if noted == reason {
				sources = append(sources, e.Prefixes()...)
			}
			return noted == reason
		})
		n += more
		return err
	})
	if err != nil {
		return fmt.Errorf("unban all with reason %q: %w", reason, err)
	}
	p.print("lifted %s with reason %q\n", text.Plural(n, "ban"), reason)
	_, err = p.forget(h, sources...)
	return err
}

// forget removes prefixes, and all within, from what is remembered, so that what
// was unbanned stays unbanned: from the watcher's memory, or from the file. It
// returns the sources that a watcher remembered.
func (p *cli) forget(h *ruleset.Handle, prefixes ...netip.Prefix) (had []netip.Prefix, err error) {
	if len(prefixes) == 0 {
		return nil, nil
	}
	path, err := p.statePath()
	if err == nil {
		if w := p.runningWatcher(path); w != nil {
			defer w.Close()
			if had, err = w.Unbanned(prefixes...); err == nil {
				return had, nil
			}
		} else {
			err = p.forgetInBook(path, h, prefixes)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("lifted, but a reboot or a flush of nftables can bring the bans back: %w", err)
	}
	return nil, nil
}

// forgetInBook removes prefixes, and all within, from the book. If each is a
// source of its own, the rest of the book is not read.
func (p *cli) forgetInBook(path string, h *ruleset.Handle, prefixes []netip.Prefix) error {
	report, err := lookAtBook(path, h)
	if err != nil || report.Missing {
		return err
	}
	alone := true
	for _, prefix := range prefixes {
		source, err := h.Source(prefix.Addr())
		if err != nil {
			return err
		}
		alone = alone && (prefix == source || prefix.IsSingleIP())
	}
	if alone {
		return book.Amend(bookConfig(path, h), prefixes, func(b *book.Book) {
			for _, prefix := range prefixes {
				b.Free(prefix)
			}
		})
	}
	// What was banned as one prefix is several in the kernel if a part of it was
	// banned for another time: the book is to say what is left.
	var held *book.Book
	current := sameTable(report, h)
	if current {
		if held, err = readKernel(h); err != nil {
			return err
		}
	}
	return p.changeBook(path, h, func(b *book.Book) {
		if current {
			catchUp(b, held, true)
		}
		b.FreeWithin(prefixes...)
	})
}
