package route

import (
	"net/netip"
	"testing"

	vnl "github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/netnstest"
)

// Back says what the packet path would: whether an answer leaves by the
// interface that a packet came in by.
func TestAnswer(t *testing.T) {
	for family, name := range map[int]string{unix.AF_INET: "IPv4", unix.AF_INET6: "IPv6"} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t)
			to := stranger(family, 1)
			check := func(when, iif string, want Answer) {
				t.Helper()
				var got Answer
				var err error
				l.host.Do(func() { got, err = Back(to, iif) })
				if got != want || err != nil {
					t.Errorf("%s, by %q: got %+v, %v; want %+v", when, iif, got, err, want)
				}
			}
			check("no route", "", Answer{})
			check("no route", "eth0", Answer{})
			l.route(family, unix.RT_TABLE_MAIN, 10, 0)
			first := Answer{Found: true, Device: "eth0", Local: addr(l.up[0].B, family)}
			check("one route", "", first)
			check("one route", "eth0", first)
			other := first
			other.Found = false
			check("one route", "eth1", other)
			if family == unix.AF_INET {
				// Answers are told by eth0, and may leave by eth1 as well.
				l.route(family, unix.RT_TABLE_MAIN, 5, 0, 1)
				for _, iif := range []string{"eth0", "eth1"} {
					var got Answer
					l.host.Do(func() { got, _ = Back(to, iif) })
					if !got.Found {
						t.Errorf("two hops, by %s: no route", iif)
					}
				}
			}
			l.host.Do(func() {
				if _, err := Back(to, "nonsense"); err == nil {
					t.Error("a device that is not there: no error")
				}
			})
		})
	}
}

// An address is this host's own if the routes say so: one of an interface, and
// one that only a route of type local has.
func TestOwnAddress(t *testing.T) {
	l := newLab(t)
	l.check(l.rtnl.RouteAdd(&vnl.Route{Dst: network("198.18.0.0/24"), Type: unix.RTN_LOCAL, Scope: vnl.SCOPE_HOST, Table: unix.RT_TABLE_LOCAL, LinkIndex: 1}))
	l.check(l.rtnl.RouteAdd(&vnl.Route{Dst: network("2001:db8:a::/64"), Type: unix.RTN_LOCAL, Scope: vnl.SCOPE_HOST, Table: unix.RT_TABLE_LOCAL, LinkIndex: 1}))
	for text, want := range map[string]bool{
		l.up[0].B.IPv4.String(): true, l.up[0].B.IPv6.String(): true, "127.0.0.1": true, "::1": true,
		"198.18.0.7": true, "2001:db8:a::7": true,
		l.up[0].A.IPv4.String(): false, l.up[0].A.IPv6.String(): false, "198.18.1.7": false, "2001:db8:b::7": false,
	} {
		l.host.Do(func() {
			if got, err := Back(netip.MustParseAddr(text), ""); got.Own != want || err != nil {
				t.Errorf("%s: got %+v, %v; want %v", text, got, err, want)
			}
		})
	}
}

// An address is free if no route leads to it but one for all the world.
func TestIsFree(t *testing.T) {
	l := newLab(t)
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		l.route(family, main, 100, 0)
	}
	l.routeTo("198.18.0.0/15", main, 100, 0)
	l.routeTo("2001:db8:f00d::/48", main, 100, 0)
	l.check(l.rtnl.RouteAppend(&vnl.Route{Dst: network("198.51.0.0/16"), Type: unix.RTN_BLACKHOLE}))
	for text, want := range map[string]bool{
		"203.0.113.1": true, "2001:db8:ffff::1": true, "198.51.7.7": true,
		"198.19.1.1": false, "2001:db8:f00d::1": false,
		l.up[0].A.IPv4.String(): false, l.up[0].B.IPv6.String(): false, "127.0.0.1": false,
	} {
		l.host.Do(func() {
			if got, err := IsFree(netip.MustParseAddr(text)); got != want || err != nil {
				t.Errorf("%s: got %v, %v; want %v", text, got, err, want)
			}
		})
	}
	empty := netnstest.NewHost(t, "empty")
	empty.Do(func() {
		if got, err := IsFree(netip.MustParseAddr("203.0.113.1")); !got || err != nil {
			t.Errorf("without routes: got %v, %v", got, err)
		}
	})
}
