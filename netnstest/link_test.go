package netnstest

import (
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func TestConnectGivesAddresses(t *testing.T) {
	a, b := NewHost(t, "a"), NewHost(t, "b")
	l := Connect(t, a, b, "192.0.2.64/30", "2001:db8::/126", "198.51.100.0/24")
	for got, want := range map[netip.Addr]string{
		l.A.IPv4: "192.0.2.65", l.B.IPv4: "192.0.2.66", l.A.IPv6: "2001:db8::1",
	} {
		if got.String() != want {
			t.Errorf("address %v, want %s", got, want)
		}
	}
	if l.A.Dev != "eth0" || l.B.Dev != "eth0" || l.A.Host.Name() != "a" || l.B.Host.Name() != "b" {
		t.Errorf("ends are %s of %s and %s of %s", l.A.Dev, l.A.Host.Name(), l.B.Dev, l.B.Host.Name())
	}
	for _, e := range []End{l.A, l.B} {
		if len(e.MAC) != 6 || e.Index == 0 {
			t.Errorf("end %+v", e)
		}
	}
	if again := Connect(t, a, b); again.A.Dev != "eth1" || again.A.IPv4.IsValid() {
		t.Errorf("second link: %+v", again.A)
	}
}

func TestConnectRefuses(t *testing.T) {
	for network, want := range map[string]string{
		"192.0.2.1/24":   "network 192.0.2.1/24: is an address in 192.0.2.0/24",
		"192.0.2.0/31":   "network 192.0.2.0/31: has no room for two hosts",
		"2001:db8::/128": "network 2001:db8::/128: has no room for two hosts",
		"192.0.2.0":      "192.0.2.0",
		"":               "no '/'",
	} {
		wantFatal(t, func(t testing.TB) { Connect(t, NewHost(t, "a"), NewHost(t, "b"), network) }, "connect a to b: ", want)
	}
}

// TestConnectIsReadyAtOnce fails if addresses or links need a moment yet: a datagram that is lost is not sent again.
func TestConnectIsReadyAtOnce(t *testing.T) {
	for range 20 {
		a, b, l := pair(t)
		b.Listen("udp", "[::]:53")
		b.AddAddr(l.B.Dev, "2001:db8::80/64")
		for _, to := range []netip.Addr{l.B.IPv6, l.B.IPv4, netip.MustParseAddr("2001:db8::80")} {
			if err := a.Exchange("udp", netip.Addr{}, at(to, 53), patience); err != nil {
				t.Errorf("exchange with %v: %v", to, err)
			}
		}
	}
}

// neighbours returns the neighbour entries of an end by address.
func neighbours(t *testing.T, e End) map[netip.Addr]int {
	t.Helper()
	list, err := e.Host.rtnl.NeighList(e.Index, netlink.FAMILY_ALL)
	if err != nil {
		t.Fatal(err)
	}
	states := map[netip.Addr]int{}
	for _, n := range list {
		if addr, ok := netip.AddrFromSlice(n.IP); ok && n.State&unix.NUD_NOARP == 0 {
			states[addr.Unmap()] = n.State
		}
	}
	return states
}

func TestNeighboursAreKnownUntilTheyAreToBeLearned(t *testing.T) {
	a, b, l := pair(t)
	b.Listen("udp", "[::]:53")
	b.AddAddr(l.B.Dev, "192.0.2.80/24")
	extra := netip.MustParseAddr("192.0.2.80")
	for _, addr := range []netip.Addr{l.B.IPv4, l.B.IPv6, netip.MustParseAddr("fe80::2"), extra} {
		if state := neighbours(t, l.A)[addr]; state != unix.NUD_PERMANENT {
			t.Errorf("neighbour %v is in state %#x, want permanent", addr, state)
		}
	}

	l.LearnNeighbours()
	if known := neighbours(t, l.A); len(known) != 0 {
		t.Errorf("known neighbours: %v, want none", known)
	}
	s := b.Sniff(l.B.Dev)
	for _, to := range []netip.Addr{l.B.IPv4, l.B.IPv6, extra} {
		if err := a.Exchange("udp", netip.Addr{}, at(to, 53), patience); err != nil {
			t.Errorf("exchange with %v: %v", to, err)
		}
		if state := neighbours(t, l.A)[to]; state&(unix.NUD_REACHABLE|unix.NUD_DELAY|unix.NUD_STALE) == 0 {
			t.Errorf("neighbour %v is in state %#x, want learned", to, state)
		}
	}
	const neighbourSolicitation = 135 // RFC 4861, 4.3
	if _, err := s.Await(func(p Packet) bool { return p.Proto == ICMP && p.Type == neighbourSolicitation }, 0); err != nil {
		t.Error(err)
	}
}

// TestProbeWhileNeighboursAreLearned sees that discovery, which makes answers take longer ways, loses none.
func TestProbeWhileNeighboursAreLearned(t *testing.T) {
	client, server, link := pair(t)
	server.Listen("tcp", "[::]:80")
	for range 50 {
		link.LearnNeighbours()
		for _, ends := range [][2]netip.Addr{{link.A.IPv4, link.B.IPv4}, {link.A.IPv6, link.B.IPv6}} {
			if got := client.Probe(SYN(ends[0], at(ends[1], 80))); got.Kind != AnswerSYNACK {
				t.Errorf("SYN to %v: got %v", ends[1], got)
			}
		}
	}
}

func TestAddRoute(t *testing.T) {
	client, server, a, b := chain(t, 1)
	server.Listen("tcp", "[::]:80")
	for _, to := range []netip.Addr{b.IPv4, b.IPv6} {
		if err := client.Exchange("tcp", netip.Addr{}, at(to, 80), patience); err != nil {
			t.Errorf("dial %v by the default route: %v", to, err)
		}
	}
	server.AddAddr("lo", "203.0.113.5/32")
	a.peer.Host.AddRoute("203.0.113.0/24", b.IPv4.String())
	if err := client.Exchange("tcp", netip.Addr{}, netip.MustParseAddrPort("203.0.113.5:80"), patience); err != nil {
		t.Errorf("dial by an added route: %v", err)
	}
	client.AddAddr(a.Dev, "198.18.0.1/32")
	a.peer.Host.AddRoute("198.18.0.0/15", a.peer.Dev)
	if err := client.Exchange("tcp", netip.MustParseAddr("198.18.0.1"), at(b.IPv4, 80), patience); err != nil {
		t.Errorf("dial from behind a route by interface: %v", err)
	}
	for _, tt := range []struct{ dst, via, want string }{
		{"203.0.113.0/24", "nowhere0", "add route to 203.0.113.0/24: nowhere0 is neither an address nor an interface"},
		{"203.0.113.0/24", "10.9.8.7", "add route to 203.0.113.0/24 via 10.9.8.7: network is unreachable"},
		{"203.0.113.0", "eth0", "203.0.113.0"},
	} {
		wantFatal(t, func(t testing.TB) { client.With(t).AddRoute(tt.dst, tt.via) }, "host client: ", tt.want)
	}
	wantFatal(t, func(t testing.TB) { client.With(t).AddAddr("eth7", "192.0.2.9/24") }, "find eth7: ")
	wantFatal(t, func(t testing.TB) { client.With(t).AddAddr("eth0", "192.0.10.1/24") },
		"add 192.0.10.1/24 to eth0: file exists")
}

func ptr[T any](v T) *T { return &v }
