package ruleset

import (
	"net/netip"
	"testing"
	"time"

	"github.com/portmon/portmon/internal/lab"
	"github.com/portmon/portmon/netnstest"
)

// behindAddr are the addresses of a container behind the host.
var behindAddr = [...]netip.Addr{addr("198.19.7.1"), addr("2001:db8:c7::1")}

// newBehind adds a container: a host that reaches everything by the lab's host,
// and serves the open ports.
func (l *fixture) newBehind() *netnstest.Host {
	l.T.Helper()
	c := netnstest.NewHost(l.T, "behind")
	link := netnstest.Connect(l.T, c, l.Host, "198.19.7.0/24", "2001:db8:c7::/64")
	l.Host.Forward()
	c.DefaultVia(link.B.IPv4, link.B.IPv6)
	l.Internet.AddRoute("198.19.7.0/24", l.Link.B.IPv4.String())
	l.Internet.AddRoute("2001:db8:c7::/64", l.Link.B.IPv6.String())
	c.Listen("tcp", "[::]:80")
	c.Listen("udp", "[::]:53")
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
	t.Parallel()
	for name, spec := range map[string]Spec{"traps": trapSpec(), "strict scans": scanSpec(1)} {
		t.Run(name, func(t *testing.T) {
			l := newTrap(t, spec)
			l.newBehind()
			for _, c := range behindAddr {
				lab.DNAT(l.T, l.Host, "tcp", 445, at(c, lab.OpenTCP))
				lab.DNAT(l.T, l.Host, "tcp", 8081, at(c, lab.OpenTCP))
				lab.DNAT(l.T, l.Host, "tcp", 8082, at(c, lab.Closed)) // published, and nobody serves it
				lab.DNAT(l.T, l.Host, "udp", 1000, at(c, lab.OpenUDP))
			}
			l.NFT(`table inet redirects {
	chain prerouting {
		type nat hook prerouting priority dstnat - 1; policy accept;
		fib daddr type local tcp dport { 1433, 8083 } redirect to :80
		fib daddr type local tcp dport 8084 redirect to :23
		fib daddr type local tcp dport 8085 redirect to :82
		fib daddr type local udp dport 1001 redirect to :53
	}
}`)
			l.families(func(l *fixture, f family) {
				c := behindAddr[index(f)]
				packets := func(src netip.Addr) []asked {
					return []asked{
						{l.SYN(src, 445), netnstest.AnswerSYNACK},
						{l.SYN(src, 8081), netnstest.AnswerSYNACK},
						{l.SYN(src, 8082), netnstest.AnswerRST},
						{l.UDP(src, 1000), netnstest.AnswerUDP},
						{l.SYN(src, 1433), netnstest.AnswerSYNACK},
						{l.SYN(src, 8083), netnstest.AnswerSYNACK},
						{l.SYN(src, 8084), netnstest.AnswerRST}, // nobody serves what they are redirected to
						{l.SYN(src, 8085), netnstest.AnswerRST},
						{l.UDP(src, 1001), netnstest.AnswerUDP},
						{netnstest.SYN(src, at(c, lab.OpenTCP)), netnstest.AnswerSYNACK},
						{netnstest.SYN(src, at(c, lab.TrapTCP)), netnstest.AnswerRST},
						{netnstest.SYN(src, at(c, lab.Closed)), netnstest.AnswerRST},
						{netnstest.Datagram(src, at(c, lab.OpenUDP), "hello"), netnstest.AnswerUDP},
						{netnstest.Datagram(src, at(c, trapUDP), "hello"), netnstest.AnswerPortUnreachable},
						{netnstest.Ping(src, c, 7), netnstest.AnswerEcho},
					}
				}
				offender, bystander := l.source(f), l.source(f)
				before := l.counters()
				for _, src := range []netip.Addr{offender, bystander, bystander} {
					for _, a := range packets(src) {
						l.Want(a.packet, a.want)
					}
					l.Visit(src)
				}
				l.wantCounts(before, nil)
				l.wantBans()

				l.Want(l.SYN(offender, lab.TrapTCP), netnstest.NoAnswer)
				for _, a := range packets(offender) {
					l.Want(a.packet, netnstest.NoAnswer)
				}
				l.Cut(offender)
				for _, a := range packets(bystander) {
					l.Want(a.packet, a.want)
				}
				l.Visit(bystander)
				l.wantBans(banOf(offender))
				if err := l.open().UnbanAll(); err != nil {
					l.T.Fatal(err)
				}
				for _, a := range packets(offender) {
					l.Want(a.packet, a.want)
				}
			})
		})
	}
}

// TestForwardedIsCutForEveryKindOfBan has bans of each kind hold for what is
// forwarded.
func TestForwardedIsCutForEveryKindOfBan(t *testing.T) {
	t.Parallel()
	l := newTrap(t, trapSpec())
	l.newBehind()
	l.families(func(l *fixture, f family) {
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
					l.T.Fatal(refused, err)
				}
				for _, to := range []netip.AddrPort{at(c, lab.OpenTCP), at(c, lab.TrapTCP)} {
					l.Want(netnstest.SYN(src, to), netnstest.NoAnswer)
				}
				l.Want(netnstest.Datagram(src, at(c, lab.OpenUDP), "hello"), netnstest.NoAnswer)
				l.Want(netnstest.Ping(src, c, 7), netnstest.NoAnswer)
				l.Cut(src)
				l.Want(netnstest.SYN(bystander, at(c, lab.OpenTCP)), netnstest.AnswerSYNACK)
				l.Served(bystander)
				if err := l.open().UnbanAll(); err != nil {
					l.T.Fatal(err)
				}
				l.Want(netnstest.SYN(src, at(c, lab.OpenTCP)), netnstest.AnswerSYNACK)
			}
		}
	})
}
