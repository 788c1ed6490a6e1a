package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/portmon/portmon/internal/fleet"
	"github.com/portmon/portmon/internal/fleet/wire"
	"github.com/portmon/portmon/internal/text"
	"github.com/portmon/portmon/ruleset"
)

func fleetCommand(p *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "fleet",
		Short: "share offences with other hosts, and bans",
		Long: `In a fleet, what offends on one host is banned on all, as its hub decides. The
hub is a program of its own, portmon-hub; the watcher takes part. What the fleet
bans is kept apart from the bans of this host, in sets of its own, and drops the
same packets. Never banned are: who is whitelisted or allowed, this host's own
addresses, gateways and resolvers, the hub, and the far ends of connections that
this host has opened. No ban is longer than max_bantime in [fleet] of the
configuration. Without the hub nothing changes but the sharing.`,
		Example: `  portmon fleet join portmon-fleet-1_…
  portmon fleet status`,
		Args: unknownCommand,
		RunE: noCommand,
	}
	sub := func(use, short, long, example string, args cobra.PositionalArgs, run func(args []string) error) *cobra.Command {
		c := &cobra.Command{
			Use: use, Short: short, Long: long, Example: example, Args: args, PreRunE: p.findState,
			RunE: func(_ *cobra.Command, args []string) error { return run(args) },
		}
		cmd.AddCommand(c)
		return c
	}
	sub("join TOKEN", "have this host belong to a fleet",
		`Join has the hub that the token is from know this host by a key that never
leaves it, and adds the sets of the fleet to the table. The token is what
portmon-hub invite prints, and works once; "-" reads it from standard input.`,
		`  portmon-hub invite web-1 | ssh root@web-1 portmon fleet join -`, oneToken, p.join)
	var asJSON bool
	status := sub("status", "show how this host fares in its fleet",
		`Status shows whether the hub can be reached and what it thinks of this host, how
many bans of the fleet are in force, how many were refused and why, and how many
offences of this host the fleet was told of. The exit code is 3 if this host
belongs to no fleet.`,
		`  portmon fleet status --json | jq .refused`, noArgs, func([]string) error { return p.fleetStatus(asJSON) })
	status.Flags().BoolVar(&asJSON, "json", false, "write JSON, version 1")
	sub("peers", "show which hosts bans are by",
		`Peers shows the hosts that the bans of the fleet are by, as far as the watcher
has seen them since it began: how many, and when they saw the last. The names
are those that the hub gave them.`,
		`  portmon fleet peers`, noArgs, func([]string) error { return p.fleetPeers() })
	sub("off", "lift all bans of the fleet",
		`Off lifts all bans of the fleet on this host, in one transaction, and puts none
from then on. The bans of this host stay. It goes on to tell the fleet of
offences.`,
		`  portmon fleet off`, noArgs, func([]string) error { return p.switchOff() }).PreRunE = p.lookForState
	sub("on", "put the bans of the fleet in force again",
		`On undoes portmon fleet off: the bans of the fleet are put in force again.`,
		`  portmon fleet on`, noArgs, func([]string) error { return p.switchOn() })
	sub("leave", "have this host belong to no fleet",
		`Leave forgets the fleet and the key of this host, and takes the sets of the
fleet out of the table, with its bans. The hub does not hear of it: revoke the
host there.`,
		`  portmon fleet leave`, noArgs, func([]string) error { return p.leaveFleet() })
	return cmd
}

func oneToken(cmd *cobra.Command, args []string) error {
	if len(args) != 1 {
		return usage(cmd, "expected one token, got %d arguments", len(args))
	}
	return nil
}

var errNoFleet = &hinted{errors.New("this host belongs to no fleet"), "`portmon fleet join TOKEN` has it belong to one"}

// member returns what is known of the fleet that this host belongs to.
func (p *cli) member() (*fleet.Member, error) {
	if p.state == "" {
		return nil, p.stateErr
	}
	m, err := fleet.Read(p.state)
	if err == nil && m == nil {
		err = errNoFleet
	}
	return m, err
}

func (p *cli) join(args []string) error {
	word := args[0]
	if word == "-" {
		line, err := bufio.NewReader(io.LimitReader(p.stdin, 16<<10)).ReadString('\n')
		if err != nil && !errors.Is(err, io.EOF) {
			return fmt.Errorf("read the token: %w", err)
		}
		word = line
	}
	token, err := wire.ParseToken(word)
	if err != nil {
		return &usageError{hinted{err, "`portmon-hub invite NAME` prints another one"}}
	}
	m, err := p.member()
	switch {
	case err != nil && !errors.Is(err, errNoFleet):
		return err
	case m != nil:
		return &hinted{fmt.Errorf("this host belongs to a fleet already, as %s", m.Host), "`portmon fleet leave` ends that"}
	}
	var answer wire.Answer
	err = p.changeMember("joined as "+token.Host, func() error {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		if answer, err = fleet.Join(ctx, token, p.state); errors.Is(err, fleet.ErrUnknownKey) {
			return &hinted{fmt.Errorf("join the fleet: %w", err),
				"the token was used, has expired or the host was revoked: `portmon-hub invite " + token.Host + "` prints another one"}
		} else if err != nil {
			return fmt.Errorf("join the fleet: %w", err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	p.print("joined as %s: %s, an offence on %d of them bans on all\n", token.Host, text.Plural(answer.Hosts, "host"), answer.Quorum)
	return p.noteWatcher()
}

func (p *cli) leaveFleet() error {
	m, err := p.member()
	if m == nil && errors.Is(err, errNoFleet) {
		return err
	} // a file that cannot be read goes as well
	err = p.changeMember("left the fleet", func() error {
		if err := fleet.Remove(p.state); err != nil {
			return err
		}
		p.readFleet() // so that it puts nothing any more
		_, err := p.flushFleet()
		return err
	})
	if err != nil {
		return err
	}
	p.print("left the fleet\n")
	if m != nil {
		p.hint("`portmon-hub revoke %s` at the hub has it forget this host", m.Host)
	}
	return nil
}

// changeMember changes whether this host belongs to a fleet, and has the table
// follow if it was what the configuration says. What can be in the way is found
// before anything changes; done says what has, if something is in the way after
// all.
func (p *cli) changeMember(done string, change func() error) error {
	conf, facts, err := p.loadConfig()
	if err != nil {
		return err
	}
	c, h, err := p.open()
	if err != nil {
		return err
	}
	defer c.Close()
	if err := p.checkWatcher(conf); err != nil {
		return err
	}
	if err := checkTrial(p.state); err != nil {
		return err
	}
	conf.Spec.Observe = h.Observe
	current := h.Exists
	if current {
		plan, err := ruleset.Prepare(c, conf.Spec)
		if err != nil {
			return err
		}
		current = plan.Current()
	}
	if err := change(); err != nil {
		return err
	}
	if !current {
		p.note("%s, but the table is not changed yet, as it is not what the configuration says", done)
		p.hint(runApply)
		p.readFleet()
		return nil
	}
	if conf.Spec.Fleet, err = p.fleetSize(); err == nil {
		err = p.apply(c, attempt{conf: conf, facts: facts})
	}
	if err != nil {
		p.readFleet()
		return &hinted{fmt.Errorf("%s, but the table is not changed yet: %w", done, err), runApply}
	}
	return nil
}

// readFleet has a running watcher know that something about the fleet has changed.
func (p *cli) readFleet() {
	w, _ := p.runningWatcher()
	if w == nil {
		return
	}
	defer w.Close()
	if err := w.ReadFleet(); err != nil {
		p.warn("the watcher goes on as before: %v", err)
	}
}

// flushFleet lifts all bans of the fleet, in one transaction, and returns how many
// there were.
func (p *cli) flushFleet() (lifted int, err error) {
	err = p.withTable(func(h *ruleset.Handle) (err error) {
		if lifted, err = h.CountFleet(); err == nil {
			err = h.FlushFleet()
		}
		return err
	})
	if errors.Is(err, errNoTable) {
		err = nil
	}
	return lifted, err
}

// fleetSize returns the size that the sets of a fleet are to have: 0 if the host
// belongs to none. Where that cannot be known they stay as they are.
func (p *cli) fleetSize() (uint32, error) {
	member, unknown := fleet.IsMember(p.state)
	switch {
	case member:
		return ruleset.FleetSize, nil
	case unknown == nil && p.state != "":
		return 0, nil
	}
	c, h, err := p.open()
	if err != nil {
		return 0, errors.Join(unknown, err)
	}
	defer c.Close()
	size := uint32(0)
	if set := h.Set(ruleset.RoleFleet.Set(netip.IPv4Unspecified(), 0)); set != nil {
		size = set.Size
	}
	if unknown != nil {
		unknown = fmt.Errorf("the table keeps its sets of the fleet as they are: %w", unknown)
	}
	return size, unknown
}

func (p *cli) switchOn() error {
	m, err := p.member()
	if err != nil {
		return err
	}
	m.Off = false
	if err := m.Write(p.state); err != nil {
		return err
	}
	p.readFleet()
	p.print("on: the bans of the fleet are put in force again\n")
	return p.noteWatcher()
}

// switchOff lifts the bans of the fleet whatever else is wrong.
func (p *cli) switchOff() error {
	m, failed := p.member()
	if errors.Is(failed, errNoFleet) {
		return failed
	}
	if failed == nil {
		m.Off = true
		failed = m.Write(p.state)
	}
	lifted := 0
	if w, s := p.runningWatcher(); w != nil { // which lifts them
		if s.Fleet != nil {
			lifted = s.Fleet.Bans
		}
		w.Close()
		p.readFleet()
	}
	rest, err := p.flushFleet()
	if err != nil {
		return fmt.Errorf("lift the bans of the fleet: %w", err)
	}
	p.print("off: lifted %s of the fleet\n", text.Plural(max(lifted, rest), "ban"))
	if failed != nil {
		return fmt.Errorf("they come back, as it cannot be kept that the fleet is off: %w", failed)
	}
	return nil
}

// noteWatcher notes that nothing is shared without a watcher.
func (p *cli) noteWatcher() error {
	w, _ := p.runningWatcher()
	if w == nil {
		p.note("the watcher takes part in the fleet, and is not running")
		return nil
	}
	w.Close()
	return nil
}

// fleetReport is what fleet status has to say.
type fleetReport struct {
	Version int      `json:"version"`
	Hubs    []string `json:"hubs"`
	Watched bool     `json:"watched"`
	*fleet.Status
}

func (p *cli) askFleet() (r fleetReport, err error) {
	m, err := p.member()
	if err != nil {
		if errors.Is(err, errNoFleet) {
			p.fail(err)
			err = exitCodeError(exitNotInForce)
		}
		return r, err
	}
	r = fleetReport{Version: 1, Hubs: m.URLs, Status: &fleet.Status{Host: m.Host, Off: m.Off}}
	if w, s := p.runningWatcher(); w != nil {
		w.Close()
		if r.Watched = true; s.Fleet != nil {
			r.Status = s.Fleet
		}
	}
	return r, nil
}

func (p *cli) fleetStatus(asJSON bool) error {
	r, err := p.askFleet()
	switch {
	case err != nil:
		return err
	case asJSON:
		return p.json(r)
	}
	p.print("%s, in the fleet of %s\n", r.Host, strings.Join(r.Hubs, ", "))
	if !r.Watched {
		p.print("  the watcher is not running: nothing is shared\n")
		return nil
	}
	link := paint(p.outColour, "not connected", red)
	if r.Connected {
		link = paint(p.outColour, "connected", green)
	}
	if !r.Since.IsZero() {
		link += " since " + r.Since.In(p.now().Location()).Format(clockLayout)
	}
	p.print("  %s; %s, an offence on %d of them bans on all\n", link, text.Plural(r.Hosts, "host"), r.Quorum)
	if r.Error != "" {
		p.print("  %s\n", text.Printable(r.Error))
	}
	if r.Standing != "" && r.Standing != wire.Member {
		p.print("  %s: what this host says does not count: %s\n", paint(p.outColour, string(r.Standing), red), text.Printable(r.Reason))
	}
	if r.Off {
		p.print("  off: no ban of the fleet is in force here\n")
	} else {
		p.print("  %s of the fleet in force\n", text.Plural(r.Bans, "ban"))
	}
	for _, why := range slices.Sorted(maps.Keys(r.Refused)) {
		p.print("  refused %s: %s%s\n", text.Plural(r.Refused[why], "ban"), text.Printable(why), r.refused(why))
	}
	p.print("  told of %s; %d wait, %d found no room\n", text.Plural(r.Shared, "offence"), r.Queued, r.Dropped)
	return nil
}

// refused names what was refused for a reason: ": 198.51.100.1, 2001:db8::/64".
func (r *fleetReport) refused(why string) string {
	names, more := []string(nil), r.Refused[why]
	for _, refusal := range r.Refusals {
		if refusal.Reason == why && len(names) < 8 {
			names, more = append(names, text.Prefix(refusal.Source)), more-1
		}
	}
	switch {
	case names == nil:
		return ""
	case more > 0:
		names = append(names, "…")
	}
	return ": " + strings.Join(names, ", ")
}

func (p *cli) fleetPeers() error {
	r, err := p.askFleet()
	if err != nil {
		return err
	}
	if len(r.Peers) == 0 {
		p.note("no bans by other hosts yet")
		return nil
	}
	p.table(func(yield func([]string) bool) {
		ok := yield([]string{"HOST", "BANS", "LAST"})
		for i := 0; ok && i < len(r.Peers); i++ {
			peer := &r.Peers[i]
			ok = yield([]string{text.Printable(peer.Host), fmt.Sprint(peer.Bans), peer.Last.In(p.now().Location()).Format(clockLayout)})
		}
	}, p.columns)
	return nil
}

// shareBans has the watcher tell the fleet of bans by hand.
func (p *cli) shareBans(put []ruleset.Record) error {
	w, _ := p.runningWatcher()
	if w == nil {
		return errors.New("banned here, but not shared: no watcher runs, which takes part in the fleet")
	}
	defer w.Close()
	sources := make([]netip.Prefix, len(put))
	for i := range put {
		sources[i] = put[i].Source
	}
	shared, err := w.Share(sources...)
	if err != nil {
		return fmt.Errorf("banned here, but not shared: %w", err)
	}
	if left := len(sources) - len(shared); left > 0 {
		p.note("%s banned here alone: a fleet bans single public addresses, and a /64 of IPv6", text.Plural(left, "source"))
	}
	p.print("told the fleet of %s\n", text.Plural(len(shared), "source"))
	return nil
}
