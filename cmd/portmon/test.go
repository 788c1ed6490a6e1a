package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os/signal"
	"slices"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/internal/drill"
	"github.com/portmon/portmon/internal/route"
	"github.com/portmon/portmon/internal/text"
	"github.com/portmon/portmon/nftset"
	"github.com/portmon/portmon/ruleset"
)

func testCommand(p *cli) *cobra.Command {
	return &cobra.Command{
		Use:   "test",
		Short: "hold a fire drill: have a stranger touch a trap, and be banned",
		Long: `Test sends real packets through the packet path, and reports what becomes of
them: a stranger opens a connection to this host, touches a trap port, is
banned, is dropped, is unbanned, and is served again. It takes two seconds.

The stranger is a network namespace that is made for it, with an interface of
its own and addresses that nobody has, from 198.18.0.0/15 and 2001:db8::/32 or
others that are reserved. Nobody else is concerned, and nothing is left of it
but what was counted. A running watcher neither remembers nor reports it.

The exit code is 0 if all went as it should, 3 if there is no table or it is not
in force, and 1 if something went wrong, or if the drill cannot be held: then
what is in the way is said.`,
		Example: `  # is the table, with all that is on this host besides, doing its work?
  portmon test || echo "this host is not protected"`,
		Args:    noArgs,
		PreRunE: p.lookForState,
		RunE: func(*cobra.Command, []string) error {
			return p.withTable(func(h *ruleset.Handle) error {
				if why := h.Idle(); why != "" {
					p.warnIdle(h)
					return exitCodeError(exitNotInForce)
				}
				ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
				defer stop()
				return p.test(ctx, h)
			})
		},
	}
}

// test holds a drill with each family that the host speaks.
func (p *cli) test(ctx context.Context, h *ruleset.Handle) (err error) {
	stranger, err := drill.New(ctx)
	switch {
	case errors.Is(err, unix.EPERM):
		return &hinted{fmt.Errorf("no drill: %w", err), "run as root, or with CAP_SYS_ADMIN and CAP_NET_ADMIN"}
	case err != nil:
		return fmt.Errorf("no drill: %w", err)
	}
	var errs []error
	defer func() {
		if fault := stranger.Close(); fault != nil {
			errs = append(errs, fmt.Errorf("remove %s: %w", stranger.Dev, fault))
		}
		err = p.failEach(errs)
	}()
	before := h.Counters
	held := 0
	for _, family := range []struct {
		name   string
		ranges []netip.Prefix
	}{
		{"IPv4", []netip.Prefix{
			netip.MustParsePrefix("198.19.255.0/24"), netip.MustParsePrefix("203.0.113.0/24"), netip.MustParsePrefix("192.0.2.0/24"),
		}},
		{"IPv6", []netip.Prefix{
			netip.MustParsePrefix("2001:db8:7e57::/48"), netip.MustParsePrefix("3fff:7e5:7e57::/48"),
		}},
	} {
		d := familyDrill{p, h, stranger, netip.Addr{}, netip.Addr{}}
		err := d.connect(family.ranges)
		if errors.Is(err, drill.ErrNoFamily) {
			p.note("%s: %v", family.name, err)
			continue
		}
		if err == nil {
			p.print("%s: from %s by %s\n", family.name, d.from, stranger.Dev)
			err = d.hold(ctx)
		}
		if held++; errors.Is(err, context.Canceled) {
			errs = append(errs, errors.New("interrupted"))
			break
		} else if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", family.name, err))
		}
	}
	if held == 0 {
		errs = append(errs, errors.New("no drill: this host speaks neither IPv4 nor IPv6"))
	}
	if err := h.Refresh(); err != nil {
		errs = append(errs, err)
	}
	p.printCounted(before, h.Counters)
	if len(errs) == 0 {
		p.print("%s\n", paint(p.outColour, "passed", green))
	}
	return nil
}

// printCounted writes which counters have grown.
func (p *cli) printCounted(before, after map[string]ruleset.Counter) {
	rows := [][]string{{"COUNTER", "BEFORE", "AFTER"}}
	for _, c := range counterMeaning {
		if n := after[c.name].Packets; n != before[c.name].Packets {
			rows = append(rows, []string{c.name, fmt.Sprint(before[c.name].Packets), fmt.Sprint(n)})
		}
	}
	if len(rows) > 1 {
		p.table(slices.Values(rows), 0)
	}
}

// familyDrill is a drill with one family.
type familyDrill struct {
	*cli
	h        *ruleset.Handle
	stranger *drill.Stranger
	to, from netip.Addr // of this host, and of the stranger
}

// connect gives both an address of the first range that is free. They are in
// different networks, so that the stranger is banned as strangers are.
func (d *familyDrill) connect(ranges []netip.Prefix) error {
	for _, r := range ranges {
		b, n := r.Addr().AsSlice(), byte(d.stranger.Number)
		last := len(b) - 1
		to, from := slices.Clone(b), slices.Clone(b)
		if len(b) == 4 {
			to[last], from[last] = 4*n+129, 4*n+130
		} else {
			to[7], from[7], to[last], from[last] = 2*n, 2*n+1, 1, 2
		}
		d.to, _ = netip.AddrFromSlice(to)
		d.from, _ = netip.AddrFromSlice(from)
		free := true
		for _, a := range []netip.Addr{d.to, d.from} {
			one, err := route.IsFree(a)
			if err != nil {
				return err
			}
			free = free && one
		}
		if free {
			if err := d.stranger.Connect(d.to, d.from); err != nil {
				return err
			}
			return d.awaitOwn()
		}
	}
	return fmt.Errorf("no drill: this host has routes to all addresses that are reserved for tests, such as %s", d.from)
}

// awaitOwn returns when the address of this host is one: that of IPv6 the kernel
// makes so beside the call that adds it.
func (d *familyDrill) awaitOwn() error {
	for begin := time.Now(); ; time.Sleep(time.Millisecond) {
		back, err := route.Back(d.to, "")
		if err != nil || back.Own || time.Since(begin) > longPatience {
			return err
		}
	}
}

// How long the stranger waits for an answer that is to come, and for one that is
// not. The kernel does all of it at once.
const longPatience, shortPatience = time.Second, 300 * time.Millisecond

// hold holds the drill, and leaves nothing behind.
func (d *familyDrill) hold(ctx context.Context) (err error) {
	service, err := d.serve()
	if err != nil {
		return err
	}
	defer service.Close()
	port := service.Addr().(*net.TCPAddr).AddrPort().Port()
	if err := d.cleanUp(port); err != nil { // what a drill that was killed has left
		return err
	}
	trap, err := d.findTrap()
	if err != nil {
		return err
	}
	if w, _ := d.runningWatcher(); w != nil {
		err := w.Drilling(d.sources()...)
		w.Close()
		if err != nil {
			d.warn("the watcher takes this for real: %v", err)
		}
	} else if d.stateErr != nil {
		d.warn("a watcher would take this for real, and cannot be told: %v", d.stateErr)
	}
	defer func() { err = errors.Join(err, d.cleanUp(port)) }()

	call := func(port uint16, patience time.Duration) (drill.Answer, error) {
		return d.stranger.Call(ctx, d.from, netip.AddrPortFrom(d.to, port), patience)
	}
	say := func(what, result string) { d.print("  %-28s%s\n", what, result) }
	usual, err := call(port, longPatience)
	if err != nil {
		return err
	}
	say("connects to a service", string(usual))
	if usual != drill.Accepted {
		d.warn("connections from %s by %s do not come through: another table may drop them", d.from, d.stranger.Dev)
	}
	would, passes := "", drill.Nothing // what becomes of the banned
	if d.h.Observe {
		would, passes = "would be ", usual
	}
	touches, _ := d.h.Retries()
	for range touches {
		if _, err := call(trap, shortPatience); err != nil {
			return err
		}
	}
	ban, err := d.awaitBan(ctx)
	if err != nil {
		return fmt.Errorf("a SYN to the trap port %d bans nobody: %w", trap, err)
	}
	say(fmt.Sprintf("touches trap port %d", trap), fmt.Sprintf("%sbanned %s (tier %d)", would, banTime(ban.Timeout), ban.Step))
	dropped := d.h.Counters[ruleset.CounterDropped].Packets
	answer, err := call(port, shortPatience)
	if err := errors.Join(err, d.h.Refresh()); err != nil {
		return err
	}
	counted := d.h.Counters[ruleset.CounterDropped].Packets > dropped
	if counted && answer == passes {
		say("connects again", fmt.Sprintf("%s: %sdropped", answer, would))
	} else {
		say("connects again", string(answer))
	}
	switch {
	case answer != passes && !d.h.Observe:
		return errors.New("packets of a banned source pass")
	case answer != passes || !counted && !d.h.Observe:
		return errors.New("packets of a banned source are dropped, but not by this table")
	case !counted:
		return errors.New("packets of a source that would be banned are not counted")
	}
	if err := d.cleanUp(port); err != nil {
		return err
	}
	if answer, err = call(port, longPatience); err != nil {
		return err
	}
	say("is unbanned, connects again", string(answer))
	if answer != usual {
		return errors.New("what was unbanned is not served")
	}
	return nil
}

// serve has a program, which is this one, listen at this host's address.
func (d *familyDrill) serve() (net.Listener, error) {
	var config net.ListenConfig
	config.SetMultipathTCP(false)
	l, err := config.Listen(context.Background(), "tcp", netip.AddrPortFrom(d.to, 0).String())
	if err != nil {
		return nil, err
	}
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				io.Copy(io.Discard, conn) // until the stranger hangs up
				conn.Close()
			}()
		}
	}()
	return l, nil
}

// sources are the prefixes by which the stranger can be banned.
func (d *familyDrill) sources() []netip.Prefix {
	one := netip.PrefixFrom(d.from, d.from.BitLen())
	if d.from.Is4() {
		return []netip.Prefix{one}
	}
	return []netip.Prefix{one, netip.PrefixFrom(d.from, 64).Masked()}
}

// findTrap returns a trap port that would ban the stranger, by the rules that
// the kernel holds, or says why there is none.
func (d *familyDrill) findTrap() (uint16, error) {
	traps, err := d.h.Traps()
	if err != nil {
		return 0, err
	}
	const most = 32
	tried, why := 0, errors.New("the table has no TCP trap ports")
	for _, iv := range traps.TCP {
		for port := int(iv.From.Port()); port <= int(iv.To.Port()) && tried < most; port++ {
			tried++
			a, err := d.follow(d.h, &answer{}, query{from: d.from, to: d.to, port: uint16(port), proto: "tcp", iif: d.stranger.Dev})
			if err != nil {
				return 0, err
			}
			if a.Because == ruleset.CauseTrap.String() || a.Because == settled[ruleset.AskRetries][0] {
				return uint16(port), nil
			}
			if tried == 1 {
				why = errors.New(a.Text)
			}
		}
	}
	return 0, fmt.Errorf("no drill: a SYN from %s to a trap port would ban nobody: %w", d.from, why)
}

// awaitBan returns the ban of the stranger.
func (d *familyDrill) awaitBan(ctx context.Context) (ruleset.Entry, error) {
	var none ruleset.Entry
	var bans []ruleset.Entry
	before := d.h.Counters
	err := drill.Await(ctx, longPatience, func() (bool, error) {
		st, err := d.h.Lookup(d.from)
		bans = st.Bans
		return len(bans) > 0, err
	})
	if err := errors.Join(d.h.Refresh(), ctx.Err()); err != nil {
		return none, err
	}
	if errors.Is(err, context.DeadlineExceeded) {
		for _, c := range counterMeaning {
			if d.h.Counters[c.name].Packets > before[c.name].Packets {
				return none, fmt.Errorf("it was counted in %s: %s", c.name, c.what)
			}
		}
		return none, errors.New("it does not come to the table: another one, or a filter of the interface, drops it before")
	}
	if err != nil {
		return none, err
	}
	return bans[0], nil
}

// cleanUp lifts the bans of the stranger, and forgets it.
func (d *familyDrill) cleanUp(port uint16) error {
	var l lifting
	for _, source := range d.sources() {
		l.alone = append(l.alone, nftset.Prefix(source).Interval)
	}
	lifted, _, err := l.lift(d.h)
	if err == nil {
		err = d.h.ForgetVisit(d.from, netip.AddrPortFrom(d.to, port))
	}
	if err == nil && len(lifted) > 0 {
		err = d.forget(d.h, l, lifted)
	}
	if err != nil {
		return fmt.Errorf("%s may still be banned: %w", text.Prefix(d.sources()[0]), err)
	}
	return nil
}
