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
	length  time.Duration // 0 is that of the first step
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
before are banned for longer, as the ladder says. This is for programs that have
seen a source do wrong. Addresses that are banned already are left alone.

With --file the list comes from a file, or from standard input if FILE is "-":
one entry per line, comments after "#", ";" or "//". Lines that are malformed or
whitelisted are skipped, counted and reported; --strict refuses the whole list.

Whitelisted sources cannot be banned, and neither can addresses of this host;
nor, without --force, the address that you are connected from by SSH. Arguments
are all checked before any is banned.`,
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
			if _, err := p.statePath(); err != nil && p.configFile != "" {
				return err
			}
			list, err := p.readTargets(cmd, args, o.targetOptions)
			if err != nil {
				return err
			}
			for _, t := range list.targets {
				if o.offence && !t.address {
					return usage(cmd, "ban %s: only addresses can offend", t.text)
				}
			}
			return p.withTable(func(_ *nftset.Conn, h *ruleset.Handle) error { return p.ban(h, list, o) })
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

// ban bans what can be banned of a list, and reports the rest.
func (p *cli) ban(h *ruleset.Handle, list *targetList, o banOptions) error {
	records, err := p.records(h, list, o)
	if err != nil {
		return err
	}
	refused, err := p.refusals(h, list, records, o.force)
	if err != nil {
		return err
	}
	if err := p.skip(list, refused, "ban"); err != nil {
		return err
	}
	kept := records[:0]
	for i := range records {
		if refused[i] == nil {
			kept = append(kept, records[i])
		}
	}
	if len(kept) == 0 {
		return errors.New("nothing to ban")
	}
	if o.offence {
		return p.banOffenders(h, list, o)
	}
	held, err := heldBans(h, kept)
	if err != nil {
		return err
	}
	if o.extend || o.length == 0 {
		if kept = p.withoutLonger(held, list, kept); len(kept) == 0 {
			return nil
		}
	}
	for i := range kept {
		kept[i].Comment = cmp.Or(o.reason, held(&kept[i]).reason, book.HandComment)
	}
	if _, err := h.Put(kept); err != nil {
		return fmt.Errorf("ban: %w", err)
	}
	p.rememberBans(h, kept)
	if len(kept) > fewTargets {
		p.print("banned %s\n", text.Plural(len(kept), "source"))
		return nil
	}
	for i := range kept {
		made := &kept[i]
		before, now := held(made), lasting{}
		if err := now.ask(h, made); err != nil {
			return err
		}
		was := ""
		if before.longerThan(made.Timeout) && !now.longerThan(made.Timeout) {
			was = " (was: " + before.left() + ")"
		}
		p.print("banned %s%s %s%s\n", text.Prefix(made.Source), list.targets[i].meaning(made.Source), banTime(made.Timeout), was)
		if now.longerThan(made.Timeout) {
			p.note("%s is banned for longer already: %s, in %s", text.Prefix(made.Source), now.left(), now.set)
		}
	}
	return nil
}

// records makes a record of the ban of each target, in order.
func (p *cli) records(h *ruleset.Handle, list *targetList, o banOptions) ([]ruleset.Record, error) {
	records := make([]ruleset.Record, len(list.targets))
	for i, t := range list.targets {
		source, err := t.source(h)
		if err != nil {
			return nil, err
		}
		r := ruleset.Record{
			Source: source, Banned: true, Cause: ruleset.CauseHand,
		}
		switch {
		case o.length > 0:
			r.Timeout = o.length
		case o.length == 0:
			set := h.Set(ruleset.RoleBan.Set(source.Addr(), 0))
			if set == nil || set.Timeout == 0 {
				return nil, &hinted{errors.New("the table has no set of bans"), "run `portmon apply`"}
			}
			r.Timeout = set.Timeout
		}
		r.Remaining = r.Timeout
		records[i] = r
	}
	return records, nil
}

// refusals returns for each record why it cannot be banned, nil if it can.
func (p *cli) refusals(h *ruleset.Handle, list *targetList, records []ruleset.Record, force bool) ([]error, error) {
	refused, err := h.Check(records)
	if err != nil {
		return nil, err
	}
	if refused == nil {
		refused = make([]error, len(records))
	}
	peer, fromSSH := p.sshPeer()
	if fromSSH && !force {
		_, whitelisted, err := h.Whitelisted(nftset.Addr(peer).Interval)
		if err != nil {
			return nil, err
		}
		fromSSH = !whitelisted
	}
	own, err := ownAddrs()
	if err != nil {
		return nil, err
	}
	for i := range records {
		source := records[i].Source
		if refused[i] == nil && list.targets[i].address && !source.IsSingleIP() {
			// The network may be banned, but not that address of it.
			alone := list.targets[i].prefix
			entry, whitelisted, err := h.Whitelisted(nftset.Prefix(alone).Interval)
			if err != nil {
				return nil, err
			}
			if whitelisted {
				refused[i] = &ruleset.WhitelistedError{Prefix: alone, Entry: entry}
			}
		}
		if named := list.targets[i].prefix; refused[i] == nil && named.IsSingleIP() && slices.Contains(own, named.Addr()) {
			refused[i] = fmt.Errorf("%s is an address of this host", named.Addr())
		}
		if refused[i] == nil && fromSSH && !force && source.Contains(peer) {
			refused[i] = &hinted{
				fmt.Errorf("you are connected by SSH from %s, and would be locked out", peer),
				"to ban it all the same, add --force",
			}
		}
	}
	return refused, nil
}

// banOffenders bans addresses as the packet path does.
func (p *cli) banOffenders(h *ruleset.Handle, list *targetList, o banOptions) error {
	var addrs []netip.Addr
	for _, t := range list.targets {
		addrs = append(addrs, t.prefix.Addr())
	}
	put, refused, err := h.Offend(addrs, o.reason)
	if err != nil {
		return fmt.Errorf("ban: %w", err)
	}
	p.rememberBans(h, put)
	made := make(map[netip.Prefix]ruleset.Record, len(put))
	for _, r := range put {
		made[r.Source] = r
	}
	var errs []error
	for i, t := range list.targets {
		source, err := t.source(h)
		r, ok := made[source]
		switch {
		case err != nil || refused[i] != nil:
			errs = append(errs, fmt.Errorf("ban %s: %w", t.text, cmp.Or(err, refused[i])))
		case ok:
			p.print("banned %s%s %s (tier %d)\n", text.Prefix(source), t.meaning(source), banTime(r.Timeout), r.Step)
		default:
			p.note("%s%s is already banned", text.Prefix(source), t.meaning(source))
		}
	}
	return p.failEach(errs)
}

// lasting is the ban that a source is under already, and that lasts longest.
type lasting struct {
	found     bool
	remaining time.Duration // 0: forever
	set       string        // where it is, if the kernel was asked about this source
	reason    string        // of the ban of exactly this source
}

// heldBans returns a function that tells under what bans sources are. About a
// few sources the kernel is asked now; for many all bans are read, and those of
// larger prefixes around a source are not looked for.
func heldBans(h *ruleset.Handle, records []ruleset.Record) (func(*ruleset.Record) lasting, error) {
	const few = 1000
	held := make(map[netip.Prefix]lasting)
	if len(records) <= few {
		for i := range records {
			var l lasting
			if err := l.ask(h, &records[i]); err != nil {
				return nil, err
			}
			held[records[i].Source] = l
		}
	} else {
		rows, err := readKernel(h)
		if err != nil {
			return nil, err
		}
		now := book.ReadClock().Boot
		for source, row := range rows {
			if row.BannedAt(now) {
				reason, _ := ruleset.Offence(row.Comment)
				held[source] = lasting{found: true, remaining: row.Remaining(now), reason: reason}
			}
		}
	}
	return func(r *ruleset.Record) lasting { return held[r.Source] }, nil
}

// ask asks the kernel about a source.
func (l *lasting) ask(h *ruleset.Handle, r *ruleset.Record) error {
	st, err := h.Lookup(r.Source.Addr())
	if err != nil {
		return err
	}
	source := nftset.Prefix(r.Source).Interval
	for i := range st.Bans {
		e := &st.Bans[i]
		if e.Interval == source && l.reason == "" {
			l.reason, _ = ruleset.Offence(e.Comment)
		}
		if e.Covers(source) && (!l.found || e.Remaining == 0 || l.remaining > 0 && e.Remaining > l.remaining) {
			l.found, l.remaining, l.set = true, e.Remaining, e.Set
		}
	}
	return nil
}

// longerThan reports whether it lasts longer than a ban that is made now; d <= 0
// is forever.
func (l lasting) longerThan(d time.Duration) bool {
	const slack = time.Second
	return l.found && d > 0 && (l.remaining == 0 || l.remaining > d+slack)
}

// left says how much of it is left.
func (l lasting) left() string {
	if l.remaining == 0 {
		return forever
	}
	return text.ShortDuration(l.remaining) + " left"
}

// withoutLonger leaves out what is banned for as long already.
func (p *cli) withoutLonger(held func(*ruleset.Record) lasting, list *targetList, records []ruleset.Record) []ruleset.Record {
	kept, targets, said := records[:0], list.targets[:0], 0
	for i := range records {
		r, l := &records[i], held(&records[i])
		if !l.found || l.remaining > 0 && (r.Timeout <= 0 || l.remaining < r.Timeout) {
			kept, targets = append(kept, *r), append(targets, list.targets[i])
			continue
		}
		if said++; said > fewTargets {
			continue
		}
		how := forever
		if l.remaining > 0 {
			how = "for " + text.ShortDuration(l.remaining)
		}
		p.note("%s%s is already banned %s", text.Prefix(r.Source), list.targets[i].meaning(r.Source), how)
	}
	if said > fewTargets {
		p.note("%s already banned for as long or longer", text.Plural(said, "source"))
	}
	list.targets = targets
	return kept
}

// failEach reports errors that have nothing to do with each other, each with its
// hint.
func (p *cli) failEach(errs []error) error {
	if len(errs) == 0 {
		return nil
	}
	for _, err := range errs {
		p.fail(err)
	}
	return said(exitFailed)
}
