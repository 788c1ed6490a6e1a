package main

import (
	"fmt"
	"net/netip"
)

const (
	scanners  = 10_000
	scanPorts = 20
)

// scan measures what it costs to find out scanners: 10,000 sources ask for the
// same 20 closed ports, all of them for one port before any asks for the next.
func scan(b *bench, _ *scope) (*table, error) {
	t := &table{
		caption: "10,000 sources scan 20 closed ports each",
		columns: []string{"sources", "table", "ports 1 to 4", "port 5", "ports 6 to 20", "packets per second", "banned after port 4", "after 5", "after 20"},
		note:    "CPU time per packet, and how many packets one CPU sends and receives in a second. The host answers with a RST unless something drops them.",
	}
	contenders, err := b.contenders()
	if err != nil {
		return nil, err
	}
	for _, sources := range [][]netip.Addr{randomAddrs(scanners), randomAddrs6(scanners)} {
		name := "IPv4"
		if sources[0].Is6() {
			name = "IPv6"
		}
		for _, c := range contenders {
			var costs, bans [scanPorts][]float64
			for range min(b.count, 3) {
				err := within(func(s *scope) error { return scanOnce(s, c, sources, &costs, &bans) })
				if err != nil {
					return nil, err
				}
			}
			mean := func(from, to int) float64 {
				sum := 0.0
				for port := from; port <= to; port++ {
					sum += median(costs[port-1])
				}
				return sum / float64(to-from+1)
			}
			cost := func(from, to int) string { return fmt.Sprintf("%.0f ns", mean(from, to)) }
			banned := func(port int) string { return fmt.Sprintf("%.0f", median(bans[port-1])) }
			t.row(name, c.name, cost(1, 4), cost(5, 5), cost(6, scanPorts), fmt.Sprintf("%.0f", 1e9/mean(1, scanPorts)),
				banned(4), banned(5), banned(scanPorts))
		}
	}
	return t, nil
}

// scanOnce adds what a packet to each port cost, and how many sources were
// banned after it.
func scanOnce(t *scope, c contender, from []netip.Addr, costs, bans *[scanPorts][]float64) error {
	g, err := newTarget(t, c)
	if err != nil {
		return err
	}
	for i := range scanPorts {
		frames, err := g.syns(from, uint16(portScanned+i))
		if err != nil {
			return err
		}
		cost, err := g.burst(t, frames)
		if err != nil {
			return err
		}
		n, err := count(g.conn, banSet(from[0].Is6()).Name)
		if err != nil {
			return err
		}
		costs[i], bans[i] = append(costs[i], cost), append(bans[i], float64(n))
	}
	return nil
}
