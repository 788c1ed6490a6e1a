package bench

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/portmon/portmon/internal/lab"
)

// firewall is one of the rulesets that packets are sent through, which nft loads
// from a file, or which portmon makes of a configuration.
type firewall struct{ name, file, config string }

var (
	noTable   = firewall{name: "no table"}
	handmade  = firewall{name: "hand-written table", file: "seed.nft"}
	handmade6 = firewall{name: "the same with IPv6 bans", file: "seed6.nft"} // what portmon is fairly compared to
	ours      = firewall{name: "portmon", config: "# the default"}
	knocking  = firewall{name: "portmon with [knock]", config: "[knock]\ntcp = [7001, 8002, 9003]"}
)

// newFirewall makes a host with a firewall.
func newFirewall(b *testing.B, f firewall) *site {
	s := newSite(b, standard, f.config)
	s.NFT("", "-f", "tracked.nft")
	if f.file != "" {
		s.NFT("", "-f", f.file)
	} else if f.config != "" {
		s.portmon("apply")()
		s.NFT("flush set inet portmon starting") // ends the grace, during which no port is a trap
	}
	return s
}

// flow is a packet of each of some sources, over and over.
type flow struct {
	name    string
	sources []netip.Addr
	kind    kind
}

const (
	scanPorts = 20
	few       = 64     // sources are always in the caches
	many      = 4096   // sources are not
	bans      = 60_000 // in the set of each family: nearly as many as it takes
)

var (
	innocents, innocents6 = addrs("198.51.100.1", 32, few), addrs("2001:db8:1::1", 64, few)
	crowd, crowd6         = addrs("198.18.0.1", 32, many), addrs("2001:db8:2::1", 64, many)
	outlaws               = addrs("203.0.113.1", 32, few) // banned
)

// contenders are compared to the first, which people write by hand.
var contenders = []firewall{handmade, noTable, handmade6, ours}

// BenchmarkWarm measures what the table costs a packet.
func BenchmarkWarm(b *testing.B) {
	comparePackets(b, contenders,
		flow{"UDP to an open port", innocents, datagram}, flow{"UDP by IPv6", innocents6, datagram},
		flow{"TCP, established", innocents, acknowledgement},
		flow{"SYN to an open port", innocents, syn(portFull)}, flow{"SYN by IPv6", innocents6, syn(portFull)},
		flow{"SYN to a closed port", innocents, syn(lab.Closed)}, flow{"SYN of a banned source", outlaws, syn(portFull)})
}

// BenchmarkCold measures it where neither sources nor bans are in the caches.
func BenchmarkCold(b *testing.B) {
	comparePackets(b, contenders,
		flow{"UDP to an open port", crowd, datagram}, flow{"UDP by IPv6", crowd6, datagram},
		flow{"SYN to an open port", crowd, syn(portFull)}, flow{"SYN by IPv6", crowd6, syn(portFull)})
}

// BenchmarkKnock measures what it costs that knocks are looked for.
func BenchmarkKnock(b *testing.B) {
	comparePackets(b, []firewall{ours, knocking},
		flow{"SYN to an open port", innocents, syn(portFull)}, flow{"SYN by IPv6", innocents6, syn(portFull)},
		flow{"SYN of a banned source", outlaws, syn(portFull)}, flow{"first knock of a banned source", outlaws, syn(7001)})
}

const (
	// turn is how many packets of a flow are sent before it is the next
	// firewall's turn: some 3 ms, or all of them once if there are more.
	turn = 1024
	// epochs is how many there are for each repetition of a command. What a
	// packet costs depends on where things lie in memory, so each epoch has new
	// hosts, and everything is done in a random order: of the same tables, those
	// whose connections are tracked first cost up to 50 ns more.
	epochs = 5
	turns  = 8 // of each firewall in an epoch
)

// comparePackets sends flows to each firewall in turn, and reports what a packet
// costs, and how much more than with the first.
func comparePackets(b *testing.B, firewalls []firewall, flows ...flow) {
	epoch := func(b *testing.B) {
		lanes := make([][]*injector, len(firewalls))
		for _, i := range rand.Perm(len(lanes)) {
			lanes[i] = newLane(b, firewalls[i], flows)
		}
		for f, flow := range flows {
			costs := make([][]float64, len(lanes))
			for range turns {
				for _, i := range rand.Perm(len(lanes)) {
					costs[i] = append(costs[i], lanes[i][f].send(max(1, turn/len(flow.sources))))
				}
			}
			for i, firewall := range firewalls {
				cost := median(costs[i])
				report(b, flow.name, firewall.name, "%.0f ns/op %.0f more-nanoseconds", cost, cost-median(costs[0]))
			}
		}
	}
	for range *rounds * epochs {
		b.Run("epoch", epoch) // whose hosts end with it
	}
}

// newLane makes a host with a firewall and returns what sends the flows to it. It
// checks that packets get as far as they should.
func newLane(b *testing.B, f firewall, flows []flow) (lane []*injector) {
	s := newFirewall(b, f)
	s.fill("ban4", append(sources4(size(bans)), outlaws...))
	s.fill("ban6", sources6(size(bans)))
	s.listen()
	s.Internet.AddAddr("lo", "198.51.100.0/24")       // of the innocents, who make connections
	s.Internet.Sysctl("net.ipv4.tcp_timestamps", "0") // which would tell repeated packets from new ones
	for _, flow := range flows {
		in := s.injector(flow.sources, flow.kind)
		lane = append(lane, in)
		want := len(flow.sources)
		if flow.sources[0] == outlaws[0] && f != noTable {
			want = 0
		}
		if got := s.passing(func() { in.send(1) }); got != want {
			b.Fatalf("%s: %d packets of %q passed, %d should have", f.name, got, flow.name, want)
		}
	}
	return lane
}

// BenchmarkScan measures what it costs to recognise 10,000 scanners, all of which
// send a packet to one closed port before any goes on to the next. The host
// answers with a RST unless something drops them.
func BenchmarkScan(b *testing.B) {
	for range min(*rounds, 3) {
		for _, f := range []firewall{noTable, handmade6, ours} {
			b.Run(f.name, func(b *testing.B) { newFirewall(b, f).scan(f.name, "IPv4", sources4(size(10_000))) })
			b.Run(f.name, func(b *testing.B) { newFirewall(b, f).scan(f.name, "IPv6", sources6(size(10_000))) })
		}
	}
}

func (s *site) scan(firewall, family string, sources []netip.Addr) {
	sum := 0.0
	for _, ports := range [][2]int{{1, 4}, {5, 5}, {6, scanPorts}} {
		work := fmt.Sprintf("%s, ports %d to %d", family, ports[0], ports[1])
		for port := ports[0]; port <= ports[1]; port++ {
			cost := s.injector(sources, syn(uint16(portScanned+port))).send(1)
			report(s.T, work, firewall, "%.0f ns/op", cost)
			sum += cost
		}
		report(s.T, work, firewall, "%d banned", s.banned())
	}
	report(s.T, family, firewall, "%.0f packets/s", 1e9*scanPorts/sum)
}

// BenchmarkFlood measures what becomes of real scanners while SYNs of forged
// sources arrive at 100,000 a second for ten seconds, and afterwards.
func BenchmarkFlood(b *testing.B) {
	const duration = 10 * time.Second
	forgeries := size(1_000_000)
	for _, port := range []uint16{lab.TrapTCP, lab.Closed} {
		s := newFirewall(b, ours)
		name := map[uint16]string{lab.TrapTCP: "to a trap port, ", lab.Closed: "to a closed port, "}[port]
		s.sendScanners(name+"before it", time.Sleep)
		in := s.injector(sources4(forgeries), syn(port))
		begin, sent, costs := time.Now(), 0, []float64{}
		flood := func(d time.Duration) {
			for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(time.Millisecond) {
				due := int(float64(forgeries) * min(1, time.Since(begin).Seconds()/duration.Seconds()))
				if due > sent {
					next := &injector{in.t, in.fd, in.frames[sent:due]}
					sent, costs = due, append(costs, next.send(1))
				}
			}
		}
		flood(duration / 2)
		s.sendScanners(name+"during it", flood)
		flood(time.Until(begin.Add(duration)))
		if sent < forgeries*9/10 {
			b.Fatalf("this machine sent only %d of %d SYNs in %v", sent, forgeries, duration)
		}
		report(b, name+"during it", "forged SYNs", "%.0f ns/op", median(costs))
		time.Sleep(time.Second)
		s.sendScanners(name+"a second after it", time.Sleep)
		if *long {
			time.Sleep(10 * time.Minute)
			s.sendScanners(name+"ten minutes after it", time.Sleep)
		}
	}
}

// sendScanners has 10 new sources of each kind come, and reports how many of
// them are banned when each has sent its packets, and how many sources in all.
// Whatever goes on meanwhile is done in the pauses.
func (s *site) sendScanners(when string, pause func(time.Duration)) {
	var kinds [3][]netip.Addr
	for i := range 30 {
		kinds[i%3] = append(kinds[i%3], s.Source4())
	}
	knockers, repeaters, scanners := kinds[0], kinds[1], kinds[2]
	s.fill("tier4_1", repeaters)
	for i := range scanPorts {
		s.injector(scanners, syn(uint16(portScanned+i))).send(1)
		if i < len(knockers) {
			s.injector([]netip.Addr{knockers[i], repeaters[i]}, syn(lab.TrapTCP)).send(1)
		}
		pause(10 * time.Millisecond)
	}
	for i, kind := range []string{"knock on a trap", "the same, not for the first time", "scan 20 ports"} {
		n := 0
		for _, a := range kinds[i] {
			if s.Lookup(a).Banned() {
				n++
			}
		}
		report(s.T, when, kind, "%d banned", n)
	}
	report(s.T, when, "all", "%d banned", s.banned())
}
