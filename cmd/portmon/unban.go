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
stands for the network that it would be banned by, usually its /64. What was
unbanned stays unbanned after a reboot or a flush of nftables.

Without a table, what is remembered of bans is forgotten all the same. It is not
an error if there is nothing to lift. It is one if a source is still
banned afterwards, because the ban is of a larger prefix.

With --file the list comes from a file, or from standard input if FILE is "-",
as portmon ban reads it.`,
		Example: `  # let in an address, a network, everybody, or those that a script has banned
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
			if _, err := p.statePath(); err != nil && p.configFile != "" {
				return err
			}
			list, err := p.readTargets(cmd, args, o)
			if err != nil {
				return err
			}
			c, h, err := p.open()
			if err != nil {
				return err
			}
			defer c.Close()
			if !h.Exists && reason == "" {
				return p.unbanRemembered(h, list, all)
			}
			switch {
			case reason != "":
				err = p.unbanReason(h, reason)
			case all:
				err = p.unbanAll(h)
			default:
				err = p.unban(h, list)
			}
			if err == nil && !h.Exists {
				return errNoTable
			}
			return err
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "lift all bans, and forget all offences")
	cmd.Flags().StringVar(&reason, "reason", "", "with --all: lift only the bans that were made with this `TEXT`")
	o.addFlags(cmd, "unban")
	cobra.CheckErr(cmd.RegisterFlagCompletionFunc("reason", cobra.NoFileCompletions))
	return cmd
}

func (p *cli) unban(h *ruleset.Handle, list *targetList) error {
	if err := p.skipImpossible(list); err != nil {
		return err
	}
	var sources []netip.Prefix
	remembered := make(map[netip.Prefix]bool)
	few := len(list.targets) <= fewTargets
	for _, t := range list.targets {
		source, err := t.source(h)
		if err != nil {
			return err
		}
		sources = append(sources, source)
		if few && t.address {
			st, err := h.Lookup(t.prefix.Addr())
			if err != nil {
				return err
			}
			remembered[source] = st.Step > 0 || st.Suspect
		}
	}
	lifted, covered, err := h.Unban(sources...)
	if err != nil {
		return fmt.Errorf("unban: %w", err)
	}
	had, forgetErr := p.forget(h, sources...)
	for _, source := range had {
		remembered[source] = true
	}
	if few {
		// In the order of what was asked for; the kernel has none.
		asked := func(e ruleset.Entry) int {
			return slices.IndexFunc(sources, func(p netip.Prefix) bool { return nftset.Prefix(p).Interval.Covers(e.Interval) })
		}
		slices.SortStableFunc(lifted, func(a, b ruleset.Entry) int { return cmp.Compare(asked(a), asked(b)) })
		var texts []string // a source can be under several bans
		for _, e := range lifted {
			texts = append(texts, e.Interval.String())
		}
		for i, text := range texts {
			if !slices.Contains(texts[:i], text) {
				p.print("unbanned %s\n", text)
			}
		}
	} else {
		p.print("unbanned %s of %s\n", text.Plural(len(lifted), "source"), text.Plural(len(sources), "source"))
	}
	var errs []error
	for i, t := range list.targets {
		iv := nftset.Prefix(sources[i]).Interval
		banned := false
		for _, e := range covered {
			if banned = e.Covers(iv); banned {
				errs = append(errs, &hinted{
					fmt.Errorf("%s is still banned: inside %s", text.Prefix(sources[i]), e.Interval), "lift that: " + unbanOf(e),
				})
				break
			}
		}
		switch {
		case banned || !few || slices.ContainsFunc(lifted, func(e ruleset.Entry) bool { return iv.Covers(e.Interval) }):
		case remembered[sources[i]]:
			p.note("%s%s was not banned; its offences are forgotten", text.Prefix(sources[i]), t.meaning(sources[i]))
		default:
			p.note("%s%s was not banned", text.Prefix(sources[i]), t.meaning(sources[i]))
		}
	}
	if forgetErr != nil {
		errs = append(errs, forgetErr)
	}
	return p.failEach(errs)
}

// skipImpossible takes out of a file what cannot be banned, and so is a mistake.
func (p *cli) skipImpossible(list *targetList) error {
	refused, some := make([]error, len(list.targets)), len(list.targets)+len(list.wrong) > 0
	for i, t := range list.targets {
		if t.line > 0 {
			refused[i] = ruleset.CheckSource(t.prefix)
		}
	}
	if err := p.skip(list, refused, "unban"); err != nil {
		return err
	}
	if some && len(list.targets) == 0 {
		return errors.New("nothing to unban")
	}
	return nil
}

// unbanRemembered takes bans out of what is remembered, without a table to lift
// them from. That there are none is errNoTable.
func (p *cli) unbanRemembered(h *ruleset.Handle, list *targetList, all bool) error {
	prefixes := everything
	if !all {
		if err := p.skipImpossible(list); err != nil {
			return err
		}
		prefixes = nil
		for _, t := range list.targets {
			source, err := t.source(h)
			if err != nil {
				return err
			}
			prefixes = append(prefixes, source)
		}
	}
	k, err := p.knowledge(h)
	if err != nil {
		return err
	}
	now := k.clock.Boot
	var had []netip.Prefix
	in := make(map[netip.Prefix]bool) // so that long lists are not gone through for each row
	for _, prefix := range prefixes {
		in[prefix] = true
	}
	for row := range k.Rows() {
		for bits := row.Source.Bits(); row.BannedAt(now) && bits >= 0; bits-- {
			if around, err := row.Source.Addr().Prefix(bits); err == nil && in[around] {
				had = append(had, row.Source)
				break
			}
		}
	}
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
	slices.SortFunc(had, netip.Prefix.Compare)
	for _, source := range had {
		p.print("forgot the remembered ban of %s\n", text.Prefix(source))
	}
	return nil
}

// everything is what --all is about.
var everything = []netip.Prefix{netip.PrefixFrom(netip.IPv4Unspecified(), 0), netip.PrefixFrom(netip.IPv6Unspecified(), 0)}

func (p *cli) unbanAll(h *ruleset.Handle) error {
	n, err := countBans(h)
	if h.Exists {
		err = errors.Join(err, h.UnbanAll())
	}
	if err != nil {
		return fmt.Errorf("unban all: %w", err)
	}
	p.print("lifted all %s\n", text.Plural(n, "ban"))
	_, err = p.forget(h, everything...)
	return err
}

// unbanReason lifts the bans that somebody made with that reason.
func (p *cli) unbanReason(h *ruleset.Handle, reason string) error {
	var sources []netip.Prefix
	n, err := h.UnbanWhere(func(e ruleset.Entry) bool {
		text, _ := ruleset.Offence(e.Comment)
		if text == reason {
			sources = append(sources, e.Prefixes()...)
		}
		return text == reason
	})
	if err != nil {
		return fmt.Errorf("unban all with reason %q: %w", reason, err)
	}
	p.print("lifted %s with reason %q\n", text.Plural(n, "ban"), reason)
	_, err = p.forget(h, sources...)
	return err
}

// forget has what was unbanned stay unbanned: the watcher forgets it, or the
// file does. It returns sources of which something was remembered, as far as
// that is known.
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

// forgetInBook takes prefixes, and all within, out of the book. Of sources that
// hold no others, the lines are not even read.
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
	var held inKernel
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
		for _, prefix := range prefixes {
			b.FreeWithin(prefix)
		}
	})
}
