package main

import (
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/nftset"
)

// offence is one run: as many sources as are told send one trap packet each, in one burst.
type offence struct {
	burst, all float64 // seconds, from the first packet to the last, and until the watcher has done with all
	cpu        float64 // seconds
	overrun    bool    // the kernel had messages for which there was no room
	lost       float64 // these messages
	resyncs    float64
}

// resyncs is how long it takes until all sets have been read that are read after an overrun: at once, and again a second later.
const resyncs = 1500 * time.Millisecond

// firstBan is how long the first bans are, so that the same sources can offend again soon.
const firstBan = 4 * time.Second

// offences measures how fast the watcher is to count offences, and to take repeat offenders up the ladder, which edits the kernel.
func offences(b *bench, _ *scope) (*table, error) {
	t := &table{
		caption: "Offences, from the packet to the ledger",
		columns: []string{
			"work", "sources", "packets sent in", "all counted after", "offences per second", "CPU", "CPU per 10,000", "overran", "messages lost", "resyncs",
		},
		note: "Each source sends one SYN to a trap port, all in one burst, as fast as one CPU sends them while the other one runs the watcher, or has been told by a signal to stop it until all are sent. " +
			"CPU is that of `portmon watch`. Overran tells in how many of the runs the kernel had no room for some of the messages; these offences " +
			"are found by a resync, whose CPU is included, and that of another one a second later.",
	}
	for _, c := range []struct {
		n     int
		stops bool
		names [2]string
	}{
		{10_000, false, [2]string{"first offences", "second offences: escalations"}},
		{60_000, false, [2]string{"first offences", "second offences: escalations"}},
		{60_000, true, [2]string{"first offences while it is stopped", "second offences while it is stopped"}},
	} {
		var runs [2][]offence
		for range min(b.count, 3) {
			err := within(func(s *scope) error {
				o, err := offend(b, s, randomAddrs(c.n+2), c.stops)
				runs[0], runs[1] = append(runs[0], o[0]), append(runs[1], o[1])
				return err
			})
			if err != nil {
				return nil, err
			}
		}
		t.offences(c.names[0], c.n, runs[0])
		t.offences(c.names[1], c.n, runs[1])
	}
	return t, nil
}

func (t *table) offences(work string, n int, runs []offence) {
	of := func(value func(offence) float64) float64 {
		values := make([]float64, len(runs))
		for i, r := range runs {
			values[i] = value(r)
		}
		return median(values)
	}
	overran := 0
	for _, r := range runs {
		if r.overrun {
			overran++
		}
	}
	cpu := of(func(o offence) float64 { return o.cpu })
	t.row(work, thousands(n), seconds(of(func(o offence) float64 { return o.burst })), seconds(of(func(o offence) float64 { return o.all })),
		fmt.Sprintf("%.0f", of(func(o offence) float64 { return float64(n) / o.all })), seconds(cpu), seconds(cpu*10_000/float64(n)),
		fmt.Sprintf("%d of %d", overran, len(runs)), fmt.Sprintf("%.0f", of(func(o offence) float64 { return o.lost })),
		fmt.Sprintf("%.0f", of(func(o offence) float64 { return o.resyncs })))
}

// offend has sources offend, and again when they are free. The last two are needed besides. If the watcher stops, then it does not run
// while the packets come.
func offend(b *bench, t *scope, from []netip.Addr, stops bool) (o [2]offence, err error) {
	toml, err := b.watchConfig(fmt.Sprintf("metrics = %q\n[ban]\nbantime = [%q, \"1h\", \"2h\"]\n", metricsAt, firstBan))
	if err != nil {
		return o, err
	}
	g, err := newTarget(t, firstBan, time.Hour, 2*time.Hour)
	if err != nil {
		return o, err
	}
	w, err := b.watch(t, g.host(), toml)
	if err != nil {
		return o, err
	}
	extra := from[len(from)-2:]
	from = from[:len(from)-2]
	counted := func() (bool, error) { s, err := w.Status(); return s.Offenders == len(from), err }
	if o[0], err = w.offend(t, g, from, extra[0], stops, counted); err != nil {
		return o, err
	}
	if err := awaitEmpty(g.conn, firstTier.Name); err != nil {
		return o, err
	}
	escalated := func() (bool, error) { n, err := count(g.conn, firstTier.Name+"_2"); return n == len(from), err }
	o[1], err = w.offend(t, g, from, extra[1], stops, escalated)
	return o, err
}

// awaitEmpty returns when all elements of a set have expired.
func awaitEmpty(c *nftset.Conn, name string) error {
	return await("bans expire", 50*time.Millisecond, func() (bool, error) { n, err := count(c, name); return n == 0, err })
}

// offend has sources offend at once. An overrun tells with the next message how many were lost; this is from one source more.
func (w *watcher) offend(
	t *scope, g *target, from []netip.Addr, extra netip.Addr, stops bool, done func() (bool, error),
) (o offence, err error) {
	in, err := g.burst(t, from)
	if err != nil {
		return o, err
	}
	before, err := w.Status()
	if err != nil {
		return o, err
	}
	lost, err := w.metric("portmon_lost_messages_total")
	if err != nil {
		return o, err
	}
	_, used, err := w.idle()
	if err != nil {
		return o, err
	}
	if stops {
		if err := unix.Kill(w.pid, unix.SIGSTOP); err != nil {
			return o, err
		}
	}
	begin, err := monotonic()
	if err != nil {
		return o, err
	}
	if err := pinned(func() error { _, err := in.send(1); return err }); err != nil {
		return o, err
	}
	sent, err := monotonic()
	if err != nil {
		return o, err
	}
	if stops {
		if err := unix.Kill(w.pid, unix.SIGCONT); err != nil {
			return o, err
		}
	}
	if err := wantCount(g.conn, firstTier.Name, len(from)); err != nil {
		return o, err
	}
	end, cpu, err := w.after("count offences", done)
	if err != nil {
		return o, err
	}
	o.burst, o.all = (sent - begin).Seconds(), (end - begin).Seconds()
	status, err := w.Status()
	if err != nil {
		return o, err
	}
	if o.overrun = status.Overruns > before.Overruns; o.overrun {
		time.Sleep(resyncs)
		if _, cpu, err = w.idle(); err != nil {
			return o, err
		}
		if status, err = w.Status(); err != nil {
			return o, err
		}
	}
	o.cpu, o.resyncs = (cpu - used).Seconds(), float64(status.Resyncs-before.Resyncs)
	if in, err = g.burst(t, []netip.Addr{extra}); err != nil {
		return o, err
	}
	if err := pinned(func() error { _, err := in.send(1); return err }); err != nil {
		return o, err
	}
	if _, _, err := w.idle(); err != nil {
		return o, err
	}
	after, err := w.metric("portmon_lost_messages_total")
	o.lost = after - lost
	return o, err
}
