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
	targetList
	reason  string
	force   bool
	offence bool
	fleet   bool
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
left alone. The ban is remembered and outlasts a reboot; a running watcher has
it on disk within two seconds.

With --offence each ban counts as an offence: addresses that have offended
before are banned for longer, as the ladder says. It is for programs such as
fail2ban that detect abuse. Addresses that are banned already are left alone.

With --fleet the other hosts of the fleet are told of it, which happens to no
other ban by hand; see portmon fleet. They ban it for as long as the fleet's own
lengths say; --for counts on this host alone.

With --file the list comes from a file, or from standard input if FILE is "-":
one entry per line, comments after "#", ";" or "//". Lines that are malformed,
whitelisted or need --force are skipped, counted and reported; --strict refuses
the whole list.

Sources that are whitelisted or allowed cannot be banned. What would do damage
that is hardly meant is not banned without --force: what covers an address or a
network of this host, its default gateway, a resolver that it asks, or the
address that you are connected from by SSH; and more than a /8 of IPv4, or a /32
of IPv6. All arguments are checked before any of these sources is banned.`,
		Example: `  portmon ban 203.0.113.7 --for 3d --reason "guesses passwords"
  portmon ban 198.51.100.0/24 2001:db8:5:6::7 --for forever
  echo '203.0.113.64 - 203.0.113.95 ; spam' | portmon ban --file - --for 30d`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 && o.file == "" {
				return usage(cmd, "missing argument: an address or a prefix to ban")
			}
			return errors.Join(noTwoOf(cmd, "for", "offence"), noTwoOf(cmd, "extend", "offence"))
		},
		PreRunE: p.lookForState,
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if cmd.Flags().Changed("for") {
				if o.length, err = parseBanTime(length); err != nil {
					return usage(cmd, "%w", err)
				}
			}
			mark := ""
			if o.offence {
				mark = ruleset.OffenceMark
			}
			if err := checkReason(o.reason, mark); err != nil {
				return usage(cmd, "%w", err)
			}
			if err := o.read(p, cmd, args); err != nil || len(o.targets) == 0 {
				return err
			}
			for i := range o.targets {
				t := &o.targets[i]
				switch {
				case !o.offence || t.err != nil || t.address:
				case t.line > 0:
					t.err = fmt.Errorf("%s: only addresses can offend", t.text)
				default:
					return usage(cmd, "ban %s: only addresses can offend", t.text)
				}
			}
			return p.withTable(func(h *ruleset.Handle) error {
				if h.Observe && o.offence {
					p.warn("inet %s observes: nothing is dropped, and to enforce it forgets this ban, unless with apply --keep", tableName)
				} else if h.Observe {
					p.warn("inet %s observes: nothing is dropped until it enforces", tableName)
				}
				return p.ban(h, o)
			})
		},
	}
	addFor(cmd, &length, "ban")
	cmd.Flags().StringVar(&o.reason, "reason", "", "keep a `TEXT` with the ban, which list and why show")
	cmd.Flags().BoolVar(&o.extend, "extend", false, "leave a ban alone that lasts as long or longer")
	cmd.Flags().BoolVar(&o.offence, "offence", false, "count it as an offence, and ban by the ladder; not with --for")
	cmd.Flags().BoolVar(&o.fleet, "fleet", false, "tell the fleet, which this host belongs to, as well")
	cmd.Flags().BoolVar(&o.force, "force", false, "ban even what would do damage, such as the default gateway")
	o.addFlags(cmd)
	return cmd
}

// addFor adds the flag that says for how long to do something.
func addFor(cmd *cobra.Command, length *string, do string) {
	cmd.Flags().StringVar(length, "for", "", do+" for a `DURATION` such as 90 (seconds), 8h, 3d or 1w, or \"forever\"")
	cobra.CheckErr(cmd.RegisterFlagCompletionFunc("for", cobra.FixedCompletions(
		[]cobra.Completion{"1h", "8h", "1d", "3d", "30d", forever}, cobra.ShellCompDirectiveNoFileComp)))
}

// ban bans what can be banned of a list, and reports the rest.
func (p *cli) ban(h *ruleset.Handle, o banOptions) error {
	err := p.checkBans(h, o.targets, o.force)
	if err == nil {
		err = o.skip(p)
	}
	if err != nil {
		return err
	}
	var put []ruleset.Record
	var found map[netip.Prefix]held
	var refused []error // since they were checked: of the targets, or of what was to be put
	err = withSets(h, func() (err error) {
		if o.offence {
			put, refused, err = h.Offend(addrsOf(o.targets), o.reason)
		} else {
			put, found, err = newBans(h, o)
		}
		return err
	})
	left := make(map[netip.Prefix]bool) // those refused
	for i, err := range refused {
		left[o.targets[i].source] = err != nil
	}
	if err == nil && len(put) > 0 {
		put, err = p.rememberBans(h, put, func() ([]ruleset.Record, error) {
			if o.offence {
				return put, nil // how long each was banned was known only then
			}
			err := withSets(h, func() (err error) { refused, err = h.Put(put); return err })
			made := make([]ruleset.Record, 0, len(put))
			for i, r := range put {
				if left[r.Source] = refused != nil && refused[i] != nil; !left[r.Source] {
					made = append(made, r)
				}
			}
			return made, err
		})
	}
	if err == nil {
		p.reportBans(slices.DeleteFunc(o.targets, func(t target) bool { return left[t.source] }), put, found)
		err = errors.Join(refused...)
	}
	if err == nil && o.fleet && len(put) > 0 {
		err = p.shareBans(put)
	}
	if err != nil {
		return fmt.Errorf("ban: %w", err)
	}
	return nil
}

func addrsOf(targets []target) []netip.Addr {
	addrs := make([]netip.Addr, len(targets))
	for i, t := range targets {
		addrs[i] = t.prefix.Addr()
	}
	return addrs
}

// checkBans gives an error to targets that cannot be banned.
func (p *cli) checkBans(h *ruleset.Handle, targets []target, force bool) error {
	if err := resolve(h, targets); err != nil {
		return err
	}
	well := make([]*target, 0, len(targets))
	checked, prefixes := make([]*target, 0, len(targets)), make([]netip.Prefix, 0, len(targets))
	check := func(t *target, p netip.Prefix) { checked, prefixes = append(checked, t), append(prefixes, p) }
	for i := range targets {
		if t := &targets[i]; t.err == nil {
			well = append(well, t)
			if check(t, t.source); t.prefix != t.source {
				check(t, t.prefix) // the network may be banned, but not that address of it
			}
		}
	}
	refused, err := h.Check(prefixes...)
	if err != nil {
		return err
	}
	for i, err := range refused {
		if t := checked[i]; t.err == nil {
			t.err = err
		}
	}
	if force {
		return nil
	}
	return p.markDangers(h, well)
}

// newBans returns what to put into the table for targets, and the bans that
// these are under already. Of those it leaves alone what lasts longer, if it
// is to.
func newBans(h *ruleset.Handle, o banOptions) (put []ruleset.Record, found map[netip.Prefix]held, err error) {
	length := max(o.length, 0) // 0 is forever from here on
	if o.length == 0 {
		ladder, _ := h.Ladder()
		if len(ladder) == 0 {
			return nil, nil, &hinted{errors.New("the table has no ladder"), runApply}
		}
		length = ladder[0]
	}
	if found, err = heldBans(h, sourcesOf(o.targets), length); err != nil {
		return nil, nil, err
	}
	put = make([]ruleset.Record, 0, len(o.targets))
	for _, t := range o.targets {
		was := found[t.source]
		if (o.extend || o.length == 0) && was.longest.outlasts(length) {
			continue
		}
		put = append(put, ruleset.Record{
			Source: t.source, Banned: true, Timeout: length, Remaining: length, Cause: ruleset.CauseHand,
			Comment: cmp.Or(o.reason, was.reason, book.HandComment),
		})
	}
	return put, found, nil
}

// reportBans reports what was put into the table for targets, and what was not
// because of the bans found there.
func (p *cli) reportBans(targets []target, put []ruleset.Record, found map[netip.Prefix]held) {
	if len(targets) > fewTargets {
		if left := len(targets) - len(put); left > 0 {
			p.note("%s already banned for as long or longer", text.Plural(left, "source"))
		}
		p.print("banned %s\n", text.Plural(len(put), "source"))
		return
	}
	made := make(map[netip.Prefix]*ruleset.Record)
	for i := range put {
		made[put[i].Source] = &put[i]
	}
	for _, t := range targets {
		r, was := made[t.source], found[t.source]
		switch {
		case r == nil:
			p.note("%s is already banned%s", t.name(), was.longest.left(" for %s"))
			continue
		case r.Step > 0:
			p.print("banned %s %s (tier %d)\n", t.name(), banTime(r.Timeout), r.Step)
		default:
			p.print("banned %s %s\n", t.name(), banTime(r.Timeout))
		}
		if r.Timeout > 0 && was.stays.outlasts(r.Timeout) {
			p.note("%s is banned for longer already:%s, in %s", text.Prefix(t.source), was.stays.left(" %s left"), was.stays.set)
		}
	}
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

// left writes how much of the ban is left, if that is known.
func (b heldBan) left(format string) string {
	switch {
	case b.set == "":
		return ""
	case b.remaining == 0:
		return " " + forever
	}
	return fmt.Sprintf(format, text.ShortDuration(b.remaining))
}

// heldBans returns the bans that cover sources which are to be banned for that
// long.
func heldBans(h *ruleset.Handle, sources []netip.Prefix, length time.Duration) (map[netip.Prefix]held, error) {
	found := make(map[netip.Prefix]held)
	var sorted []netip.Prefix
	for e, err := range h.BansIn(sources...) {
		if err != nil {
			return nil, err
		}
		if sorted == nil {
			sorted = slices.SortedFunc(slices.Values(sources), text.ComparePrefixes)
		}
		first, _ := slices.BinarySearchFunc(sorted, e.From.Addr(), func(p netip.Prefix, a netip.Addr) int {
			return p.Addr().Compare(a)
		})
		for _, source := range sorted[first:] {
			iv := nftset.Prefix(source).Interval
			if iv.From.Compare(e.To) > 0 {
				break
			}
			if !e.Covers(iv) {
				continue
			}
			was, b, exact := found[source], heldBan{e.Set, e.Remaining}, e.Interval == iv
			if exact && was.reason == "" {
				was.reason, _ = ruleset.Offence(e.Comment)
			}
			if !was.longest.outlasts(b.remaining) {
				was.longest = b
			}
			replaced := exact && e.Role != ruleset.RoleSubnet && (e.Role == ruleset.RoleNet) == h.IsNet(source, length)
			if !replaced && !was.stays.outlasts(b.remaining) {
				was.stays = b
			}
			found[source] = was
		}
	}
	return found, nil
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
