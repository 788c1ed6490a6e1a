package bench

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"testing"
	"time"
)

const (
	scanners  = 10_000
	scanPorts = 20
)

// BenchmarkScan measures what it costs to recognise scanners: 10,000 sources
// send a packet to the same 20 closed ports, all of them to one port before any
// goes on to the next.
func BenchmarkScan(b *testing.B) {
	t := &table{
		text: 2, caption: thousands(size(scanners)) + " sources scan 20 closed ports each",
		columns: []string{"sources", "table", "ports 1 to 4", "port 5", "ports 6 to 20", "packets per second", "banned after port 4", "after 5", "after 20"},
		note:    "CPU time per packet, and how many packets one CPU sends and receives in a second. The host answers with a RST unless something drops them.",
	}
	for i, sources := range [][]netip.Addr{randomAddrs(size(scanners)), randomAddrs6(size(scanners))} {
		family := []string{"IPv4", "IPv6"}[i]
		for _, c := range contenders {
			var costs, bans [scanPorts][]float64
			for range min(*rounds, 3) {
				ok := b.Run("scan", func(b *testing.B) {
					s := newSite(b, standard, "")
					c.install(s)
					for i := range scanPorts {
						costs[i] = append(costs[i], s.burst(s.syns(sources, uint16(portScanned+i))))
						bans[i] = append(bans[i], float64(s.count("ban4", "ban6")))
					}
				})
				if !ok {
					b.FailNow()
				}
			}
			mean := func(from, to int) float64 {
				sum := 0.0
				for port := from; port <= to; port++ {
					sum += median(costs[port-1])
				}
				return sum / float64(to-from+1)
			}
			t.row(family, c.name, fmt.Sprintf("%.0f ns", mean(1, 4)), fmt.Sprintf("%.0f ns", mean(5, 5)), fmt.Sprintf("%.0f ns", mean(6, scanPorts)),
				thousands(int(1e9/mean(1, scanPorts))), fmt.Sprint(median(bans[3])), fmt.Sprint(median(bans[4])), fmt.Sprint(median(bans[scanPorts-1])))
		}
	}
	t.write()
}

const (
	floodRate = 100_000 // forged SYNs a second
	floodTime = 10 * time.Second
	// actors is how many sources of each kind there are that are not forged.
	actors = 10
	// step is how long they wait after each packet.
	step = 10 * time.Millisecond
)

// flood is a host that is flooded at one of its ports.
type flood struct {
	*site
	name   string
	port   uint16
	before int       // actors that there have been
	costs  []float64 // of forged SYNs, in nanoseconds
}

// BenchmarkFlood measures what becomes of real scanners while SYNs of forged
// sources arrive at 100,000 a second, and afterwards.
func BenchmarkFlood(b *testing.B) {
	forgeries := size(int(floodRate * floodTime / time.Second))
	t := &table{
		text: 2, caption: fmt.Sprintf("A flood of %s forged SYNs in %v", thousands(forgeries), floodTime),
		columns: []string{"flood", "when", "knock on a trap", "the same, for the second time", "scan 20 ports", "sources banned", "CPU time per forged SYN"},
		note:    fmt.Sprintf("How many of %d sources of each kind are banned, when each has sent its packets; and how many sources in all.", actors),
	}
	floods := []*flood{{name: "to a trap port", port: portTrap}, {name: "to a closed port", port: portClosed}}
	for _, f := range floods {
		f.site = newSite(b, standard, "")
		portmonTable.install(f.site)
		f.run(t, forgeries)
	}
	if *long {
		time.Sleep(10 * time.Minute)
		for _, f := range floods {
			f.act(t, "ten minutes after it", time.Sleep)
		}
	}
	t.write()
}

// run floods the host, and has actors come before it, during it and after it.
func (f *flood) run(t *table, forgeries int) {
	f.act(t, "before it", time.Sleep)
	in := f.injector(f.syns(randomAddrs(forgeries), f.port))
	rate := forgeries / int(floodTime/time.Second)
	begin, poured := time.Now(), 0
	pour := func(d time.Duration) {
		defer pin(f.b)()
		for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(time.Millisecond) {
			if due := min(int(time.Since(begin).Seconds()*float64(rate)), forgeries); due > poured {
				f.costs = append(f.costs, in.part(poured, due).send(1))
				poured = due
			}
		}
	}
	pour(floodTime / 2)
	f.act(t, "during it", pour)
	pour(time.Until(begin.Add(floodTime)))
	if poured < forgeries*9/10 {
		f.b.Fatalf("this machine sent only %d of %d SYNs in %v", poured, forgeries, floodTime)
	}
	time.Sleep(time.Second)
	f.act(t, "a second after it", time.Sleep)
}

// act has new sources knock and scan, and adds a row of what became of them.
// Whatever goes on meanwhile is done in the pauses between their packets.
func (f *flood) act(t *table, when string, pause func(time.Duration)) {
	all := sourcesOf(crowd, f.before+3*actors)[f.before:]
	f.before += len(all)
	knockers, repeaters, scanners := all[:actors], all[actors:2*actors], all[2*actors:]
	f.fill("tier4_1", repeaters)
	for i := range scanPorts {
		frames := f.syns(scanners, uint16(portScanned+i))
		if i < actors {
			frames = append(frames, f.syns([]netip.Addr{knockers[i], repeaters[i]}, portTrap)...)
		}
		f.burst(frames)
		pause(step)
	}
	row := []string{f.name, when}
	for _, kind := range [][]netip.Addr{knockers, repeaters, scanners} {
		row = append(row, fmt.Sprint(f.banned(kind)))
	}
	row = append(row, fmt.Sprint(f.count("ban4")), "")
	if len(f.costs) > 0 {
		row[len(row)-1] = fmt.Sprintf("%.0f ns", median(f.costs))
	}
	f.costs = nil
	t.row(row...)
}

// banned returns how many of these sources are banned.
func (s *site) banned(addrs []netip.Addr) (n int) {
	for _, a := range addrs {
		if _, err := s.conn.Get(setOf("ban4"), key(a)); err == nil {
			n++
		} else if !errors.Is(err, os.ErrNotExist) {
			s.b.Fatal(err)
		}
	}
	return n
}
