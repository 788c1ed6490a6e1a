package ruleset

import (
	"net/netip"
	"testing"
	"time"

	"github.com/portmon/portmon/netnstest"
)

// behindAddr are the addresses of a container behind the host.
var behindAddr = [...]netip.Addr{addr("198.19.7.1"), addr("2001:db8:c7::1")}

// newBehind adds a container: a host that reaches everything by the lab's host,
// and serves the open ports.
func (l *lab) newBehind() *netnstest.Host {
	l.t.Helper()
	c := netnstest.NewHost(l.t, "behind")
	link := netnstest.Connect(l.t, c, l.host, "198.19.7.0/24", "2001:db8:c7::/64")
	l.host.Forward()
	c.DefaultVia(link.B.IPv4, link.B.IPv6)
	l.outside.AddRoute("198.19.7.0/24", l.link.B.IPv4.String())
	l.outside.AddRoute("2001:db8:c7::/64", l.link.B.IPv6.String())
	c.ListenTCP("[::]:80")
	c.ListenUDP("[::]:53")
	return c
}

// asked is a packet, and how it is answered.
type asked struct {
	packet netnstest.Packet
	want   netnstest.AnswerKind
}

// TestTranslatedIsNotAnOffence has trap ports, and ports that would count as
// closed, published by a container and redirected to another port, and a
// container that serves nothing on them. A banned source reaches none of it.
func TestTranslatedIsNotAnOffence(t *testing.T) {
	for name, spec := range map[string]Spec{"traps": trapSpec(), "strict scans": scanSpec(1)} {
		t.Run(name, func(t *testing.T) {
			l := newTrap(t, spec)
			l.newBehind()
			for _, c := range behindAddr {
				l.host.DNAT("tcp", 445, at(c, openTCP))
				l.host.DNAT("tcp", 8081, at(c, openTCP))
				l.host.DNAT("tcp", 8082, at(c, closed)) // published, and nobody serves it
				l.host.DNAT("udp", 1000, at(c, openUDP))
			}
			l.nft(`table inet redirects {
	chain prerouting {
		type nat hook prerouting priority dstnat - 1; policy accept;
		fib daddr type local tcp dport { 1433, 8083 } redirect to :80
		fib daddr type local tcp dport 8084 redirect to :23
		fib daddr type local tcp dport 8085 redirect to :82
		fib daddr type local udp dport 1001 redirect to :53
	}
}`)
			l.families(func(l *lab, f family) {
				c := behindAddr[index(f)]
				packets := func(src netip.Addr) []asked {
					return []asked{
						{l.syn(src, 445), netnstest.AnswerSYNACK},
						{l.syn(src, 8081), netnstest.AnswerSYNACK},
						{l.syn(src, 8082), netnstest.AnswerRST},
						{l.udp(src, 1000), netnstest.AnswerUDP},
						{l.syn(src, 1433), netnstest.AnswerSYNACK},
						{l.syn(src, 8083), netnstest.AnswerSYNACK},
						{l.syn(src, 8084), netnstest.AnswerRST}, // nobody serves what they are redirected to
						{l.syn(src, 8085), netnstest.AnswerRST},
						{l.udp(src, 1001), netnstest.AnswerUDP},
						{netnstest.SYN(src, at(c, openTCP)), netnstest.AnswerSYNACK},
						{netnstest.SYN(src, at(c, trapTCP)), netnstest.AnswerRST},
						{netnstest.SYN(src, at(c, closed)), netnstest.AnswerRST},
						{netnstest.Datagram(src, at(c, openUDP), "hello"), netnstest.AnswerUDP},
						{netnstest.Datagram(src, at(c, trapUDP), "hello"), netnstest.AnswerPortUnreachable},
						{netnstest.Ping(src, c, 7), netnstest.AnswerEcho},
					}
				}
				offender, bystander := l.source(f), l.source(f)
				before := l.counters()
				for _, src := range []netip.Addr{offender, bystander, bystander} {
					for _, a := range packets(src) {
						l.want(a.packet, a.want)
					}
					l.visit(src)
				}
				l.wantCounts(before, nil)
				l.wantBans()

				l.want(l.syn(offender, trapTCP), netnstest.NoAnswer)
				for _, a := range packets(offender) {
					l.want(a.packet, netnstest.NoAnswer)
				}
				l.cut(offender)
				for _, a := range packets(bystander) {
					l.want(a.packet, a.want)
				}
				l.visit(bystander)
				l.wantBans(banOf(offender))
				if err := l.open().UnbanAll(); err != nil {
					l.t.Fatal(err)
				}
				for _, a := range packets(offender) {
					l.want(a.packet, a.want)
				}
			})
		})
	}
}

// TestForwardedIsCutForEveryKindOfBan has bans of each kind hold for what is
// forwarded.
func TestForwardedIsCutForEveryKindOfBan(t *testing.T) {
	l := newTrap(t, trapSpec())
	l.newBehind()
	l.families(func(l *lab, f family) {
		c := behindAddr[index(f)]
		bits, covering := 32, 24
		if f.is6() {
			bits, covering = 64, 48
		}
		for _, bits := range []int{bits, covering} {
			src := l.source(f)
			bystander := addr("203.0.113.1")
			if f.is6() {
				bystander = addr("2001:db8:113::1")
			}
			source := netip.PrefixFrom(src, bits).Masked()
			for _, cause := range []Cause{CauseHand, CauseSubnet} {
				r := Record{Source: source, Banned: true, Timeout: time.Hour, Remaining: time.Hour, Cause: cause}
				if refused, err := l.open().Put([]Record{r}); err != nil || refused != nil {
					l.t.Fatal(refused, err)
				}
				for _, to := range []netip.AddrPort{at(c, openTCP), at(c, trapTCP)} {
					l.want(netnstest.SYN(src, to), netnstest.NoAnswer)
				}
				l.want(netnstest.Datagram(src, at(c, openUDP), "hello"), netnstest.NoAnswer)
				l.want(netnstest.Ping(src, c, 7), netnstest.NoAnswer)
				l.cut(src)
				l.want(netnstest.SYN(bystander, at(c, openTCP)), netnstest.AnswerSYNACK)
				l.served(bystander)
				if err := l.open().UnbanAll(); err != nil {
					l.t.Fatal(err)
				}
				l.want(netnstest.SYN(src, at(c, openTCP)), netnstest.AnswerSYNACK)
			}
		}
	})
}
