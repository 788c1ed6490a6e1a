package main

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/portmon/portmon/internal/book"
	"github.com/portmon/portmon/internal/text"
	"github.com/portmon/portmon/nftset"
	"github.com/portmon/portmon/ruleset"
)

type banOptions struct {
	targetOptions
	reason  string
	force   bool
	offence bool
	length  time.Duration // 0: as the first step of the ladder; below: forever
	extend  bool
}

func banCommand(p *cli) *cobra.Command {
	var o banOptions
	var length string
	cmd := &cobra.Command{
		Use:   "ban ADDR|PREFIX|RANGE... | --file FILE",
		Short: "ban addresses and prefixes",
		Long: `Ban bans addresses, prefixes and ranges, for as long as the first tier of the
ladder lasts, or as --for says. An IPv6 address stands for the network that it
would be banned by, usually its /64; to ban it alone, write it with /128. A
source that is banned already gets the duration of --for, also if that is
shorter. Without --for, or with --extend, a ban that lasts as long or longer is
left alone. The ban is remembered and outlasts a reboot.

With --offence each ban counts as an offence: addresses that have offended
before are banned for longer, as the ladder says. It is for programs such as
fail2ban that detect abuse. Addresses that are banned already are left alone.

With --file the list comes from a file, or from standard input if FILE is "-":
one entry per line, comments after "#", ";" or "//". Lines that are malformed or
whitelisted are skipped, counted and reported; --strict refuses the whole list.

Whitelisted sources and addresses of this host cannot be banned; nor, without
--force, can the address that you are connected from by SSH. All arguments are
checked before any of these sources is banned.`,
		Example: `  portmon ban 203.0.113.7 --for 3d --reason "guesses passwords"
  portmon ban 198.51.100.0/24 2001:db8:5:6::7 --for forever
  echo '192.0.2.0 - 192.0.2.31 ; spam' | portmon ban --file - --for 30d`,
		ValidArgsFunction: cobra.NoFileCompletions,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 && o.file == "" {
				return usage(cmd, "missing argument: an address or a prefix to ban")
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
			list, err := p.readListed(cmd, args, o.targetOptions)
			if err != nil {
				return err
			}
			for _, t := range list.targets {
				if o.offence && !t.address {
					return usage(cmd, "ban %s: only addresses can offend", t.text)
				}
			}
			return p.withTable(func(h *ruleset.Handle) error { return p.ban(h, list, o) })
		},
	}
	cmd.Flags().StringVar(&length, "for", "", `ban for a `+"`DURATION`"+` such as 90s, 8h, 3d or 1w, or "forever"`)
	cmd.Flags().StringVar(&o.reason, "reason", "", "keep a `TEXT` with the ban, which list and why show")
	cmd.Flags().BoolVar(&o.extend, "extend", false, "leave a ban alone that lasts as long or longer")
	cmd.Flags().BoolVar(&o.offence, "offence", false, "count it as an offence, and ban by the ladder; not with --for")
	cmd.Flags().BoolVar(&o.force, "force", false, "ban even the address that you are connected from by SSH")
	o.addFlags(cmd, "ban")
	cobra.CheckErr(cmd.RegisterFlagCompletionFunc("for", cobra.FixedCompletions(
		[]cobra.Completion{"1h", "8h", "1d", "3d", "30d", forever}, cobra.ShellCompDirectiveNoFileComp)))
	cobra.CheckErr(cmd.RegisterFlagCompletionFunc("reason", cobra.NoFileCompletions))
	return cmd
}

// readListed reads what to ban or unban. Either is remembered in the state file
// that the configuration names, so a --config that cannot be read is an error.
func (p *cli) readListed(cmd *cobra.Command, args []string, o targetOptions) (*targetList, error) {
	if _, err := p.statePath(); err != nil && p.configFile != "" {
		return nil, err
	}
	return p.readTargets(cmd, args, o)
}

// ban bans what can be banned of a list, and reports the rest.
func (p *cli) ban(h *ruleset.Handle, list *targetList, o banOptions) error {
	if err := p.skipRefused(h, list, o.force); err != nil {
		return err
	}
	switch {
	case len(list.targets) == 0:
		return errors.New("nothing to ban")
	case o.offence:
		return p.banOffenders(h, list.targets, o.reason)
	}
	length := max(o.length, 0) // 0 is forever from here on
	if o.length == 0 {
		ladder, _ := h.Ladder()
		if len(ladder) == 0 {
			return &hinted{errors.New("the table has no ladder"), "run `portmon apply`"}
		}
		length = ladder[0]
	}
	held, err := heldBans(h, list.targets, length)
	if err != nil {
		return err
	}
	records, made := make([]ruleset.Record, 0, len(list.targets)), make([]target, 0, len(list.targets))
	longer := 0 // are banned for longer, and left alone
	for _, t := range list.targets {
		was := held[t.source]
		if (o.extend || o.length == 0) && was.longest.outlasts(length) {
			if longer++; longer <= fewTargets {
				p.note("%s is already banned %s", t.name(), was.longest.left("for %s"))
			}
			continue
		}
		made = append(made, t)
		records = append(records, ruleset.Record{
			Source: t.source, Banned: true, Timeout: length, Remaining: length, Cause: ruleset.CauseHand,
			Comment: cmp.Or(o.reason, was.reason, book.HandComment),
		})
	}
	if longer > fewTargets {
		p.note("%s already banned for as long or longer", text.Plural(longer, "source"))
	}
	if len(records) == 0 {
		return nil
	}
	err = withSets(h, func() error { _, err := h.Put(records); return err })
	if err != nil {
		return fmt.Errorf("ban: %w", err)
	}
	p.rememberBans(h, records)
	if len(made) > fewTargets {
		p.print("banned %s\n", text.Plural(len(made), "source"))
		return nil
	}
	for _, t := range made {
		was, shortened := held[t.source], ""
		stays := length > 0 && was.stays.outlasts(length)
		if length > 0 && !stays && was.longest.outlasts(length) {
			shortened = " (was: " + was.longest.left("%s left") + ")"
		}
		p.print("banned %s %s%s\n", t.name(), banTime(length), shortened)
		if stays {
			p.note("%s is banned for longer already: %s, in %s", text.Prefix(t.source), was.stays.left("%s left"), was.stays.set)
		}
	}
	return nil
}

// skipRefused takes what cannot be banned out of a list, and reports it.
func (p *cli) skipRefused(h *ruleset.Handle, list *targetList, force bool) error {
	own, err := ownAddrs()
	if err != nil {
		return err
	}
	if err := resolve(h, list.targets); err != nil {
		return err
	}
	refused, err := h.Check(sourcesOf(list.targets)...)
	if err != nil {
		return err
	}
	if refused == nil {
		refused = make([]error, len(list.targets))
	}
	peer, exposed := p.sshPeer()
	exposed = exposed && !force
	if exposed {
		_, whitelisted, err := h.Whitelisted(nftset.Addr(peer).Interval)
		if err != nil {
			return err
		}
		exposed = !whitelisted
	}
	for i, t := range list.targets {
		if refused[i] == nil && t.prefix != t.source {
			// The network may be banned, but not that address of it.
			entry, whitelisted, err := h.Whitelisted(nftset.Prefix(t.prefix).Interval)
			if err != nil {
				return err
			}
			if whitelisted {
				refused[i] = &ruleset.WhitelistedError{Prefix: t.prefix, Entry: entry}
			}
		}
		switch {
		case refused[i] != nil:
		case t.prefix.IsSingleIP() && slices.Contains(own, t.prefix.Addr()):
			refused[i] = fmt.Errorf("%s is an address of this host", t.prefix.Addr())
		case exposed && t.source.Contains(peer):
			refused[i] = &hinted{
				fmt.Errorf("you are connected by SSH from %s, and would be locked out", peer),
				"to ban it all the same, add --force",
			}
		}
	}
	return p.skip(list, refused, "ban")
}

// banOffenders bans addresses as the packet path does.
func (p *cli) banOffenders(h *ruleset.Handle, targets []target, reason string) error {
	var addrs []netip.Addr
	for _, t := range targets {
		addrs = append(addrs, t.prefix.Addr())
	}
	var put []ruleset.Record
	var refused []error
	err := withSets(h, func() (err error) {
		put, refused, err = h.Offend(addrs, reason)
		return err
	})
	if err != nil {
		return fmt.Errorf("ban: %w", err)
	}
	p.rememberBans(h, put)
	made := make(map[netip.Prefix]ruleset.Record, len(put))
	for _, r := range put {
		made[r.Source] = r
	}
	var errs []error
	for i, t := range targets {
		switch r, ok := made[t.source]; {
		case refused[i] != nil:
			errs = append(errs, fmt.Errorf("ban %s: %w", t.text, refused[i]))
		case ok:
			p.print("banned %s %s (tier %d)\n", t.name(), banTime(r.Timeout), r.Step)
		default:
			p.note("%s is already banned", t.name())
		}
	}
	return p.failEach(errs)
}

// held is what is known of the bans that a source is under.
type held struct {
	longest heldBan // of all
	stays   heldBan // the longest of those that another ban of it will not replace
	reason  string  // of the ban of exactly this source
}

// heldBan is a ban; the zero value is none.
type heldBan struct {
	set       string
	remaining time.Duration // 0: forever
}

// outlasts reports whether a ban lasts for d or longer; 0 is forever.
func (b heldBan) outlasts(d time.Duration) bool {
	return b.set != "" && (b.remaining == 0 || d > 0 && b.remaining >= d)
}

// left writes how much of the ban is left.
func (b heldBan) left(format string) string {
	if b.remaining == 0 {
		return forever
	}
	return fmt.Sprintf(format, text.ShortDuration(b.remaining))
}

// heldBans returns the bans that cover sources which are to be banned for that
// long.
func heldBans(h *ruleset.Handle, targets []target, length time.Duration) (map[netip.Prefix]held, error) {
	found := make(map[netip.Prefix]held)
	err := withSets(h, func() error {
		clear(found)
		var sorted []netip.Prefix
		for e, err := range h.BansIn(sourcesOf(targets)...) {
			if err != nil {
				return err
			}
			if sorted == nil {
				sorted = slices.SortedFunc(slices.Values(sourcesOf(targets)), text.ComparePrefixes)
			}
			first, _ := slices.BinarySearchFunc(sorted, e.From.Addr(), func(p netip.Prefix, a netip.Addr) int {
				return p.Addr().Compare(a)
			})
			for _, source := range sorted[first:] {
				iv := nftset.Prefix(source).Interval
				if iv.From.Compare(e.To) > 0 {
					break
				}
				if e.Covers(iv) {
					was := found[source]
					was.add(h, e, source, length)
					found[source] = was
				}
			}
		}
		return nil
	})
	return found, err
}

func (l *held) add(h *ruleset.Handle, e ruleset.Entry, source netip.Prefix, length time.Duration) {
	b := heldBan{e.Set, e.Remaining}
	exact := e.Interval == nftset.Prefix(source).Interval
	if exact && l.reason == "" {
		l.reason, _ = ruleset.Offence(e.Comment)
	}
	if !l.longest.outlasts(b.remaining) {
		l.longest = b
	}
	replaced := exact && e.Role != ruleset.RoleSubnet && (e.Role == ruleset.RoleNet) == h.IsNet(source, length)
	if !replaced && !l.stays.outlasts(b.remaining) {
		l.stays = b
	}
}

// failEach reports errors that are independent of each other, each with its
// hint.
func (p *cli) failEach(errs []error) error {
	if len(errs) == 0 {
		return nil
	}
	for _, err := range errs {
		p.fail(err)
	}
	return exitCodeError(exitFailed)
}
