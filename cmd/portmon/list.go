package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"iter"
	"net/netip"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/portmon/portmon/nftset"
	"github.com/portmon/portmon/ruleset"
)

type listOptions struct {
	json, count bool
	only        []target
}

func listCommand(p *cli) *cobra.Command {
	var o listOptions
	cmd := &cobra.Command{
		Use:   "list [ADDR|PREFIX...]",
		Short: "list bans",
		Long: `List prints all bans, the newest first: the address or prefix, the tier of the
ladder, the cause, how old the ban is and how much of it is left. The cause is
trap, scan, subnet (many of its sources offended), hand, or other (another
program). The last column has the comment of the ban or, as far as portmon watch
or portmon save have noted it, the last port and the number of offences.

With arguments, it prints only bans that cover one of them or lie within it. It
is not an error if there are none. With --json the bans are not sorted.`,
		Example: `  # the bans in a network, and the five longest bans of all
  portmon list 203.0.113.0/24
  portmon list --json | jq '.bans | sort_by(-.timeout_seconds)[:5]'`,
		ValidArgsFunction: p.completeBanned,
		Args:              func(cmd *cobra.Command, args []string) error { return noTwoOf(cmd, "count", "json") },
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if o.only, err = parseTargets(cmd, args); err != nil {
				return err
			}
			return p.withTable(func(_ *nftset.Conn, h *ruleset.Handle) error {
				p.warnIdle(h)
				return p.list(h, o)
			})
		},
	}
	cmd.Flags().BoolVar(&o.json, "json", false, "write JSON, version 1")
	cmd.Flags().BoolVar(&o.count, "count", false, "write only the number of bans")
	return cmd
}

func (p *cli) list(h *ruleset.Handle, o listOptions) error {
	// There may be a million bans, and most of what is allocated for them is
	// garbage at once.
	defer debug.SetGCPercent(debug.SetGCPercent(10))
	if o.count {
		n := 0
		for _, err := range p.bans(h, nil, o.only) {
			if err != nil {
				return err
			}
			n++
		}
		p.print("%d\n", n)
		return nil
	}
	k, err := p.knowledgeOf(h, o.only)
	if err != nil {
		return err
	}
	if o.json {
		return p.listJSON(p.bans(h, k, o.only))
	}
	var all []ban
	for b, err := range p.bans(h, k, o.only) {
		if err != nil {
			return err
		}
		all = append(all, b)
	}
	if len(all) == 0 {
		p.note("no bans%s", of(o.only))
		return nil
	}
	slices.SortFunc(all, newestFirst)
	p.listTable(all)
	return nil
}

// bans streams the bans of a table that overlap one of the targets, all of them
// if there is none. One of a range that is not a prefix becomes several.
func (p *cli) bans(h *ruleset.Handle, k *knowledge, only []target) iter.Seq2[ban, error] {
	entries := h.Bans()
	if len(only) > 0 {
		var prefixes []netip.Prefix
		for _, t := range only {
			prefixes = append(prefixes, t.prefix)
		}
		entries = h.BansIn(prefixes...)
	}
	return func(yield func(ban, error) bool) {
		for e, err := range entries {
			if err != nil {
				yield(ban{}, err)
				return
			}
			now := p.now()
			for _, prefix := range e.Prefixes() {
				overlaps := func(t target) bool { return t.prefix.Overlaps(prefix) }
				if len(only) > 0 && !slices.ContainsFunc(only, overlaps) {
					continue
				}
				if !yield(k.explain(newBan(e, prefix, now)), nil) {
					return
				}
			}
		}
	}
}

// listJSON writes bans as they come, one on a line.
func (p *cli) listJSON(bans iter.Seq2[ban, error]) error {
	head := `{"version":1,"table":"inet ` + tableName + `","bans":[`
	separator := "\n"
	p.print("%s", head)
	var line bytes.Buffer
	enc := json.NewEncoder(&line)
	enc.SetEscapeHTML(false)
	for b, err := range bans {
		if err != nil {
			return err
		}
		line.Reset()
		if err := enc.Encode(b.view()); err != nil {
			return err
		}
		if _, err := fmt.Fprintf(p.out, "%s%s", separator, bytes.TrimSpace(line.Bytes())); err != nil {
			return said(exitFailed) // reported when the rest is flushed
		}
		separator = ",\n"
	}
	if separator != "\n" {
		p.print("\n")
	}
	p.print("]}\n")
	return nil
}

// of says which targets something is about.
func of(only []target) string {
	if len(only) == 0 {
		return ""
	}
	var texts []string
	for _, t := range only {
		texts = append(texts, t.text)
	}
	return " of " + strings.Join(slices.Compact(texts), ", ")
}

// newestFirst puts bans of unknown age last.
func newestFirst(a, b ban) int {
	sinceA, okA := a.since()
	sinceB, okB := b.since()
	switch {
	case okA && okB && !sinceA.Equal(sinceB):
		return sinceB.Compare(sinceA)
	case okA != okB && okA:
		return -1
	case okA != okB:
		return 1
	}
	return a.prefix.Compare(b.prefix)
}

// listTable writes bans in columns. The last is left out if there are no
// comments.
func (p *cli) listTable(all []ban) {
	heading := []string{"ADDRESS", "TIER", "CAUSE", "AGE", "LEFT", ""}
	if slices.ContainsFunc(all, func(b ban) bool { return b.comment() != "" }) {
		heading[5] = "COMMENT"
	}
	p.table(func(yield func([]string) bool) {
		if !yield(heading) {
			return
		}
		for i := range all {
			if !yield(all[i].cells()) {
				return
			}
		}
	}, p.columns)
}
