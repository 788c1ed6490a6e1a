package route

import (
	"net"
	"net/netip"
	"reflect"
	"strings"
	"testing"

	vnl "github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	main  = unix.RT_TABLE_MAIN
	other = 100
)

var (
	byEth0 = [2]int{strangers, 0}
	byEth1 = [2]int{0, strangers}
	both   = []string{"eth0", "eth1"}
)

// twoTables has one default route in the main table, by eth0, and one by eth1
// in another, which a rule leads to.
func twoTables(rule func(*lab, int, *vnl.Rule)) func(*lab, int) {
	return func(l *lab, family int) {
		l.route(family, main, 100, 0)
		l.route(family, other, 100, 1)
		l.policy(family, func(r *vnl.Rule) { rule(l, family, r) })
	}
}

func byMark(_ *lab, _ int, r *vnl.Rule) { r.Mark = 2 }

// What the kernel says about the route back, beside the truth: where answers
// go. And what is made of it. All of this is the same in both families.
func TestRouteBack(t *testing.T) {
	tests := []struct {
		name  string
		setUp func(*lab, int)
		want  [2]outcome // of packets that come in by eth0, and by eth1
		ways  Ways
		blind bool
		doubt string // a part of it
	}{
		{
			"no default route", func(*lab, int) {},
			[2]outcome{{missing: strangers}, {missing: strangers}},
			Ways{}, false, "",
		},
		{
			"one default route", func(l *lab, f int) { l.route(f, main, 100, 0) },
			[2]outcome{{0, byEth0}, {strangers, byEth0}},
			Ways{Devices: []string{"eth0"}}, false, "",
		},
		{
			"two metrics", func(l *lab, f int) { l.route(f, main, 200, 1); l.route(f, main, 100, 0) },
			[2]outcome{{0, byEth0}, {strangers, byEth0}},
			Ways{Devices: both, Several: true}, false, "by another interface than an answer would leave by",
		},
		{
			"by source address", twoTables(func(l *lab, f int, r *vnl.Rule) {
				a := addr(l.up[1].B, f)
				r.Src = &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(a.BitLen(), a.BitLen())}
			}),
			[2]outcome{{0, byEth0}, {0, byEth1}},
			Ways{Devices: both}, false, "",
		},
		{
			"by mark, set in prerouting", func(l *lab, f int) { twoTables(byMark)(l, f); l.mark(true) },
			[2]outcome{{0, byEth0}, {0, byEth1}},
			Ways{Devices: both, Marks: true}, false, "in prerouting before priority -99",
		},
		{
			// Packets on the way in have no mark yet: this is why there is a
			// doubt.
			"by mark, set in output", func(l *lab, f int) { twoTables(byMark)(l, f); l.mark(false) },
			[2]outcome{{0, byEth0}, {strangers, byEth1}},
			Ways{Devices: both, Marks: true}, false, "meta mark, not ct mark alone",
		},
		{
			"by protocol", twoTables(func(_ *lab, _ int, r *vnl.Rule) { r.IPProto = unix.IPPROTO_TCP }),
			[2]outcome{{strangers, byEth1}, {0, byEth1}},
			Ways{Devices: both}, false, "",
		},
		{
			// Answers come from this host, not from eth1.
			"by incoming interface", twoTables(func(l *lab, _ int, r *vnl.Rule) { r.IifName = l.up[1].B.Dev }),
			[2]outcome{{0, byEth0}, {strangers, byEth0}},
			Ways{Devices: both}, false, "",
		},
		{
			// The test is wrong about every packet.
			"by port", twoTables(func(_ *lab, _ int, r *vnl.Rule) {
				r.IPProto = unix.IPPROTO_TCP
				r.Sport = vnl.NewRulePortRange(23, 23)
			}),
			[2]outcome{{0, byEth1}, {strangers, byEth1}},
			Ways{Devices: both, Ports: true}, true, "routing rules by port",
		},
		{
			// As wg-quick does it: all but the tunnel's own packets.
			"for all but a mark", twoTables(func(_ *lab, _ int, r *vnl.Rule) { r.Mark, r.Invert = 2, true }),
			[2]outcome{{strangers, byEth1}, {0, byEth1}},
			Ways{Devices: both, Marks: true}, false, "rules by mark",
		},
		{
			"another table for all", twoTables(func(*lab, int, *vnl.Rule) {}),
			[2]outcome{{strangers, byEth1}, {0, byEth1}},
			Ways{Devices: both, Several: true}, false, "default routes by eth0, eth1",
		},
		{
			// As OpenVPN does it.
			"two halves", func(l *lab, f int) {
				l.route(f, main, 100, 0)
				l.routeTo(map[int]string{unix.AF_INET: "0.0.0.0/1", unix.AF_INET6: "::/1"}[f], main, 100, 1)
				l.routeTo(map[int]string{unix.AF_INET: "128.0.0.0/1", unix.AF_INET6: "8000::/1"}[f], main, 100, 1)
			},
			[2]outcome{{strangers, byEth1}, {0, byEth1}},
			Ways{Devices: both, Several: true}, false, "default routes by",
		},
	}
	for _, tt := range tests {
		each(t, tt.name, func(l *lab, family int) {
			tt.setUp(l, family)
			for uplink, want := range tt.want {
				if got := l.try(family, uplink); got != want {
					l.t.Errorf("in by eth%d: got %+v, want %+v", uplink, got, want)
				}
			}
			l.wantFacts(family, tt.ways, tt.blind, tt.doubt)
		})
	}
}

// Of several nexthops the kernel takes one by a hash; in IPv4 the test for a
// route back accepts each of them.
func TestMultipath4(t *testing.T) {
	l := newLab(t)
	l.route(unix.AF_INET, main, 100, 0, 1)
	for uplink := range l.up {
		if got := l.try(unix.AF_INET, uplink); got.missing != 0 {
			t.Errorf("in by eth%d: got %+v, want a route back for all", uplink, got)
		}
	}
	l.wantFacts(unix.AF_INET, Ways{Devices: both, Multipath: true}, false, "")
}

// In IPv6 it does not, so that a part of all sources would never be banned. It
// is the same for a route to these sources alone.
func TestMultipath6(t *testing.T) {
	for name, tt := range map[string]struct {
		setUp func(*lab)
		ways  Ways
	}{
		"default route": {
			func(l *lab) { l.route(unix.AF_INET6, main, 100, 0, 1) },
			Ways{Devices: both, Multipath: true},
		},
		"one route, and another of the same metric": {
			func(l *lab) { l.route(unix.AF_INET6, main, 100, 0); l.route(unix.AF_INET6, main, 100, 1) },
			Ways{Devices: both, Multipath: true},
		},
		"special route": {
			func(l *lab) { l.routeTo("2001:db8:f00d::/48", main, 100, 0, 1) },
			Ways{Multipath: true},
		},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t)
			tt.setUp(l)
			for uplink := range l.up {
				got := l.try(unix.AF_INET6, uplink)
				switch got.missing {
				case 0:
					t.Logf("in by eth%d: this kernel accepts each nexthop: there is no need any more to leave the test out", uplink)
				case strangers:
					t.Errorf("in by eth%d: got %+v, want a route back for some", uplink, got)
				}
			}
			l.wantFacts(unix.AF_INET6, tt.ways, true, "IPv6 has multipath routes")
		})
	}
}

// Where all nexthops are on one link, there is nothing to choose.
func TestMultipathByOneInterface(t *testing.T) {
	each(t, "", func(l *lab, family int) {
		multipath := &vnl.Route{Dst: network(everywhere[family]), Family: family}
		for _, text := range map[int][]string{unix.AF_INET: {"192.0.2.1", "192.0.2.9"}, unix.AF_INET6: {"2001:db8:1::1", "2001:db8:1::9"}}[family] {
			gateway := netip.MustParseAddr(text)
			if gateway != addr(l.up[0].A, family) {
				l.up[0].A.Host.AddAddr(l.up[0].A.Dev, netip.PrefixFrom(gateway, gateway.BitLen()).String())
			}
			multipath.MultiPath = append(multipath.MultiPath, &vnl.NexthopInfo{LinkIndex: l.up[0].B.Index, Gw: gateway.AsSlice()})
		}
		l.check(l.rtnl.RouteAdd(multipath))
		for uplink, want := range [2]outcome{{0, byEth0}, {strangers, byEth0}} {
			if got := l.try(family, uplink); got != want {
				t.Errorf("in by eth%d: got %+v, want %+v", uplink, got, want)
			}
		}
		l.wantFacts(family, Ways{Devices: []string{"eth0"}}, false, "")
	})
}

// Two IPv4 default routes of one metric are no multipath route, and yet answers
// take either: but the test knows only the first.
func TestOneMetricTwice4(t *testing.T) {
	l := newLab(t)
	l.route(unix.AF_INET, main, 100, 0)
	l.route(unix.AF_INET, main, 100, 1)
	got := l.try(unix.AF_INET, 1)
	if got.missing != strangers || got.back[0] == 0 || got.back[1] == 0 {
		t.Errorf("in by eth1: got %+v, want no route back, and answers by both", got)
	}
	l.wantFacts(unix.AF_INET, Ways{Devices: both, Several: true, Equal: true}, true, "default routes of one metric")
}

// Two IPv6 default routes of one metric that cannot be made one, as those that
// two routers announce: the kernel takes the first as long as it is good.
func TestOneMetricTwice6(t *testing.T) {
	l := newLab(t)
	for _, up := range l.up {
		l.check(l.rtnl.RouteAppend(&vnl.Route{
			Dst: network("::/0"), Priority: 100, Family: unix.AF_INET6, LinkIndex: up.B.Index, Scope: vnl.SCOPE_LINK,
		}))
	}
	for uplink, want := range [2]outcome{{0, byEth0}, {strangers, byEth0}} {
		if got := l.try(unix.AF_INET6, uplink); got.missing != want.missing {
			t.Errorf("in by eth%d: got %+v, want %+v", uplink, got, want)
		}
	}
	l.wantFacts(unix.AF_INET6, Ways{Devices: both, Several: true, Equal: true}, false, "default routes by eth0, eth1")
}

// each runs a test for both families.
func each(t *testing.T, name string, test func(*lab, int)) {
	for version, family := range map[string]int{"IPv4": unix.AF_INET, "IPv6": unix.AF_INET6} {
		t.Run(strings.TrimPrefix(name+"/"+version, "/"), func(t *testing.T) { test(newLab(t), family) })
	}
}

// wantFacts checks what Read says about one family. Of the other it is to say
// nothing.
func (l *lab) wantFacts(family int, ways Ways, blind bool, doubt string) {
	l.t.Helper()
	got, err := Read(l.host.FD())
	l.check(err)
	want := Facts{IPv4: ways, NoReversePath4: blind}
	name := "IPv4 "
	if family == unix.AF_INET6 {
		want = Facts{IPv6: ways, NoReversePath6: blind}
		name = "IPv6 "
	}
	// Which networks and neighbours there are is tested elsewhere.
	want.Own, want.Gateways, want.OnLink4, want.OnLink6 = got.Own, got.Gateways, got.OnLink4, got.OnLink6
	if !reflect.DeepEqual(got, want) {
		l.t.Errorf("got %+v, want %+v", got, want)
	}
	doubts := got.Doubts()
	switch {
	case doubt == "" && len(doubts) == 0:
	case doubt != "" && len(doubts) == 1 && strings.HasPrefix(doubts[0], name) && strings.Contains(doubts[0], doubt):
	default:
		l.t.Errorf("doubts are %q: want %q", doubts, doubt)
	}
}
