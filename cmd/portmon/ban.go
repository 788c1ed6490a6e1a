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
	before, err := heldBans(h, list.targets)
	if err != nil {
		return err
	}
	targets := list.targets
	if o.extend || o.length == 0 {
		targets = p.withoutLonger(before, targets, length)
	}
	var records []ruleset.Record
	for _, t := range targets {
		records = append(records, ruleset.Record{
			Source: t.source, Banned: true, Timeout: length, Remaining: length, Cause: ruleset.CauseHand,
			Comment: cmp.Or(o.reason, before[t.source].reason, book.HandComment),
		})
	}
	if len(records) == 0 {
		return nil
	}
	err = withSets(h, func() error { _, err := h.Put(records); return err })
	if err != nil {
		return fmt.Errorf("ban: %w", err)
	}
	p.rememberBans(h, records)
	if len(records) > fewTargets {
		p.print("banned %s\n", text.Plural(len(records), "source"))
		return nil
	}
	after, err := heldBans(h, targets)
	if err != nil {
		return err
	}
	// What was made just now lasts a moment less when it is read.
	longer := func(b heldBan) bool { return length > 0 && b.lasts(length+time.Second) }
	for _, t := range targets {
		was, now, shortened := before[t.source], after[t.source], ""
		if longer(was) && !longer(now) {
			shortened = " (was: " + was.left() + ")"
		}
		p.print("banned %s %s%s\n", t.name(), banTime(length), shortened)
		if longer(now) {
			p.note("%s is banned for longer already: %s, in %s", text.Prefix(t.source), now.left(), now.set)
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
	records := make([]ruleset.Record, len(list.targets))
	for i, t := range list.targets {
		records[i].Source = t.source
	}
	refused, err := h.Check(records)
	if err != nil {
		return err
	}
	if refused == nil {
		refused = make([]error, len(records))
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

// heldBan is the ban that a source is under and that lasts longest.
type heldBan struct {
	found     bool
	remaining time.Duration // 0: forever
	set       string
	reason    string // of the ban of exactly this source
}

// lasts reports whether there is a ban for d or longer; 0 is forever.
func (l heldBan) lasts(d time.Duration) bool {
	return l.found && (l.remaining == 0 || d > 0 && l.remaining >= d)
}

// left returns how much of the ban is left.
func (l heldBan) left() string {
	if l.remaining == 0 {
		return forever
	}
	return text.ShortDuration(l.remaining) + " left"
}

// heldBans returns the bans that sources are under. About a few sources the
// kernel is asked; for many all bans are read, and those of larger prefixes
// around a source are left out.
func heldBans(h *ruleset.Handle, targets []target) (held map[netip.Prefix]heldBan, err error) {
	err = withSets(h, func() (err error) {
		held, err = readHeldBans(h, targets)
		return err
	})
	return held, err
}

func readHeldBans(h *ruleset.Handle, targets []target) (map[netip.Prefix]heldBan, error) {
	const few = 1000
	held := make(map[netip.Prefix]heldBan, len(targets))
	note := func(source netip.Prefix, e *ruleset.Entry, exact bool) {
		l := held[source]
		if exact && l.reason == "" {
			l.reason, _ = ruleset.Offence(e.Comment)
		}
		if !l.lasts(e.Remaining) {
			l.found, l.remaining, l.set = true, e.Remaining, e.Set
		}
		held[source] = l
	}
	if len(targets) > few {
		for e, err := range h.Bans() {
			if err != nil {
				return nil, err
			}
			for _, prefix := range e.Prefixes() {
				note(prefix, &e, true)
			}
		}
		return held, nil
	}
	for _, t := range targets {
		st, err := h.Lookup(t.source.Addr())
		if err != nil {
			return nil, err
		}
		for i := range st.Bans {
			if e, iv := &st.Bans[i], nftset.Prefix(t.source).Interval; e.Covers(iv) {
				note(t.source, e, e.Interval == iv)
			}
		}
	}
	return held, nil
}

// withoutLonger leaves out what is banned for as long already.
func (p *cli) withoutLonger(held map[netip.Prefix]heldBan, targets []target, length time.Duration) []target {
	kept, longer := targets[:0], 0
	for _, t := range targets {
		l := held[t.source]
		if !l.lasts(length) {
			kept = append(kept, t)
			continue
		}
		switch longer++; {
		case longer > fewTargets:
		case l.remaining == 0:
			p.note("%s is already banned forever", t.name())
		default:
			p.note("%s is already banned for %s", t.name(), text.ShortDuration(l.remaining))
		}
	}
	if longer > fewTargets {
		p.note("%s already banned for as long or longer", text.Plural(longer, "source"))
	}
	return kept
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
