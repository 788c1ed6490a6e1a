package ruleset

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/internal/lab"
	"github.com/portmon/portmon/netnstest"
)

// TestTraceSaysWhatThePacketPathDoes sends random packets, and has Trace say
// beforehand what becomes of each, and which ban it leads to.
func TestTraceSaysWhatThePacketPathDoes(t *testing.T) {
	t.Parallel()
	all := specs()
	for _, name := range []string{
		"default", "no scans", "strict", "no traps", "UDP traps", "prefix6 128", "subnets", "single6", "nothing ignored", "nothing at all",
		"interfaces", "knock", "observe", "observe strictly", "observe nothing",
	} {
		t.Run(name, func(t *testing.T) {
			spec := all[name]
			if spec.knocks() {
				spec.Knock.TCP = []uint16{8001, lab.TrapTCP} // among the ports below
			}
			if spec.Observe {
				spec.MaxRetry = 1 // of more Trace does not know how many have come
			}
			if len(spec.Interfaces) > 0 {
				spec.Interfaces = append(spec.Interfaces, "eth0")
			}
			l := newTrap(t, spec)
			if spec.Grace > 0 {
				l.NFT("flush set inet portmon starting")
			}
			l.ban(time.Hour, "203.0.113.0/28", "2001:db8:1:1::/65")
			l.NFT("add element inet portmon tier4_1 { 203.0.113.33 }")
			l.allow(time.Hour, "203.0.113.2/32", "203.0.113.36/32", "2001:db8:1:1::2/128")
			sources := []netip.Addr{
				addr("203.0.113.1"), addr("203.0.113.2"), addr("203.0.113.33"), addr("203.0.113.34"), addr("203.0.113.36"), addr("203.0.113.35"), addr("198.51.100.7"), addr("10.1.2.3"),
				addr("2001:db8:1:1::1"), addr("2001:db8:1:1::2"), addr("2001:db8:2:2::1"), addr("2001:db8:2:2::2"), addr("2001:db8:3:3::1"), addr("2001:db8:5:5::1"),
				addr("2001:db8::77"), // a neighbour
			}
			l.Internet.AddAddr(l.Link.A.Dev, "2001:db8::77/64")
			if spec.Observe { // then every packet has an answer, of which the neighbour reports that it is for nobody
				sources = sources[:len(sources)-1]
			}
			random := rand.New(rand.NewPCG(1, 2))
			verdicts := make(map[string]int)
			for range 150 {
				p := Packet{From: sources[random.IntN(len(sources))], Proto: unix.IPPROTO_TCP, ToSelf: true, RouteBack: true}
				ports := []uint16{lab.OpenTCP, lab.TrapTCP, 3389, 443, 8001, 8002, 8003, 8004, 8005, 8006}
				p.Port = ports[random.IntN(len(ports))]
				packet := l.SYN(p.From, p.Port)
				if random.IntN(8) == 0 {
					p.Proto, p.Port = unix.IPPROTO_UDP, lab.OpenUDP
					if spec.offends(p.Proto) && p.From != addr("10.1.2.3") && random.IntN(2) == 0 {
						p.Port = trapUDP // which nobody answers: an ICMP error might be held back
					}
					packet = l.UDP(p.From, p.Port)
				}
				p.To = l.To(p.From, p.Port).Addr()
				p.Listener = p.Port == lab.OpenTCP || p.Port == lab.OpenUDP
				if p.Device = l.Link.B.Dev; random.IntN(2) == 0 && len(spec.Interfaces) == 0 {
					p.Device = ""
				}
				trace, err := l.open().Trace(p)
				if err != nil {
					t.Fatal(err)
				}
				before := l.counters()
				answer := l.Internet.Probe(packet).Kind
				if dropped := answer == netnstest.NoAnswer; dropped != trace.Dropped {
					t.Fatalf("%v: got answer %v, Trace says %+v", packet, answer, trace)
				}
				l.Internet.Fence() // a SYN+ACK is answered
				if after := l.counters(); spec.Observe && trace.WouldDrop == (after[CounterDropped]+after[CounterBanned] == before[CounterDropped]+before[CounterBanned]) {
					t.Fatalf("%v: counters went from %v to %v, Trace says %+v", packet, before, after, trace)
				}
				verdicts[fmt.Sprint(trace.Dropped || trace.WouldDrop, trace.Because)]++
				if trace.Ban == nil {
					continue
				}
				verdicts["bans"]++
				bans := l.lookup(p.From).Bans
				if !slices.ContainsFunc(bans, func(e Entry) bool {
					return e.Interval == trace.Ban.Interval && e.Step == trace.Step && e.Cause == trace.Cause && e.Timeout == trace.Ban.Timeout
				}) {
					t.Errorf("%v: the bans are %+v, Trace says %+v by step %d for a %v", packet, bans, trace.Ban, trace.Step, trace.Cause)
				}
				if random.IntN(2) == 0 {
					l.NFT("flush set inet portmon " + trace.Ban.Set) // and it comes again
				}
			}
			t.Log(verdicts)
			if offends := len(spec.protocols()) > 0 && len(spec.Interfaces) == 0; len(verdicts) < 2 || offends != (verdicts["bans"] > 0) {
				t.Errorf("the packets met too little: %v", verdicts)
			}
		})
	}
}
