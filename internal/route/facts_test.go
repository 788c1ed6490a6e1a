package route

import (
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/mdlayher/netlink"
	vnl "github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/netnstest"
)

func read(t *testing.T, h *netnstest.Host) Facts {
	t.Helper()
	f, err := Read(h.FD())
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// A network is on the link if the host has an address in it: by the length of
// that address, or by a route that the router has announced.
func TestOnLink6(t *testing.T) {
	l := newLab(t)
	for _, a := range []string{
		"fd00:1:2:3::5/64",       // unique local addresses are shared as well
		"2001:db8:1::7/64",       // the same network as that of the link
		"2001:db8:3::80/121",     // what the kernel says, however odd
		"2001:db8:4:4::7/128",    // by DHCPv6, with an announced network
		"2001:db8:5:5::7/128",    // by DHCPv6, alone
		"2001:db8:6:6::7/128",    // with a network behind a gateway
		"2001:db8:7:7:7:7:7:7/1", // nobody shares half of the internet
	} {
		l.host.AddAddr("eth1", a)
	}
	l.host.AddAddr("lo", "2001:db8:8::1/64")
	l.host.AddAddr("eth1", "192.0.2.99/32")
	for _, onLink := range []string{
		"2001:db8:4:4::/64",
		"2001:db8:9::/64", // this host has no address in it
		"2001:db8::/32",   // wide, as for what lies behind a tunnel
		"::/0",
	} {
		l.check(l.rtnl.RouteAdd(&vnl.Route{Dst: network(onLink), LinkIndex: l.up[0].B.Index, Family: unix.AF_INET6, Scope: vnl.SCOPE_LINK}))
	}
	l.routeTo("2001:db8:6:6::/64", main, 100, 0)

	var got []string
	for _, p := range read(t, l.host).OnLink6 {
		got = append(got, p.String())
	}
	want := []string{"2001:db8:1::/64", "2001:db8:2::/64", "2001:db8:3::80/121", "2001:db8:4:4::/64", "fd00:1:2:3::/64"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// Neighbours are found wherever the kernel says it: by addresses, of both ends
// of a link from point to point, and by default routes of any form.
func TestNeighbours(t *testing.T) {
	l := newLab(t)
	l.route(unix.AF_INET, main, 100, 0)
	l.route(unix.AF_INET6, main, 100, 0, 1)
	l.route(unix.AF_INET, main, 200, 1)
	l.route(unix.AF_INET, other, 100, 1) // which no rule leads to
	l.routeTo("198.18.0.0/24", main, 100, 1)
	l.check(l.rtnl.RouteAppend(&vnl.Route{
		Dst: network("0.0.0.0/1"), LinkIndex: l.up[1].B.Index, Via: &vnl.Via{AddrFamily: unix.AF_INET6, Addr: net.ParseIP("2001:db8:2::9")},
	}))
	l.host.AddAddr("lo", "203.0.113.5/24")
	l.host.AddAddr("eth1", "203.0.113.6/32")
	eth1, err := l.rtnl.LinkByName("eth1")
	l.check(err)
	l.check(l.rtnl.AddrAdd(eth1, &vnl.Addr{IPNet: &net.IPNet{IP: net.ParseIP("10.0.0.1").To4(), Mask: net.CIDRMask(30, 32)}, Peer: network("10.0.0.0/30")}))

	got := read(t, l.host)
	first4, first6 := l.up[0].A.IPv4, l.up[0].A.IPv6
	second4, second6 := l.up[1].A.IPv4, l.up[1].A.IPv6
	want := []netip.Addr{first4, second4, first6, second6, netip.MustParseAddr("2001:db8:2::9")}
	if !slices.Equal(got.Gateways, want) {
		t.Errorf("gateways: got %v, want %v", got.Gateways, want)
	}
	networks := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/30"), netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("198.51.100.0/24")}
	if !slices.Equal(got.OnLink4, networks) {
		t.Errorf("networks: got %v, want %v", got.OnLink4, networks)
	}
	for _, own := range []netip.Addr{
		l.up[0].B.IPv4, l.up[1].B.IPv6, netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("203.0.113.5"),
		netip.MustParseAddr("203.0.113.6"), netip.MustParseAddr("10.0.0.1"),
	} {
		if !slices.Contains(got.Own, own) {
			t.Errorf("own addresses: %v is not among %v", own, got.Own)
		}
	}
	for _, a := range []netip.Addr{first4, first6, netip.MustParseAddr("10.0.0.0")} {
		if slices.Contains(got.Own, a) {
			t.Errorf("own addresses: %v, of a neighbour, is among %v", a, got.Own)
		}
	}
}

// The namespace is the one of the descriptor, and that of the thread for 0.
func TestNamespaces(t *testing.T) {
	l := newLab(t)
	l.route(unix.AF_INET, main, 100, 0)
	if got := read(t, netnstest.NewHost(t, "empty")); len(got.IPv4.Devices)+len(got.OnLink6) > 0 || got.Doubts() != nil {
		t.Errorf("of a host without links: %+v", got)
	}
	l.host.Do(func() {
		got, err := Read(0)
		if err != nil || !slices.Equal(got.IPv4.Devices, []string{"eth0"}) {
			t.Errorf("in the namespace: %+v, %v", got, err)
		}
	})
	if got, err := Read(1 << 20); err == nil || !strings.HasPrefix(err.Error(), "open netlink socket: ") {
		t.Errorf("of a bad descriptor: %+v, %v", got, err)
	}
}

// Of a table that no rule leads to, nothing counts.
func TestTableWithoutRule(t *testing.T) {
	each(t, "", func(l *lab, family int) {
		l.route(family, main, 100, 0)
		l.route(family, other, 100, 1)
		l.route(family, other+1, 100, 0, 1)
		l.wantFacts(family, Ways{Devices: []string{"eth0"}}, false, "")
	})
}

// Routes that lead nowhere are none, and what a rule refuses has no route.
func TestNoRoutes(t *testing.T) {
	each(t, "", func(l *lab, family int) {
		l.route(family, main, 100, 0)
		for i, kind := range []int{unix.RTN_BLACKHOLE, unix.RTN_UNREACHABLE, unix.RTN_PROHIBIT, unix.RTN_THROW} {
			l.check(l.rtnl.RouteAppend(&vnl.Route{Dst: network(everywhere[family]), Priority: 5000 + i, Type: kind, Family: family}))
		}
		l.route(family, other, 100, 1)
		l.policy(family, func(r *vnl.Rule) { r.Type = unix.FR_ACT_BLACKHOLE; r.Mark = 7; r.Table = 0 })
		l.wantFacts(family, Ways{Devices: []string{"eth0"}}, false, "")
	})
}

// Rules by mark or port are no matter where all routes lead to one interface,
// as those of Tailscale do.
func TestRulesThatChooseNothing(t *testing.T) {
	each(t, "", func(l *lab, family int) {
		l.route(family, main, 100, 0)
		l.policy(family, func(r *vnl.Rule) { r.Mark, r.Table = 0x80000, main })
		l.policy(family, func(r *vnl.Rule) {
			r.Dport, r.IPProto, r.Table, r.Priority = vnl.NewRulePortRange(25, 25), unix.IPPROTO_TCP, main, 1001
		})
		l.wantFacts(family, Ways{Devices: []string{"eth0"}, Marks: true, Ports: true}, false, "")
	})
}

// Nexthop objects are told by their number alone if the kernel is asked to: it
// is then taken for several.
func TestNexthopObjects(t *testing.T) {
	each(t, "", func(l *lab, family int) {
		conn, err := netlink.Dial(unix.NETLINK_ROUTE, &netlink.Config{NetNS: l.host.FD()})
		l.check(err)
		defer conn.Close()
		send := func(kind netlink.HeaderType, header []byte, attrs ...netlink.Attribute) {
			l.t.Helper()
			b, err := netlink.MarshalAttributes(attrs)
			l.check(err)
			_, err = conn.Execute(netlink.Message{
				Header: netlink.Header{Type: kind, Flags: netlink.Request | netlink.Acknowledge | netlink.Create},
				Data:   append(header, b...),
			})
			l.check(err)
		}
		var group []byte
		for i, up := range l.up {
			id := number(uint32(1 + i))
			send(unix.RTM_NEWNEXTHOP, []byte{byte(family), 0, 0, 0, 0, 0, 0, 0}, // struct nhmsg
				netlink.Attribute{Type: unix.NHA_ID, Data: id},
				netlink.Attribute{Type: unix.NHA_OIF, Data: number(uint32(up.B.Index))},
				netlink.Attribute{Type: unix.NHA_GATEWAY, Data: addr(up.A, family).AsSlice()})
			group = append(append(group, id...), 0, 0, 0, 0)
		}
		send(unix.RTM_NEWNEXTHOP, make([]byte, 8),
			netlink.Attribute{Type: unix.NHA_ID, Data: number(3)},
			netlink.Attribute{Type: unix.NHA_GROUP, Data: group})
		send(unix.RTM_NEWROUTE, []byte{byte(family), 0, 0, 0, main, unix.RTPROT_STATIC, 0, unix.RTN_UNICAST, 0, 0, 0, 0},
			netlink.Attribute{Type: nhID, Data: number(3)})

		blind, doubt := family == unix.AF_INET6, ""
		if blind {
			doubt = "multipath routes"
		}
		l.wantFacts(family, Ways{Devices: both, Multipath: true}, blind, doubt)
		l.host.Sysctl("net.ipv4.nexthop_compat_mode", "0")
		l.wantFacts(family, Ways{Multipath: true}, blind, doubt)
	})
}

// Of many routes, none is passed over.
func TestManyRoutes(t *testing.T) {
	l := newLab(t)
	l.route(unix.AF_INET6, main, 100, 0)
	for i := range 3000 {
		b := netip.MustParseAddr("2001:db8:8000::").As16()
		b[5], b[6] = byte(i>>8), byte(i)
		l.routeTo(netip.PrefixFrom(netip.AddrFrom16(b), 56).String(), main, 100, 1)
	}
	l.wantFacts(unix.AF_INET6, Ways{Devices: []string{"eth0"}}, false, "")
	l.routeTo("2001:db8:ffff::/48", main, 100, 0, 1)
	l.wantFacts(unix.AF_INET6, Ways{Devices: []string{"eth0"}, Multipath: true}, true, "multipath routes")
}
