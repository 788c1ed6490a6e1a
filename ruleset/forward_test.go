package ruleset

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/portmon/portmon/netnstest"
)

var containerAddr = [...]netip.Addr{addr("198.19.0.1"), addr("2001:db8:c::1")}

// newContainer adds a container behind the host: a host that reaches everything by it, and serves the open ports.
func (l *lab) newContainer() *netnstest.Host {
	l.t.Helper()
	c := netnstest.NewHost(l.t, "container")
	link := netnstest.Connect(l.t, c, l.host, "198.19.0.0/24", "2001:db8:c::/64")
	l.host.Forward()
	c.DefaultVia(link.B.IPv4, link.B.IPv6)
	l.outside.AddRoute("198.19.0.0/24", l.link.B.IPv4.String())
	l.outside.AddRoute("2001:db8:c::/64", l.link.B.IPv6.String())
	c.ListenTCP("[::]:80")
	c.ListenUDP("[::]:53")
	return c
}

// container returns the container's address of the family of a source.
func container(src netip.Addr) netip.Addr { return containerAddr[index(ofAddr(src))] }

// TestBannedReachNothingBehindTheHost has ports published as container engines do it, one with the number of a trap.
func TestBannedReachNothingBehindTheHost(t *testing.T) {
	l := newTrap(t, trapSpec())
	l.newContainer()
	for _, c := range containerAddr {
		l.host.DNAT("tcp", 8080, at(c, openTCP))
		l.host.DNAT("tcp", 445, at(c, openTCP))
		l.host.DNAT("udp", 5353, at(c, openUDP))
		l.host.DNAT("udp", 1000, at(c, openUDP))
	}
	l.families(func(l *lab, f family) {
		offender, bystander := l.source(f), l.source(f)
		published := func(src netip.Addr) []netnstest.Packet {
			return []netnstest.Packet{
				l.syn(src, 8080), l.udp(src, 5353),
				l.syn(src, 445), l.udp(src, 1000), // were traps
				netnstest.SYN(src, at(container(src), openTCP)), // routed, not published
				netnstest.Datagram(src, at(container(src), openUDP), "hello"),
			}
		}
		answers := []netnstest.AnswerKind{
			netnstest.AnswerSYNACK, netnstest.AnswerUDP, netnstest.AnswerSYNACK, netnstest.AnswerUDP, netnstest.AnswerSYNACK, netnstest.AnswerUDP,
		}
		for _, src := range []netip.Addr{offender, bystander, bystander} {
			for i, p := range published(src) {
				l.want(p, answers[i])
			}
			l.served(src)
		}
		for _, src := range []netip.Addr{offender, bystander} {
			if b, banned := l.bans()[banOf(src)]; banned {
				l.t.Errorf("a visitor of published ports is banned: %+v", b)
			}
		}

		l.offend(offender)
		for _, p := range published(offender) {
			l.want(p, netnstest.NoAnswer)
		}
		l.cut(offender)
		for i, p := range published(bystander) {
			l.want(p, answers[i])
		}
		l.served(bystander)
	})
	if n := len(l.bans()); n != 2 {
		t.Errorf("%d bans, want 2", n)
	}
	// No more published, it is a trap.
	l.nft("delete table ip published; delete table ip6 published")
	l.families(func(l *lab, f family) {
		src := l.source(f)
		l.want(l.syn(src, 445), netnstest.NoAnswer)
		l.cut(src)
	})
}

// TestForwardedPacketsHitNoTrap has trap ports only where packets for the host itself come.
func TestForwardedPacketsHitNoTrap(t *testing.T) {
	l := newTrap(t, trapSpec())
	c := l.newContainer()
	l.families(func(l *lab, f family) {
		src := l.source(f)
		l.want(netnstest.SYN(src, at(container(src), trapTCP)), netnstest.AnswerRST)
		l.want(netnstest.Datagram(src, at(container(src), trapUDP), "hello"), netnstest.AnswerPortUnreachable)
		l.served(src)
		// Nor does what goes out.
		if got := c.With(l.t).Probe(netnstest.SYN(container(src), at(l.outsideAddr(src), trapTCP))); got.Kind != netnstest.AnswerRST {
			l.t.Errorf("from the container to a trap port outside: got answer %v", got)
		}
	})
	l.wantBans()
	// A container that knocks on a trap of its own host is no better than others, unless it is whitelisted.
	l.families(func(l *lab, f family) {
		src := containerAddr[index(f)]
		if got := c.With(l.t).Probe(l.syn(src, trapTCP)); got.Kind != netnstest.NoAnswer {
			l.t.Errorf("from the container to a trap of the host: got answer %v", got)
		}
		l.served(l.source(f))
	})
	l.wantBans("198.19.0.1", "2001:db8:c::/64")
}

// outsideAddr returns the address of the outside of the family of a source.
func (l *lab) outsideAddr(src netip.Addr) netip.Addr {
	if src.Is4() {
		return l.link.A.IPv4
	}
	return l.link.A.IPv6
}

// TestRoutedDiscoveryIsCut has a banned source from afar call its packets neighbour discovery, which passes.
func TestRoutedDiscoveryIsCut(t *testing.T) {
	l := newTrap(t, trapSpec())
	l.newContainer()
	src := l.source(families[1])
	l.offend(src)
	for _, dst := range []netip.Addr{l.link.B.IPv6, container(src)} {
		for typ := uint8(133); typ <= 136; typ++ {
			before := l.counters()[CounterDropped]
			l.outside.Send(netnstest.Packet{
				Proto: netnstest.ICMP, Src: netip.AddrPortFrom(src, 0), Dst: netip.AddrPortFrom(dst, 0), Type: typ, TTL: 254, Payload: make([]byte, 16),
			})
			await(t, fmt.Sprintf("type %d for %s to be dropped", typ, dst), func() bool { return l.counters()[CounterDropped] > before })
		}
	}
}
