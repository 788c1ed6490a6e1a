package ruleset

import (
	"testing"

	"github.com/portmon/portmon/internal/lab"
	"github.com/portmon/portmon/netnstest"
)

// TestNoRouteBackNoBan sends trap packets from sources that the host would
// answer by another interface, or not at all.
func TestNoRouteBackNoBan(t *testing.T) {
	t.Parallel()
	l := newBareLab(t)
	l.Host.Listen("tcp", "[::]:80")
	l.Host.Listen("udp", "[::]:53")
	elsewhere := netnstest.NewHost(t, "elsewhere")
	link := netnstest.Connect(t, elsewhere, l.Host, "192.0.3.0/24", "2001:db8:3::/64")
	l.Host.AddRoute(lab.Sources4, l.Link.A.IPv4.String())
	l.Host.AddRoute(lab.Sources6, l.Link.A.IPv6.String())
	l.Host.AddRoute("203.0.113.0/24", link.A.IPv4.String())
	l.Host.AddRoute("2001:db8:113::/48", link.A.IPv6.String())
	l.apply(trapSpec())

	for _, src := range []string{"203.0.113.9", "2001:db8:113::9", "198.51.100.9", "2001:db8:51::9"} {
		spoofed := addr(src)
		sniffer := elsewhere.Sniff("eth0")
		for _, p := range []netnstest.Packet{l.SYN(spoofed, lab.TrapTCP), l.TCP(spoofed, lab.TrapTCP, 0), l.UDP(spoofed, trapUDP)} {
			l.Want(p, netnstest.NoAnswer)
		}
		l.wantBans()
		// Dropped, rather than answered by the other interface.
		l.Internet.Fence()
		elsewhere.Fence()
		if p, err := sniffer.Await(func(p netnstest.Packet) bool { return p.Dst.Addr() == spoofed }, 0); err == nil {
			t.Errorf("the host answered a spoofed packet: %v", p)
		}
		sniffer.Close()
	}
	for name, n := range l.counters() {
		want := uint64(0) // nobody was to blame
		if name == CounterUnroutable {
			want = 4 * 3
		}
		if n != want {
			t.Errorf("counter %s is %d, want %d", name, n, want)
		}
	}

	// The same sources by the interface that leads to them, and others by this
	// one, are offenders.
	var want []string
	for _, src := range []string{"203.0.113.9", "2001:db8:113::9"} {
		if got := elsewhere.Probe(l.SYN(addr(src), lab.TrapTCP)); got.Kind != netnstest.NoAnswer {
			t.Errorf("SYN of %s by its own interface: got answer %v", src, got)
		}
		want = append(want, banOf(addr(src)))
	}
	l.families(func(l *fixture, f family) {
		offender, bystander := l.source(f), l.source(f)
		l.Offend(offender)
		l.Cut(offender)
		l.Served(bystander)
		want = append(want, banOf(offender))
	})
	l.wantBans(want...)
}
