package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/internal/book"
	"github.com/portmon/portmon/internal/events"
	"github.com/portmon/portmon/internal/geo"
	"github.com/portmon/portmon/internal/text"
	"github.com/portmon/portmon/internal/top"
	"github.com/portmon/portmon/internal/watch"
	"github.com/portmon/portmon/ruleset"
)

func topCommand(p *cli) *cobra.Command {
	return &cobra.Command{
		Use:   "top",
		Short: "show what happens, as it happens",
		Long: `Top shows live what the table does: packets dropped per second, how full the
sets are, and bans as they are made, or the longest bans. The keys are shown at
the bottom: portmon why explains the selected source, and, after confirmation,
portmon ban, unban or allow acts on it. Ctrl-Z gives the terminal back until fg.

Events come from the watcher. If there was none from the start, top listens to
the log group of the table itself, and leaves it to a watcher that starts; it
cannot while it is stopped, so Ctrl-Z does nothing then. If another program
listens there, top only sees the bans that it finds in the sets every few
seconds.`,
		Example: `  # what happens, or without a terminal what has happened
  test -t 1 && portmon top || portmon status`,
		Args:    noArgs,
		PreRunE: p.lookForState,
		RunE: func(*cobra.Command, []string) error {
			keys, _ := p.stdin.(io.Writer) // a file is both
			if p.columns == 0 || p.width(keys) == 0 {
				return &hinted{errors.New("top needs a terminal"), "`portmon status`, `portmon list` and `portmon events` do not"}
			}
			if p.getenv("TERM") == "dumb" {
				return &hinted{errors.New("top cannot draw on a terminal of TERM=dumb"), "set TERM to what it is, such as xterm"}
			}
			if err := p.withTable(func(*ruleset.Handle) error { return nil }); err != nil {
				return err
			}
			host, _ := os.Hostname() // top can do without
			screen := top.New(top.Options{
				Host: text.Printable(host), Colour: p.outColour, Unicode: p.unicode(), Zone: p.now().Location(), Do: p.doForTop,
				AllowFor: allowTime, MaySuspend: shellWaits(),
			})
			places := p.places()
			defer places.Close()
			return p.screen(screen, p.stdin, func(ctx context.Context, show func(any)) { p.feedTop(ctx, places, show) })
		},
	}
}

// unicode reports whether the terminal shows characters that are not ASCII, as
// the environment says.
func (p *cli) unicode() bool {
	locale := strings.ToLower(cmp.Or(p.getenv("LC_ALL"), p.getenv("LC_CTYPE"), p.getenv("LANG")))
	return strings.Contains(locale, "utf-8") || strings.Contains(locale, "utf8")
}

// shellWaits reports whether a process beside ours, such as a shell with job
// control, would continue us if we stopped: the parent of our process group is of
// another group of the session.
func shellWaits() bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", unix.Getpgrp()))
	after := stat[bytes.LastIndexByte(stat, ')')+1:] // the name before may hold anything
	var state string
	var parent int
	if _, scanErr := fmt.Sscan(string(after), &state, &parent); err != nil || scanErr != nil {
		return false
	}
	session, err1 := unix.Getsid(parent)
	own, err2 := unix.Getsid(0)
	group, err3 := unix.Getpgid(parent)
	return errors.Join(err1, err2, err3) == nil && session == own && group != unix.Getpgrp()
}

// doForTop runs one of our commands on a source, and returns its output.
func (p *cli) doForTop(command string, source netip.Prefix) top.Result {
	var out bytes.Buffer
	e := p.env
	e.stdin, e.stdout, e.stderr = strings.NewReader(""), &out, &out
	target := text.Prefix(source)
	if command == "why" {
		target = source.Addr().String()
	}
	args := []string{command, target}
	if p.configFile != "" {
		args = append(args, "--config", p.configFile)
	}
	run(e, args)
	return top.Result{Title: "portmon " + strings.Join(args[:2], " "), Text: out.String()}
}

// longestBans is how many bans top shows. newestBans is how many of those made
// since the last time it shows as events, if there is no other source of
// events.
const (
	longestBans = 1000
	newestBans  = 200
)

// readBans reads the longest bans, and those that were made after a time,
// unless that is zero.
func (p *cli) readBans(h *ruleset.Handle, places *geo.DB, after time.Time) (b top.Bans, err error) {
	longer := func(x, y top.Ban) int {
		switch {
		case x.Until.Equal(y.Until):
			return text.ComparePrefixes(x.Prefix, y.Prefix)
		case x.Until.IsZero():
			return -1
		case y.Until.IsZero():
			return 1
		}
		return y.Until.Compare(x.Until)
	}
	b.Time = p.now()
	for e, err := range h.Bans() {
		if err != nil {
			return b, err
		}
		now := p.now()
		for _, prefix := range e.Prefixes() {
			v := newBan(e, prefix, now)
			shown := top.Ban{Prefix: prefix, Tier: v.Step, Cause: v.Cause.String(), Since: v.since(), Remark: v.remark()}
			if v.Remaining > 0 {
				shown.Until = now.Add(v.Remaining)
			}
			if b.Total++; !after.IsZero() && shown.Since.After(after) && len(b.New) < newestBans {
				n := watch.News{
					Kind: watch.KindOf(v.Cause, v.Step), Source: prefix, Place: places.Of(prefix), Cause: v.Cause, Step: v.Step,
					Comment: v.Comment, Observed: h.Observe,
				}
				b.New = append(b.New, events.New(&n, book.Clock{Wall: shown.Since}))
			}
			if b.Longest = append(b.Longest, shown); len(b.Longest) >= 2*longestBans {
				slices.SortFunc(b.Longest, longer)
				b.Longest = b.Longest[:longestBans]
			}
		}
	}
	slices.SortFunc(b.Longest, longer)
	b.Longest = b.Longest[:min(len(b.Longest), longestBans)]
	for i := range b.Longest {
		b.Longest[i].Place = places.Of(b.Longest[i].Prefix)
	}
	return b, nil
}
