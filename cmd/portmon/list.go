package main

import (
	"fmt"
	"iter"
	"net/netip"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/portmon/portmon/nftset"
	"github.com/portmon/portmon/ruleset"
)

type listOptions struct {
	json, count, unsorted bool
	only                  []target
}

func listCommand(p *cli) *cobra.Command {
	var o listOptions
	cmd := &cobra.Command{
		Use:   "list [ADDR|PREFIX...]",
		Short: "tell who is banned",
		Long: `List tells who is banned, the newest ban first: the address, or the prefix; the
tier of the ladder, or "prefix" for what was banned as one; how old the ban is,
and how much of it is left. An address in several tiers appears once, with the
longest.

With arguments, it tells only of bans that cover one of them or lie within it.
That nobody is banned is no error: the list is empty and the exit code 0.`,
		Example: `  # who is banned in a network, and the five longest bans of all
  portmon list 203.0.113.0/24
  portmon list --json | jq '.bans | sort_by(-.timeout_seconds)[:5]'`,
		ValidArgsFunction: p.completeBanned,
		Args:              func(cmd *cobra.Command, args []string) error { return noTwoOf(cmd, "count", "json") },
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if o.only, err = parseTargets(cmd, args); err != nil {
				return err
			}
			return p.withTable(func(c *nftset.Conn, s *ruleset.State) error { return p.list(c, s, o) })
		},
	}
	cmd.Flags().BoolVar(&o.json, "json", false, "write JSON, version 1")
	cmd.Flags().BoolVar(&o.count, "count", false, "write only how many there are")
	cmd.Flags().BoolVar(&o.unsorted, "unsorted", false, "write bans as the kernel tells them, which takes less memory")
	return cmd
}

func (p *cli) list(c *nftset.Conn, s *ruleset.State, o listOptions) error {
	if o.count {
		n, err := countListed(c, s, o.only)
		if err == nil {
			p.print("%d\n", n)
		}
		return err
	}
	return p.writeList(o, expected(s), selectBans(c, s, o.only))
}

// writeList writes bans as they come or, sorted, once they are all there; about how many there will be, expected tells.
func (p *cli) writeList(o listOptions, expected int, bans iter.Seq2[entry, error]) error {
	w := &listWriter{cli: p, listOptions: o, layout: rowLayout{address: len("ADDRESS"), columns: p.columns}}
	if o.unsorted {
		w.layout.address, w.layout.reasons = unsortedAddress, true
		for e, err := range bans {
			if err == nil {
				err = w.write(&e)
			}
			if err != nil {
				return err
			}
		}
		return w.end()
	}
	r := newRecords(expected)
	for e, err := range bans {
		if err != nil {
			return err
		}
		r.add(e)
		w.layout.address = max(w.layout.address, len(shortPrefix(e.prefix)))
	}
	r.sort()
	w.layout.reasons = len(r.reasons) > 1
	for i := range r.all {
		e := r.entry(&r.all[i])
		if err := w.write(&e); err != nil {
			return err
		}
	}
	return w.end()
}

// listWriter writes a list as it goes along.
type listWriter struct {
	*cli
	listOptions
	layout rowLayout
	n      int
	line   []byte
}

// write writes one entry, and before the first what stands above it.
func (w *listWriter) write(e *entry) error {
	w.line = w.line[:0]
	switch {
	case w.json && w.n == 0:
		w.begin()
		w.line = append(w.line, '\n')
	case w.json:
		w.line = append(w.line, ",\n"...)
	case w.n == 0:
		w.print("%s\n", paint(w.outColour, w.layout.heading(), bold))
	}
	if w.json {
		w.line = e.appendJSON(w.line, w.now())
	} else {
		w.line = append(w.layout.appendEntry(w.line, e), '\n')
	}
	w.n++
	if _, err := w.out.Write(w.line); err != nil {
		return said(exitFailed) // told when the rest is flushed
	}
	return nil
}

func (w *listWriter) begin() { w.print(`{"version":1,"table":"inet %s","bans":[`, tableName) }

func (w *listWriter) end() error {
	switch {
	case w.json && w.n == 0:
		w.begin()
		w.print("]}\n")
	case w.json:
		w.print("\n]}\n")
	case w.n == 0 && len(w.only) == 0:
		w.note("no ban")
	case w.n == 0:
		w.note("no ban of %s", texts(w.only))
	}
	return nil
}

func texts(targets []target) string {
	var all []string
	for _, t := range targets {
		all = append(all, t.text)
	}
	return strings.Join(all, ", ")
}

// selectBans streams the bans that cover one of the targets or lie within it; all bans, if there are no targets.
func selectBans(c *nftset.Conn, s *ruleset.State, only []target) iter.Seq2[entry, error] {
	return func(yield func(entry, error) bool) {
		bans := s.Bans(c)
		if len(only) > 0 && !slices.ContainsFunc(only, func(t target) bool { return !t.prefix.IsSingleIP() }) {
			bans = lookUp(c, s, only)
		}
		for b, err := range bans {
			if err != nil {
				yield(entry{}, err)
				return
			}
			more := true
			entries(b, func(e entry) {
				more = more && (!wanted(e.prefix, only) || yield(e, nil))
			})
			if !more {
				return
			}
		}
	}
}

func wanted(p netip.Prefix, only []target) bool {
	return len(only) == 0 || slices.ContainsFunc(only, func(t target) bool { return t.prefix.Overlaps(p) })
}

// lookUp is State.Bans for addresses, of which the kernel can be asked one by one.
func lookUp(c *nftset.Conn, s *ruleset.State, addrs []target) iter.Seq2[ruleset.Ban, error] {
	return func(yield func(ruleset.Ban, error) bool) {
		seen := make(map[ruleset.Ban]bool)
		for _, a := range addrs {
			st, err := s.Lookup(c, a.prefix.Addr())
			if err != nil {
				yield(ruleset.Ban{}, fmt.Errorf("look up %s: %w", a.text, err))
				return
			}
			for _, b := range longest(st.Bans) {
				key := ruleset.Ban{Interval: b.Interval, Set: b.Set}
				if seen[key] {
					continue
				}
				seen[key] = true
				if !yield(b, nil) {
					return
				}
			}
		}
	}
}

// longest returns the bans of one address, the longest tier first, without those of the tiers below it.
func longest(bans []ruleset.Ban) []ruleset.Ban {
	tier := 0
	return slices.DeleteFunc(slices.Clone(bans), func(b ruleset.Ban) bool {
		below := b.Tier > 0 && tier > 0
		tier = max(tier, b.Tier)
		return below
	})
}
