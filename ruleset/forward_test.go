package ruleset

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/portmon/portmon/internal/lab"
	"github.com/portmon/portmon/netnstest"
)

var containerAddr = [...]netip.Addr{addr("198.19.0.1"), addr("2001:db8:c::1")}

// newContainer adds a container behind the host: a host that reaches everything
// by it, and serves the open ports.
func (l *fixture) newContainer() *netnstest.Host {
	l.T.Helper()
	c := netnstest.NewHost(l.T, "container")
	link := netnstest.Connect(l.T, c, l.Host, "198.19.0.0/24", "2001:db8:c::/64")
	l.Host.Forward()
	c.DefaultVia(link.B.IPv4, link.B.IPv6)
	l.Internet.AddRoute("198.19.0.0/24", l.Link.B.IPv4.String())
	l.Internet.AddRoute("2001:db8:c::/64", l.Link.B.IPv6.String())
	c.Listen("tcp", "[::]:80")
	c.Listen("udp", "[::]:53")
	return c
}

// container returns the container's address of the family of a source.
func container(src netip.Addr) netip.Addr { return containerAddr[index(ofAddr(src))] }

// TestBannedReachNothingBehindTheHost has ports published as container engines
// do it, one with the number of a trap.
func TestBannedReachNothingBehindTheHost(t *testing.T) {
	t.Parallel()
	l := newTrap(t, trapSpec())
	l.newContainer()
	for _, c := range containerAddr {
		lab.DNAT(l.T, l.Host, "tcp", 8080, at(c, lab.OpenTCP))
		lab.DNAT(l.T, l.Host, "tcp", 445, at(c, lab.OpenTCP))
		lab.DNAT(l.T, l.Host, "udp", 5353, at(c, lab.OpenUDP))
		lab.DNAT(l.T, l.Host, "udp", 1000, at(c, lab.OpenUDP))
	}
	l.families(func(l *fixture, f family) {
		offender, bystander := l.source(f), l.source(f)
		published := func(src netip.Addr) []netnstest.Packet {
			return []netnstest.Packet{
				l.SYN(src, 8080), l.UDP(src, 5353),
				l.SYN(src, 445), l.UDP(src, 1000), // were traps
				netnstest.SYN(src, at(container(src), lab.OpenTCP)), // routed, not published
				netnstest.Datagram(src, at(container(src), lab.OpenUDP), "hello"),
			}
		}
		answers := []netnstest.AnswerKind{
			netnstest.AnswerSYNACK, netnstest.AnswerUDP, netnstest.AnswerSYNACK, netnstest.AnswerUDP, netnstest.AnswerSYNACK, netnstest.AnswerUDP,
		}
		for _, src := range []netip.Addr{offender, bystander, bystander} {
			for i, p := range published(src) {
				l.Want(p, answers[i])
			}
			l.Served(src)
		}
		for _, src := range []netip.Addr{offender, bystander} {
			if b, banned := l.bans()[banOf(src)]; banned {
				l.T.Errorf("a visitor of published ports is banned: %+v", b)
			}
		}

		l.Offend(offender)
		for _, p := range published(offender) {
			l.Want(p, netnstest.NoAnswer)
		}
		l.Cut(offender)
		for i, p := range published(bystander) {
			l.Want(p, answers[i])
		}
		l.Served(bystander)
	})
	if n := len(l.bans()); n != 2 {
		t.Errorf("%d bans, want 2", n)
	}
	// No more published, it is a trap.
	l.NFT("delete table ip published; delete table ip6 published")
	l.families(func(l *fixture, f family) {
		src := l.source(f)
		l.Want(l.SYN(src, 445), netnstest.NoAnswer)
		l.Cut(src)
	})
}

// TestForwardedPacketsHitNoTrap has trap ports only where packets for the host
// itself come.
func TestForwardedPacketsHitNoTrap(t *testing.T) {
	t.Parallel()
	l := newTrap(t, trapSpec())
	c := l.newContainer()
	l.families(func(l *fixture, f family) {
		src := l.source(f)
		l.Want(netnstest.SYN(src, at(container(src), lab.TrapTCP)), netnstest.AnswerRST)
		l.Want(netnstest.Datagram(src, at(container(src), trapUDP), "hello"), netnstest.AnswerPortUnreachable)
		l.Served(src)
		// Nor does what goes out.
		if got := c.With(l.T).Probe(netnstest.SYN(container(src), at(l.outsideAddr(src), lab.TrapTCP))); got.Kind != netnstest.AnswerRST {
			l.T.Errorf("from the container to a trap port outside: got answer %v", got)
		}
	})
	l.wantBans()
	// A container that knocks on a trap of its own host is no better than
	// others, unless it is whitelisted.
	l.families(func(l *fixture, f family) {
		src := containerAddr[index(f)]
		if got := c.With(l.T).Probe(l.SYN(src, lab.TrapTCP)); got.Kind != netnstest.NoAnswer {
			l.T.Errorf("from the container to a trap of the host: got answer %v", got)
		}
		l.Served(l.source(f))
	})
	l.wantBans("198.19.0.1", "2001:db8:c::/64")
}

// outsideAddr returns the address of the outside of the family of a source.
func (l *fixture) outsideAddr(src netip.Addr) netip.Addr {
	if src.Is4() {
		return l.Link.A.IPv4
	}
	return l.Link.A.IPv6
}

// TestRoutedDiscoveryIsCut has a banned source from afar call its packets
// neighbour discovery, which passes.
func TestRoutedDiscoveryIsCut(t *testing.T) {
	t.Parallel()
	l := newTrap(t, trapSpec())
	l.newContainer()
	src := l.source(families[1])
	l.Offend(src)
	for _, dst := range []netip.Addr{l.Link.B.IPv6, container(src)} {
		for typ := uint8(133); typ <= 136; typ++ {
			before := l.counters()[CounterDropped]
			l.Internet.Send(netnstest.Packet{
				Proto: netnstest.ICMP, Src: netip.AddrPortFrom(src, 0), Dst: netip.AddrPortFrom(dst, 0), Type: typ, TTL: 254, Payload: make([]byte, 16),
			})
			lab.Await(t, fmt.Sprintf("type %d for %s to be dropped", typ, dst), func() bool { return l.counters()[CounterDropped] > before })
		}
	}
}
