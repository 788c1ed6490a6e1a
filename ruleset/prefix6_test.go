package ruleset

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/portmon/portmon/internal/lab"
	"github.com/portmon/portmon/netnstest"
)

func TestIPv6IsBannedByPrefix(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		bits           int
		ban            string
		inside, beyond []string
	}{
		{64, "2001:db8:1:280::/64",
			[]string{"2001:db8:1:280::", "2001:db8:1:280:ffff:ffff:ffff:ffff"},
			[]string{"2001:db8:1:281::", "2001:db8:1:27f:ffff:ffff:ffff:ffff"}},
		{56, "2001:db8:1:200::/56",
			[]string{"2001:db8:1:200::", "2001:db8:1:2ff:ffff:ffff:ffff:ffff"},
			[]string{"2001:db8:1:300::", "2001:db8:1:1ff:ffff:ffff:ffff:ffff"}},
		{57, "2001:db8:1:280::/57",
			[]string{"2001:db8:1:280::", "2001:db8:1:2ff:ffff:ffff:ffff:ffff"},
			[]string{"2001:db8:1:300::", "2001:db8:1:27f:ffff:ffff:ffff:ffff"}},
		{48, "2001:db8:1::/48", []string{"2001:db8:1::", "2001:db8:1:ffff::"}, []string{"2001:db8:2::", "2001:db8:0:ffff::1"}},
		{127, "2001:db8:1:280::bac/127",
			[]string{"2001:db8:1:280::bac"}, []string{"2001:db8:1:280::bab", "2001:db8:1:280::bae"}},
		{128, "2001:db8:1:280::bad", nil, []string{"2001:db8:1:280::bac", "2001:db8:1:280::bae", "2001:db8:1:280::"}},
	} {
		t.Run(fmt.Sprint(tt.bits), func(t *testing.T) {
			spec := trapSpec()
			spec.Prefix6 = tt.bits
			l := newTrap(t, spec)
			offender := addr("2001:db8:1:280::bad")
			l.Offend(offender)
			l.wantBans(tt.ban)
			l.Cut(offender)
			for _, a := range tt.inside {
				l.Cut(addr(a))
				l.Offend(addr(a)) // changes nothing
			}
			for _, a := range tt.beyond {
				l.Served(addr(a))
			}
			l.wantBans(tt.ban)
			if n := l.counters()[CounterBanned]; n != 1 {
				t.Errorf("counter banned is %d, want 1", n)
			}
			// IPv4 is banned by address whatever the prefix.
			v4, next := l.source(families[0]), l.source(families[0])
			l.Offend(v4)
			l.Served(next)
			l.wantBans(tt.ban, v4.String())
		})
	}
}

// TestNeighbourDiscoveryPasses bans the router, and then the /64 of the host's
// own link.
func TestNeighbourDiscoveryPasses(t *testing.T) {
	t.Parallel()
	l := newTrap(t, trapSpec())
	l.Internet.Listen("tcp", "[::]:443")
	l.Internet.Listen("udp", "[::]:53")
	host, router := l.Link.B.IPv6, l.Link.A.IPv6
	l.Offend(router)
	l.wantBans("2001:db8::1") // by itself: its network is one of the host's own
	discovery := func(from netip.Addr, typ uint8) func(netnstest.Packet) bool {
		return func(p netnstest.Packet) bool {
			return p.Proto == netnstest.ICMP && p.Type == typ && p.Src.Addr() == from
		}
	}
	for _, ban := range []string{"", "2001:db8::/64"} {
		if ban != "" {
			l.ban(time.Hour, ban)
		}
		// The host asks for the router, and is answered.
		answers := l.Host.Sniff("eth0")
		l.Link.LearnNeighbours()
		if err := l.Host.Exchange("tcp", netip.Addr{}, at(router, 443), lab.Patience); err != nil {
			t.Errorf("connect to a host of the banned link: %v", err)
		}
		if err := l.Host.Exchange("udp", netip.Addr{}, at(router, 53), lab.Patience); err != nil {
			t.Errorf("send to a host of the banned link: %v", err)
		}
		if _, err := answers.Await(discovery(router, 136), lab.Patience); err != nil {
			t.Errorf("the router advertised itself by another address than that which is banned; what does this prove? %v", err)
		}
		answers.Close()

		// The router asks for the host, and is answered; what it has to say
		// then is dropped.
		answers = l.Internet.Sniff("eth0")
		questions := l.Host.Sniff("eth0")
		l.Link.LearnNeighbours() // a late packet of before may be the one that asks
		conn, err := l.Internet.Dial("udp", router, at(host, lab.OpenUDP), lab.Patience)
		if err != nil {
			t.Fatal(err)
		}
		before := l.counters()[CounterDropped]
		if _, err := conn.Write([]byte("hello")); err != nil {
			t.Fatal(err)
		}
		if _, err := questions.Await(discovery(router, 135), lab.Patience); err != nil {
			t.Errorf("the router did not ask by its banned address: %v", err)
		}
		if _, err := answers.Await(discovery(host, 136), lab.Patience); err != nil {
			t.Errorf("the host did not answer: %v", err)
		}
		lab.Await(t, "the datagram to be dropped", func() bool { return l.counters()[CounterDropped] > before })
		conn.Close()
		answers.Close()
		questions.Close()
	}
}
