package ruleset

import (
	"net"
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/portmon/portmon/internal/lab"
	"github.com/portmon/portmon/netnstest"
)

// routed makes a lab whose host has a route to the sources, and to no others.
func routed(t *testing.T, spec Spec) *fixture {
	l := newBareLab(t)
	l.Host.Listen("tcp", "[::]:80")
	l.Host.Listen("udp", "[::]:53")
	l.Host.AddRoute(lab.Sources4, l.Link.A.IPv4.String())
	l.Host.AddRoute(lab.Sources6, l.Link.A.IPv6.String())
	l.apply(spec)
	return l
}

// stranger are sources that there is no route to.
var stranger = [...]netip.Addr{addr("203.0.113.66"), addr("2001:db8:113::66")}

// TestNoRouteBack drops what nobody can have sent who waits for an answer, says
// so, and bans nobody.
func TestNoRouteBack(t *testing.T) {
	t.Parallel()
	spec := trapSpec()
	spec.Scan.Ports = 1
	l := routed(t, spec)
	elsewhere := netnstest.NewHost(t, "elsewhere")
	link := netnstest.Connect(t, elsewhere, l.Host, "192.0.3.0/24", "2001:db8:3::/64")
	l.Host.AddRoute("203.0.112.0/24", link.A.IPv4.String())
	l.Host.AddRoute("2001:db8:112::/48", link.A.IPv6.String())
	l.families(func(l *fixture, f family) {
		bystander, other := l.source(f), [...]netip.Addr{addr("203.0.112.9"), addr("2001:db8:112::9")}[index(f)]
		for _, src := range []netip.Addr{stranger[index(f)], other} { // nowhere, and by the other interface
			before := l.counters()
			for _, p := range []netnstest.Packet{
				l.SYN(src, lab.TrapTCP), l.TCP(src, lab.TrapTCP, 0), l.UDP(src, trapUDP), l.SYN(src, 200), l.TCP(src, 200, netnstest.FlagFIN),
			} {
				l.Want(p, netnstest.NoAnswer)
			}
			l.wantCounts(before, map[string]uint64{CounterUnroutable: 5})
			l.wantStanding(src, 0, CauseUnknown)
		}
		if got := elsewhere.With(l.T).Probe(l.SYN(other, lab.TrapTCP)); got.Kind != netnstest.NoAnswer {
			l.T.Errorf("a trap packet by the right interface gets %v", got)
		}
		l.wantStanding(other, 1, CauseTrap)
		l.Visit(bystander)
		if err := l.open().UnbanAll(); err != nil {
			l.T.Fatal(err)
		}
	})
}

// TestRouteByMark has the mark of a packet choose the route back, as hosts with
// several uplinks do it.
func TestRouteByMark(t *testing.T) {
	t.Parallel()
	const table, mark = 100, 7
	l := routed(t, trapSpec())
	for i, network := range []string{"203.0.113.0/24", "2001:db8:113::/48"} {
		gateway := l.ours(stranger[i])
		dst := prefix(network)
		family := netlink.FAMILY_V4
		if dst.Addr().Is6() {
			family = netlink.FAMILY_V6
		}
		var err error
		l.Host.Do(func() {
			rule := netlink.NewRule()
			rule.Family, rule.Mark, rule.Table = family, mark, table
			if err = netlink.RuleAdd(rule); err != nil {
				return
			}
			err = netlink.RouteAdd(&netlink.Route{
				Table: table, Gw: gateway.AsSlice(),
				Dst: &net.IPNet{IP: dst.Addr().AsSlice(), Mask: net.CIDRMask(dst.Bits(), dst.Addr().BitLen())},
			})
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	l.families(func(l *fixture, f family) {
		src, bystander := stranger[index(f)], l.source(f)
		before := l.counters()
		l.Want(l.SYN(src, lab.TrapTCP), netnstest.NoAnswer)
		l.wantCounts(before, map[string]uint64{CounterUnroutable: 1})
		l.wantStanding(src, 0, CauseUnknown)
		l.Served(bystander)
	})
	l.NFT(`table inet marks {
	chain prerouting {
		type filter hook prerouting priority mangle; policy accept;
		ip saddr 203.0.113.0/24 meta mark set 7
		ip6 saddr 2001:db8:113::/48 meta mark set 7
	}
}`)
	l.families(func(l *fixture, f family) {
		src, bystander := stranger[index(f)], l.source(f)
		before := l.counters()
		l.Want(l.SYN(src, lab.TrapTCP), netnstest.NoAnswer)
		l.wantCounts(before, map[string]uint64{CounterTrapped: 1, CounterBanned: 1})
		l.wantStanding(src, 1, CauseTrap)
		l.Served(bystander)
	})
}

// TestWithoutReversePath leaves the question out, for one family or both.
func TestWithoutReversePath(t *testing.T) {
	t.Parallel()
	for name, without := range map[string][2]bool{"both": {true, true}, "IPv4": {true, false}, "IPv6": {false, true}} {
		t.Run("not for "+name, func(t *testing.T) {
			spec := trapSpec()
			spec.NoReversePath4, spec.NoReversePath6 = without[0], without[1]
			l := routed(t, spec)
			l.families(func(l *fixture, f family) {
				src := stranger[index(f)]
				before := l.counters()
				l.Want(l.SYN(src, lab.TrapTCP), netnstest.NoAnswer)
				if without[index(f)] {
					l.wantCounts(before, map[string]uint64{CounterTrapped: 1, CounterBanned: 1})
					l.wantStanding(src, 1, CauseTrap)
				} else {
					l.wantCounts(before, map[string]uint64{CounterUnroutable: 1})
					l.wantStanding(src, 0, CauseUnknown)
				}
				l.Served(l.source(f))
			})
		})
	}
}
