package daemon

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"time"

	"github.com/portmon/portmon/internal/book"
	"github.com/portmon/portmon/internal/config"
	"github.com/portmon/portmon/internal/fleet"
	"github.com/portmon/portmon/internal/fleet/wire"
	"github.com/portmon/portmon/internal/watch"
	"github.com/portmon/portmon/ruleset"
)

// fleetPatience is how long to wait for the part in a fleet to end, which waits
// for the kernel and the disk alone.
const fleetPatience = 2 * time.Second

// readFleet takes part in the fleet that the host belongs to by now.
func (d *daemon) readFleet(parts context.Context) error {
	d.reloading.Lock()
	defer d.reloading.Unlock()
	return d.startFleet(parts, d.current)
}

// startFleet takes part in the fleet that the host belongs to, if it does, in
// place of what was before. When it returns and the host is switched off, or has
// left, no ban of the fleet is in force.
func (d *daemon) startFleet(parts context.Context, conf *config.Config) error {
	d.joining.Lock()
	defer d.joining.Unlock()
	d.mu.Lock()
	client, stop := d.fleet, d.stopFleet
	d.mu.Unlock()
	m, err := fleet.ReadWithKey(conf.Watch.State)
	if err != nil {
		err = fmt.Errorf("the part in the fleet stays as it is: %w", err)
		d.journal.Warn(err.Error())
		return err
	}
	if client != nil && client.TakesPart(m, conf.Watch.State, conf.FleetMaxBan) {
		client.Recheck() // what the table exempts may have changed
		if err := (fleetTable{d}).open(func(*ruleset.Handle) error { return nil }); err != nil && !errors.Is(err, os.ErrNotExist) {
			d.journal.Warn(fmt.Sprintf("look for the bans of the fleet: %v", err))
		}
		return nil
	}
	stop()
	if client != nil && m == nil || m != nil && (m.Off || conf.FleetMaxBan == 0) {
		if err := (fleetTable{d}).open((*ruleset.Handle).FlushFleet); err != nil && !errors.Is(err, os.ErrNotExist) {
			d.journal.Warn(fmt.Sprintf("lift the bans of the fleet: %v", err))
		}
	}
	client, stop = nil, func() {}
	if m != nil {
		client = fleet.New(fleet.Config{
			Member: m, State: conf.Watch.State, MaxBan: conf.FleetMaxBan, Version: d.config.Version, Table: fleetTable{d},
			Observe: func() bool { observes, err := d.observes(); return observes || err != nil }, Hurry: func() func() { return collectAt(collectLater) }, Info: d.journal.Info, Warn: d.journal.Warn,
		})
		ctx, cancel := context.WithCancel(parts)
		ended := make(chan struct{})
		d.parts.Go(func() {
			defer close(ended)
			client.Run(ctx)
		})
		stop = func() {
			cancel()
			select {
			case <-ended:
			case <-time.After(fleetPatience):
			}
		}
	}
	d.mu.Lock()
	d.fleet, d.stopFleet = client, stop
	d.mu.Unlock()
	return nil
}

// recheckFleet puts what nothing is in the way of any more.
func (d *daemon) recheckFleet() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.fleet != nil {
		d.fleet.Recheck()
	}
}

// observes reports whether the table drops nothing.
func (d *daemon) observes() (bool, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	s, err := d.watcher.Stats(ctx)
	if err != nil {
		return false, fmt.Errorf("ask whether the table observes: %w", err)
	}
	return s.Observing, nil
}

// share tells the fleet what has offended here, and has what the table may have
// lost put anew. It is called with d.mu held.
func (d *daemon) share(news []watch.News, now book.Clock) {
	if d.fleet == nil {
		return
	}
	for i := range news {
		switch n := &news[i]; n.Kind {
		case watch.Banned, watch.Escalated:
			cause := map[ruleset.Cause]wire.Cause{ruleset.CauseTrap: wire.Trap, ruleset.CauseScan: wire.Scan}[n.Cause]
			if cause == "" || n.Observed {
				continue // by another program, or of no consequence
			}
			at := now.Wall
			if n.At != 0 {
				at = now.Time(n.At)
			}
			d.fleet.Share(wire.Sighting{Source: n.Source, Step: max(1, n.Step), Cause: cause, Proto: n.Proto, Port: n.Port, At: at})
		case watch.TableGone, watch.Repaired, watch.Restored:
			d.fleet.Resync()
		}
	}
}

// shareByHand tells the fleet of sources that were banned by hand.
func (d *daemon) shareByHand(sources []netip.Prefix) (shared []netip.Prefix, err error) {
	d.mu.Lock()
	client := d.fleet
	d.mu.Unlock()
	if client == nil {
		return nil, errors.New("this host belongs to no fleet")
	}
	switch observes, err := d.observes(); {
	case err != nil: // what a table that observes bans must not be shared
		return nil, err
	case observes:
		return nil, errors.New("the table observes, and shares nothing")
	}
	for _, p := range sources {
		if client.Share(wire.Sighting{Source: p, Step: 1, Cause: wire.Hand, At: time.Now()}) {
			shared = append(shared, p)
		}
	}
	return shared, nil
}

// fleetTable is where the bans of the fleet are put. It changes the kernel like any
// other program, by a connection for each change.
type fleetTable struct{ *daemon }

// open calls f with the table. If that is another one than before, all bans are put
// anew.
func (t fleetTable) open(f func(h *ruleset.Handle) error) error {
	conn, err := t.config.Dial()
	if err != nil {
		return err
	}
	defer conn.Close()
	h, err := ruleset.Open(conn, t.tableName())
	if err != nil {
		return err
	}
	if before := t.fleetIn.Swap(h.Handle); before != 0 && before != h.Handle {
		t.mu.Lock()
		client := t.fleet
		t.mu.Unlock()
		if client != nil {
			client.Resync()
		}
	}
	return f(h)
}

// PutFleet implements [fleet.Table].
func (t fleetTable) PutFleet(bans []ruleset.Record) (refused []error, full int, err error) {
	err = t.open(func(h *ruleset.Handle) error {
		sources := make([]netip.Prefix, len(bans))
		for i := range bans {
			sources[i] = bans[i].Source
		}
		if refused, err = h.CheckFleet(sources...); err != nil {
			return err
		}
		put := make([]ruleset.Record, 0, len(bans))
		for i := range bans {
			if refused == nil || refused[i] == nil {
				put = append(put, bans[i])
			}
		}
		full, err = h.PutFleet(put)
		return err
	})
	return refused, full, err
}

// LiftFleet implements [fleet.Table].
func (t fleetTable) LiftFleet(sources ...netip.Prefix) error {
	return t.open(func(h *ruleset.Handle) error { return h.LiftFleet(sources...) })
}

// CountFleet implements [fleet.Table].
func (t fleetTable) CountFleet() (n int, err error) {
	err = t.open(func(h *ruleset.Handle) error {
		n, err = h.CountFleet()
		return err
	})
	return n, err
}

// fleetStatus returns how the host fares in its fleet, nil if it belongs to none.
// It may ask the kernel.
func (d *daemon) fleetStatus() *fleet.Status {
	d.mu.Lock()
	client := d.fleet
	d.mu.Unlock()
	if client == nil {
		return nil
	}
	s := client.Status()
	return &s
}

func (c *collector) collectFleet(out sink) {
	s := c.fleetStatus()
	if s == nil {
		return
	}
	send(out, "fleet_connected", boolean(s.Connected))
	send(out, "fleet_hosts", s.Hosts)
	send(out, "fleet_queued", s.Queued)
	send(out, "fleet_sightings_total", s.Shared, "sent")
	send(out, "fleet_sightings_total", s.Dropped, "dropped")
	for why, n := range s.Refused {
		send(out, "fleet_refused", n, why)
	}
}
