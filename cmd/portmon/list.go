package main

import (
	"iter"

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

Of a ban that a trap made, the last column tells the port and the number of
offences, as far as a watcher knows of them.

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
		n, err := p.countListed(c, s, o.only)
		if err == nil {
			p.print("%d\n", n)
		}
		return err
	}
	k := p.knowledgeOf(s, o.only)
	bans := func(yield func(entry, error) bool) {
		for e, err := range p.selectBans(c, s, o.only) {
			k.about(&e)
			if !yield(e, err) {
				return
			}
		}
	}
	return p.writeList(o, expected(s), bans)
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
	w.layout.reasons = r.causes
	for i := range r.all {
		e := r.entry(&r.all[i])
		if err := w.write(&e); err != nil {
			return err
		}
	}
	return w.end()
}
