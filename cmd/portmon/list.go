package main

import (
	"cmp"
	"iter"
	"net/netip"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/portmon/portmon/internal/geo"
	"github.com/portmon/portmon/internal/text"
	"github.com/portmon/portmon/ruleset"
)

func listCommand(p *cli) *cobra.Command {
	var as listing
	var allowed bool
	cmd := &cobra.Command{
		Use:   "list [ADDR|PREFIX...]",
		Short: "list bans",
		Long: `List prints all bans, the newest first: the address or prefix, the tier of the
ladder, the cause, how old the ban is and how much of it is left. The cause is
trap, scan, subnet (many of its sources offended), hand, other (another
program), or fleet (other hosts saw it). The last column has the comment of the
ban or, as far as portmon watch or portmon save have noted it, the last port and
the number of offences.

With --allowed it prints what portmon allow and others allow, in place of bans,
and by whom: hand, login (portmon allow --login), name (whitelist_names), or
knock. The last column has the reason, of a login the name of the user.

With --long it prints their countries and networks too, if [geo] names databases
of them. JSON always has them.

With arguments, it prints only bans that cover one of them or lie within it. It
is not an error if there are none. With --json the bans are not sorted.`,
		Example: `  # the bans in a network, and the five longest bans of all
  portmon list 203.0.113.0/24
  portmon list --json | jq '.bans | sort_by(-(.timeout_seconds // infinite))[:5]'`,
		ValidArgsFunction: p.complete(slices.Concat(banRoles, allowRoles)...),
		Args: func(cmd *cobra.Command, args []string) error {
			return cmp.Or(noTwoOf(cmd, "count", "json"), noTwoOf(cmd, "count", "long"))
		},
		PreRunE: p.lookForState,
		RunE: func(cmd *cobra.Command, args []string) error {
			only, err := parseTargets(cmd, args)
			if err != nil {
				return err
			}
			return p.withTable(func(h *ruleset.Handle) error {
				p.warnIdle(h)
				var wanted []netip.Prefix
				for _, t := range only {
					wanted = append(wanted, t.prefix)
				}
				if as.long && len(p.databases) == 0 {
					p.note("no countries and networks: databases of [geo] is empty")
				}
				if as.json || as.long {
					as.places = p.places()
					defer as.places.Close()
				}
				if as.what = "bans"; allowed {
					as.what = "allowed"
					return p.list(h.Mode(), bansOf(ahead(h.Allowed(wanted...), p.now), nil, wanted), only, as)
				}
				p.noteObserving(h)
				known, sources, err := p.toExplain(h, only, as.count)
				if err != nil {
					return err
				}
				entries := h.Bans()
				if len(only) > 0 {
					entries = h.BansIn(wanted...)
				}
				entries = both(entries, h.Fleet(wanted...))
				read := ahead(entries, p.now) // while what is remembered is read
				var k *knowledge
				if known {
					k = p.knowledge(h, sources...)
				}
				return p.list(h.Mode(), bansOf(read, k, wanted), only, as)
			})
		},
	}
	cmd.Flags().BoolVar(&as.json, "json", false, "write JSON, version 1")
	cmd.Flags().BoolVar(&as.count, "count", false, "write only how many there are")
	cmd.Flags().BoolVarP(&as.long, "long", "l", false, "write countries and networks too")
	cmd.Flags().BoolVar(&allowed, "allowed", false, "list what is allowed, in place of bans")
	return cmd
}

// both yields the entries of two streams, one after the other.
func both(a, b iter.Seq2[ruleset.Entry, error]) iter.Seq2[ruleset.Entry, error] {
	return func(yield func(ruleset.Entry, error) bool) {
		for _, entries := range []iter.Seq2[ruleset.Entry, error]{a, b} {
			for e, err := range entries {
				if !yield(e, err) {
					return
				}
			}
		}
	}
}

// listing is how a list is written.
type listing struct {
	what              string // "bans" or "allowed"
	json, count, long bool
	places            *geo.DB
}

// maxKnown is up to how many bans a list shows what is remembered of them. To
// read a larger book takes as much memory as all bans.
const maxKnown = 100_000

// toExplain returns the sources of which a list of targets, or of all bans,
// shows what is remembered; none if it shows that of all. known is false if it
// shows nothing.
func (p *cli) toExplain(h *ruleset.Handle, only []target, count bool) (known bool, sources []netip.Prefix, err error) {
	switch {
	case count:
		return false, nil, nil
	case len(only) > 0:
		err = resolve(h, only)
		if !slices.ContainsFunc(only, func(t target) bool { return !t.address }) {
			sources = sourcesOf(only)
		}
		return true, sources, err
	}
	n, err := countBans(h)
	if n > maxKnown {
		debug.SetGCPercent(10) // most of what is allocated for so many is garbage at once
		p.note("more than %d bans: offences and ports are left out; name addresses to see theirs", maxKnown)
	}
	return n <= maxKnown, nil, err
}

// bansOf makes bans of entries, those that overlap one of the prefixes; all if
// there is none. A range that is not a prefix becomes several bans.
func bansOf(entries iter.Seq[dated[ruleset.Entry]], k *knowledge, wanted []netip.Prefix) iter.Seq2[ban, error] {
	return func(yield func(ban, error) bool) {
		for e := range entries {
			if e.err != nil {
				yield(ban{}, e.err)
				return
			}
			for _, prefix := range e.value.Prefixes() {
				if len(wanted) > 0 && !slices.ContainsFunc(wanted, prefix.Overlaps) {
					continue
				}
				if !yield(k.explain(newBan(e.value, prefix, e.at)), nil) {
					return
				}
			}
		}
	}
}

// list writes what comes of a stream: its number, JSON with one on each line as
// it comes, or text.
func (p *cli) list(mode string, bans iter.Seq2[ban, error], only []target, as listing) error {
	var all []ban
	var line []byte
	n, separator := 0, "\n"
	if as.json {
		p.print(`{"version":1,"table":"inet %s","mode":"%s","%s":[`, tableName, mode, as.what)
	}
	for b, err := range bans {
		b.place = as.places.Of(b.prefix)
		switch n++; {
		case err != nil:
			return err
		case as.json:
			line = b.appendJSON(append(line[:0], separator...))
			p.print("%s", line)
			separator = ",\n"
		case !as.count:
			all = append(all, b)
		}
	}
	switch {
	case as.json:
		p.print("%s]}\n", strings.Repeat("\n", min(n, 1)))
	case as.count:
		p.print("%d\n", n)
	case n > 0:
		p.listText(all, as)
	default:
		var texts []string
		for _, t := range only {
			texts = append(texts, t.text)
		}
		p.note("%s", strings.TrimSuffix(none[as.what]+" of "+strings.Join(slices.Compact(texts), ", "), " of "))
	}
	return nil
}

var none = map[string]string{"bans": "no bans", "allowed": "no allowances"}

// listText writes bans in columns, the newest first and those of unknown age
// last. Without comments, their column has no heading. Allowances have no tier.
func (p *cli) listText(all []ban, as listing) {
	heading := []string{"ADDRESS", "TIER", "CAUSE", "AGE", "LEFT", ""}
	if slices.ContainsFunc(all, func(b ban) bool { return b.remark() != "" }) {
		heading[5] = "COMMENT"
	}
	slices.SortFunc(all, func(a, b ban) int {
		return cmp.Or(b.since().Compare(a.since()), text.ComparePrefixes(a.prefix, b.prefix))
	})
	p.table(func(yield func([]string) bool) {
		row := func(cells []string, where ...string) bool {
			if as.long {
				cells = slices.Insert(cells, 5, where...)
			}
			if as.what == "allowed" {
				cells = slices.Delete(cells, 1, 2)
			}
			return yield(cells)
		}
		if as.what == "allowed" {
			heading[2] = "BY"
		}
		ok := row(slices.Clone(heading), "COUNTRY", "NETWORK")
		for i := 0; ok && i < len(all); i++ {
			ok = row(all[i].cells(), all[i].whereabouts()...)
		}
	}, p.columns)
}
