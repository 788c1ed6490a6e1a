package ruleset

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/internal/lab"
	"github.com/portmon/portmon/netnstest"
	"github.com/portmon/portmon/nftset"
)

// trapPort is a trap port of one protocol, and how it is used.
type trapPort struct {
	name         string
	port         uint16
	open, closed netnstest.AnswerKind
	packet       func(l *fixture, src netip.Addr) netnstest.Packet
	network      string
	served       func(f family) string
}

var trapPorts = []trapPort{
	{
		"TCP", lab.TrapTCP, netnstest.AnswerSYNACK, netnstest.AnswerRST,
		func(l *fixture, src netip.Addr) netnstest.Packet { return l.SYN(src, lab.TrapTCP) },
		"tcp", func(f family) string { return f.grace(unix.IPPROTO_TCP) },
	},
	{
		"UDP", trapUDP, netnstest.AnswerUDP, netnstest.AnswerPortUnreachable,
		func(l *fixture, src netip.Addr) netnstest.Packet { return l.UDP(src, trapUDP) },
		"udp", func(f family) string { return f.grace(unix.IPPROTO_UDP) },
	},
}

// grace is long enough for what a test does meanwhile, on a busy machine too.
const grace = 3 * time.Second

// tick is by how much an element may expire too early: the kernel counts ticks,
// and there are at least 100 in a second.
const tick = 10 * time.Millisecond

// TestGrace closes a service on a trap port.
func TestGrace(t *testing.T) {
	t.Parallel()
	for _, trap := range trapPorts {
		t.Run(trap.name, func(t *testing.T) {
			t.Parallel()
			spec := trapSpec()
			spec.Grace = grace
			separately(t, spec, func(l *fixture, f family) {
				l.armed()
				server := l.Host.Listen(trap.network, fmt.Sprintf("[::]:%d", trap.port))
				first, second, late, bystander := l.source(f), l.source(f), l.source(f), l.source(f)
				left := func() time.Duration {
					el, _ := l.element(trap.served(f), nftset.AddrPortKey(l.To(first, trap.port)))
					return el.Remaining
				}
				l.Want(trap.packet(l, first), trap.open)
				if d := left(); d < grace/2 {
					l.T.Errorf("after a client of the service %v of the grace are left", d)
				}
				lab.Await(l.T, "half of the grace", func() bool { return left() < grace/2 })
				begin := time.Now()
				l.Want(trap.packet(l, second), trap.open) // begins it anew
				if d := left(); d < grace/2 {
					l.T.Errorf("after the second client %v of the grace are left", d)
				}
				server.Close()
				l.Want(trap.packet(l, first), trap.closed)
				l.Served(first, second, bystander)
				// Those that ask meanwhile do not keep the trap from being one.
				lab.Await(l.T, "the grace to end", func() bool {
					a := l.Internet.Probe(trap.packet(l, late))
					return a.Kind == netnstest.NoAnswer
				})
				if d := time.Since(begin); d < grace-tick {
					l.T.Errorf("the port was a trap %v after a client, want %v", d, grace)
				}
				l.wantStanding(late, 1, CauseTrap)
				l.Cut(late)
				l.Served(first, second, bystander)
				l.wantBans(banOf(late))
			})
		})
	}
}

// TestGraceIsOfOneAddress has a service on one of the host's addresses: the
// same port of another one is a trap.
func TestGraceIsOfOneAddress(t *testing.T) {
	t.Parallel()
	spec := trapSpec()
	spec.Grace = grace
	l := newTrap(t, spec)
	l.armed()
	l.families(func(l *fixture, f family) {
		other := addr("203.0.113.99")
		if f.is6() {
			other = addr("2001:db8:113::99")
		}
		l.Host.AddAddr("lo", netip.PrefixFrom(other, other.BitLen()).String())
		for _, trap := range trapPorts {
			client, offender := l.source(f), l.source(f)
			server := l.Host.Listen(trap.network, at(l.To(client, 0).Addr(), trap.port).String())
			l.Want(trap.packet(l, client), trap.open)
			p := trap.packet(l, offender)
			p.Dst = at(other, trap.port)
			l.Want(p, netnstest.NoAnswer)
			l.wantStanding(offender, 1, CauseTrap)
			server.Close()
			l.Want(trap.packet(l, client), trap.closed)
			l.Served(client)
		}
	})
}

// TestStrictScanGrace has a client of a service that is on no trap port, a
// moment before the grace that an earlier client began is over.
func TestStrictScanGrace(t *testing.T) {
	t.Parallel()
	const port = 3001
	spec := scanSpec(1)
	spec.Grace = grace
	separately(t, spec, func(l *fixture, f family) {
		l.armed()
		server := l.Host.Listen("tcp", fmt.Sprintf("[::]:%d", port))
		first, second, bystander := l.source(f), l.source(f), l.source(f)
		l.Want(l.SYN(first, port), netnstest.AnswerSYNACK)
		begun := time.Now()
		lab.Await(l.T, "most of the grace", func() bool {
			el, _ := l.element(f.grace(unix.IPPROTO_TCP), nftset.AddrPortKey(l.To(first, port)))
			return el.Remaining < grace/3
		})
		l.Want(l.SYN(second, port), netnstest.AnswerSYNACK)
		server.Close()
		lab.Await(l.T, "the end of the first client's grace", func() bool { return time.Since(begun) > grace })
		l.Want(l.SYN(second, port), netnstest.AnswerRST)
		l.Visit(first, second, bystander)
		l.wantBans()
		lab.Await(l.T, "the grace to end", func() bool {
			a := l.Internet.Probe(l.SYN(first, port))
			return a.Kind == netnstest.NoAnswer
		})
		l.wantBans(banOf(first))
		l.Visit(second, bystander)
	})
}

// TestNewTableArmsNothing has services time to start after boot: nothing is an
// offence before the grace has passed. What is applied later disarms nothing.
func TestNewTableArmsNothing(t *testing.T) {
	t.Parallel()
	strict := trapSpec()
	strict.Scan.Ports = 1
	for name, spec := range map[string]Spec{"traps and scans": trapSpec(), "strict scans": strict} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			spec.Grace, spec.Subnet6 = grace, 0
			l := newLab(t)
			early := l.both()
			l.apply(spec)
			// A second apply neither arms the traps nor begins anew.
			spec.LogGroup++
			l.apply(spec)
			for _, src := range early {
				l.Want(l.SYN(src, lab.TrapTCP), netnstest.AnswerRST)
				l.Want(l.UDP(src, trapUDP), netnstest.AnswerPortUnreachable)
				l.probe(src, ports(200, 6)...)
				l.Visit(src)
			}
			l.wantBans()
			if n := l.size(setStarting); n != 2 {
				t.Fatalf("%d of 2 protocols are not armed: the test was too slow to tell", n)
			}
			l.armed()
			for _, change := range []func(){
				func() {},
				func() { spec.LogGroup++ },
				func() { spec.TrapTCP = append(spec.TrapTCP, Ports{7777, 7777}) },
				func() { spec.Grace *= 2 },
				func() { spec.Grace = 0 },
				func() { spec.Grace = grace },
			} {
				change()
				l.apply(spec)
				for _, src := range l.both() {
					l.Offend(src)
					l.wantStanding(src, 1, CauseTrap)
				}
				for _, src := range l.both() {
					l.Want(l.UDP(src, trapUDP), netnstest.NoAnswer)
					l.wantStanding(src, 1, CauseTrap)
				}
				for _, src := range l.both() {
					l.probe(src, ports(200, spec.Scan.Ports-1)...)
					l.Want(l.SYN(src, 300), netnstest.NoAnswer)
					l.wantStanding(src, 1, CauseScan)
				}
				l.Visit(early...)
			}
			for _, src := range early {
				l.wantStanding(src, 0, CauseUnknown)
			}
		})
	}
}
