package ruleset

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/netnstest"
	"github.com/portmon/portmon/nftset"
)

// trapPort is a trap port of one protocol, and how it is used.
type trapPort struct {
	name         string
	port         uint16
	open, closed netnstest.AnswerKind
	packet       func(l *lab, src netip.Addr) netnstest.Packet
	listen       func(h *netnstest.Host, addr string) *netnstest.Server
	served       func(f family) string
}

var trapPorts = []trapPort{
	{
		"TCP", trapTCP, netnstest.AnswerSYNACK, netnstest.AnswerRST,
		func(l *lab, src netip.Addr) netnstest.Packet { return l.syn(src, trapTCP) },
		(*netnstest.Host).ListenTCP, func(f family) string { return f.grace(unix.IPPROTO_TCP) },
	},
	{
		"UDP", trapUDP, netnstest.AnswerUDP, netnstest.AnswerPortUnreachable,
		func(l *lab, src netip.Addr) netnstest.Packet { return l.udp(src, trapUDP) },
		(*netnstest.Host).ListenUDP, func(f family) string { return f.grace(unix.IPPROTO_UDP) },
	},
}

// grace is long enough for what a test does meanwhile.
const grace = time.Second

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
			separately(t, spec, func(l *lab, f family) {
				l.armed()
				server := trap.listen(l.host, fmt.Sprintf("[::]:%d", trap.port))
				first, second, late, bystander := l.source(f), l.source(f), l.source(f), l.source(f)
				left := func() time.Duration {
					el, _ := l.element(trap.served(f), nftset.AddrPortKey(l.to(first, trap.port)))
					return el.Expires
				}
				l.want(trap.packet(l, first), trap.open)
				if d := left(); d < grace/2 {
					l.t.Errorf("after a client of the service %v of the grace are left", d)
				}
				await(l.t, "half of the grace", func() bool { return left() < grace/2 })
				begin := time.Now()
				l.want(trap.packet(l, second), trap.open) // begins it anew
				if d := left(); d < grace/2 {
					l.t.Errorf("after the second client %v of the grace are left", d)
				}
				server.Close()
				l.want(trap.packet(l, first), trap.closed)
				l.served(first, second, bystander)
				// Those that ask meanwhile do not keep the trap from being one.
				await(l.t, "the grace to end", func() bool {
					a := l.outside.Probe(trap.packet(l, late))
					return a.Kind == netnstest.NoAnswer
				})
				if d := time.Since(begin); d < grace-tick {
					l.t.Errorf("the port was a trap %v after a client, want %v", d, grace)
				}
				l.wantStanding(late, 1, CauseTrap)
				l.cut(late)
				l.served(first, second, bystander)
				l.wantBans(banOf(late))
			})
		})
	}
}

// TestGraceIsOfOneAddress has a service on one of the host's addresses: the same
// port of another one is a trap.
func TestGraceIsOfOneAddress(t *testing.T) {
	t.Parallel()
	spec := trapSpec()
	spec.Grace = grace
	l := newTrap(t, spec)
	l.armed()
	l.families(func(l *lab, f family) {
		other := addr("203.0.113.99")
		if f.is6() {
			other = addr("2001:db8:113::99")
		}
		l.host.AddAddr("lo", netip.PrefixFrom(other, other.BitLen()).String())
		for _, trap := range trapPorts {
			client, offender := l.source(f), l.source(f)
			server := trap.listen(l.host, at(l.to(client, 0).Addr(), trap.port).String())
			l.want(trap.packet(l, client), trap.open)
			p := trap.packet(l, offender)
			p.Dst = at(other, trap.port)
			l.want(p, netnstest.NoAnswer)
			l.wantStanding(offender, 1, CauseTrap)
			server.Close()
			l.want(trap.packet(l, client), trap.closed)
			l.served(client)
		}
	})
}

// TestStrictScanGrace has a client of a service that is on no trap port, a moment
// before the grace that an earlier client began is over.
func TestStrictScanGrace(t *testing.T) {
	t.Parallel()
	const port = 3001
	spec := scanSpec(1)
	spec.Grace = grace
	separately(t, spec, func(l *lab, f family) {
		l.armed()
		server := l.host.ListenTCP(fmt.Sprintf("[::]:%d", port))
		first, second, bystander := l.source(f), l.source(f), l.source(f)
		l.want(l.syn(first, port), netnstest.AnswerSYNACK)
		begun := time.Now()
		await(l.t, "most of the grace", func() bool {
			el, _ := l.element(f.grace(unix.IPPROTO_TCP), nftset.AddrPortKey(l.to(first, port)))
			return el.Expires < grace/3
		})
		l.want(l.syn(second, port), netnstest.AnswerSYNACK)
		server.Close()
		await(l.t, "the end of the first client's grace", func() bool { return time.Since(begun) > grace })
		l.want(l.syn(second, port), netnstest.AnswerRST)
		l.visit(first, second, bystander)
		l.wantBans()
		await(l.t, "the grace to end", func() bool {
			a := l.outside.Probe(l.syn(first, port))
			return a.Kind == netnstest.NoAnswer
		})
		l.wantBans(banOf(first))
		l.visit(second, bystander)
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
				l.want(l.syn(src, trapTCP), netnstest.AnswerRST)
				l.want(l.udp(src, trapUDP), netnstest.AnswerPortUnreachable)
				l.probe(src, ports(200, 6)...)
				l.visit(src)
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
					l.offend(src)
					l.wantStanding(src, 1, CauseTrap)
				}
				for _, src := range l.both() {
					l.want(l.udp(src, trapUDP), netnstest.NoAnswer)
					l.wantStanding(src, 1, CauseTrap)
				}
				for _, src := range l.both() {
					l.probe(src, ports(200, spec.Scan.Ports-1)...)
					l.want(l.syn(src, 300), netnstest.NoAnswer)
					l.wantStanding(src, 1, CauseScan)
				}
				l.visit(early...)
			}
			for _, src := range early {
				l.wantStanding(src, 0, CauseUnknown)
			}
		})
	}
}
