package main

import (
	"fmt"
	"net/netip"
	"time"
)

const (
	floodRate = 100_000 // forged SYNs a second
	floodTime = 10 * time.Second
	forgeries = int(floodRate * floodTime / time.Second)
	// actors is how many sources of each kind there are that are not forged.
	actors = 10
	// step is how long they wait after each packet.
	step = 10 * time.Millisecond
)

// flood measures what becomes of real scanners while SYNs of forged sources
// come in at 100,000 a second, and afterwards.
func flood(b *bench, t *scope) (*table, error) {
	tab := &table{
		caption: fmt.Sprintf("A flood of %s forged SYNs in %v", thousands(forgeries), floodTime),
		columns: []string{"flood", "when", "knock on a trap", "the same, for the second time", "scan 20 ports", "sources banned", "CPU time per forged SYN"},
		note:    fmt.Sprintf("How many of %d sources of each kind are banned, when each has sent its packets; and how many sources in all.", actors),
	}
	var floods []*flooding
	for _, f := range []*flooding{{name: "to a trap port", port: portTrap}, {name: "to a closed port", port: portClosed}} {
		var err error
		if f.target, err = newTarget(t, portmonTable); err != nil {
			return nil, err
		}
		if err := pinned(func() error { return f.run(t, tab) }); err != nil {
			return nil, err
		}
		floods = append(floods, f)
	}
	if b.long {
		time.Sleep(10 * time.Minute)
		for _, f := range floods {
			if err := pinned(func() error { return f.act(t, tab, "ten minutes after it", sleep) }); err != nil {
				return nil, err
			}
		}
	}
	return tab, nil
}

// flooding is a host that is flooded at one of its ports.
type flooding struct {
	*target
	name   string
	port   uint16
	before int       // actors that there have been
	costs  []float64 // of forged SYNs, in nanoseconds
}

// run floods the host, and has actors come before it, amid it and after it.
func (f *flooding) run(t *scope, tab *table) error {
	if err := f.act(t, tab, "before it", sleep); err != nil {
		return err
	}
	frames, err := f.syns(randomAddrs(forgeries), f.port)
	if err != nil {
		return err
	}
	in, err := newInjector(t, f.link.A, frames)
	if err != nil {
		return err
	}
	begin, poured := time.Now(), 0
	pour := func(d time.Duration) error {
		for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(time.Millisecond) {
			due := min(int(floodRate*time.Since(begin)/time.Second), forgeries)
			if due == poured {
				continue
			}
			ns, err := in.part(poured, due).send(1)
			if err != nil {
				return err
			}
			f.costs, poured = append(f.costs, ns), due
		}
		return nil
	}
	if err := pour(floodTime / 2); err != nil {
		return err
	}
	if err := f.act(t, tab, "amid it", pour); err != nil {
		return err
	}
	if err := pour(time.Until(begin.Add(floodTime))); err != nil {
		return err
	}
	if poured < forgeries*9/10 {
		return fmt.Errorf("this machine sent only %d of %d SYNs in %v", poured, forgeries, floodTime)
	}
	if err := sleep(time.Second); err != nil {
		return err
	}
	return f.act(t, tab, "a second after it", sleep)
}

func sleep(d time.Duration) error { time.Sleep(d); return nil }

// act has new sources knock and scan, and adds a row of what became of them.
// Whatever goes on meanwhile is done in the pauses between their packets.
func (f *flooding) act(t *scope, tab *table, when string, pause func(time.Duration) error) error {
	all := sourcesOf(crowd, f.before+3*actors)[f.before:]
	f.before += len(all)
	knockers, repeaters, scanners := all[:actors], all[actors:2*actors], all[2*actors:]
	if err := f.fill(stepSet(false), repeaters); err != nil {
		return err
	}
	for i := range scanPorts {
		var packets [][]byte
		frames, err := f.syns(scanners, uint16(portScanned+i))
		if err != nil {
			return err
		}
		packets = append(packets, frames...)
		if i < actors {
			if frames, err = f.syns([]netip.Addr{knockers[i], repeaters[i]}, portTrap); err != nil {
				return err
			}
			packets = append(packets, frames...)
		}
		in, err := newInjector(t, f.link.A, packets)
		if err != nil {
			return err
		}
		if _, err := in.send(1); err != nil {
			return err
		}
		if err := pause(step); err != nil {
			return err
		}
	}
	row := []string{f.name, when}
	for _, kind := range [][]netip.Addr{knockers, repeaters, scanners} {
		n, err := f.banned(kind)
		if err != nil {
			return err
		}
		row = append(row, fmt.Sprint(n))
	}
	n, err := count(f.conn, banSet(false).Name)
	row = append(row, fmt.Sprint(n), "")
	if len(f.costs) > 0 {
		row[len(row)-1] = fmt.Sprintf("%.0f ns", median(f.costs))
	}
	f.costs = nil
	tab.row(row...)
	return err
}
