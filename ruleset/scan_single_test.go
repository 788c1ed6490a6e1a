package ruleset

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/portmon/portmon/netnstest"
)

// host6 is the IPv6 address of a number in a /64.
func host6(network string, n int) netip.Addr { return addr(fmt.Sprintf("%s::%x", network, n)) }

// scanBy has each address in turn ask for one more closed port, and returns the
// one that was banned by it, the zero Addr if none was.
func (l *fixture) scanBy(ports []uint16, addrs ...netip.Addr) (banned netip.Addr) {
	l.T.Helper()
	for i, port := range ports {
		src := addrs[i%len(addrs)]
		if got := l.Internet.Probe(l.SYN(src, port)); got.Kind == netnstest.NoAnswer {
			return src
		}
	}
	return netip.Addr{}
}

// TestScanByNetwork counts the addresses of a /64 as one source, and those of
// the next one as another.
func TestScanByNetwork(t *testing.T) {
	t.Parallel()
	l := newTrap(t, scanSpec(5))
	var same, next []netip.Addr
	for i := range 5 {
		same = append(same, host6("2001:db8:5:a", i+1))
		next = append(next, host6(fmt.Sprintf("2001:db8:5:%x", 0xb+i), 1))
	}
	if got := l.scanBy(ports(200, 10), same...); got != same[4] {
		t.Errorf("the fifth address of a /64 asked for the fifth port, and %v was banned", got)
	}
	l.wantBans("2001:db8:5:a::/64")
	l.Cut(same...)
	l.Served(next...)
	if got := l.scanBy(ports(200, 5), next...); got.IsValid() {
		t.Errorf("five /64s asked for one port each, and %v was banned", got)
	}
	l.Served(next...)
}

// TestScanBySingleAddress counts and bans the addresses one by one that are
// known to be those of many hosts: an innocent one beside the scanner is
// served.
func TestScanBySingleAddress(t *testing.T) {
	t.Parallel()
	for name, network := range map[string]string{
		"NAT64":             "64:ff9b::c633:64",
		"NAT64, local":      "64:ff9b:1:7:8:9",
		"by configuration":  "2001:db8:77:1",
		"our own network":   "2001:db8:0:0",
		"another of ours":   "2001:db8:99:1",
		"that of a service": "2001:db8:98:1",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			spec := trapSpec()
			spec.Single6 = prefixes("2001:db8:77::/48")
			l := newTrap(t, spec)
			// The outside has the addresses of our own network too, so that the
			// host need not ask who does.
			for i := 0x11; i < 0x1a; i++ {
				l.Internet.AddAddr("eth0", host6("2001:db8:0:0", i).String()+"/64")
			}
			to := l.Link.B.IPv6
			switch name {
			case "another of ours":
				l.Host.AddAddr("eth0", "2001:db8:99:1::2/64")
				to = addr("2001:db8:99:1::2")
				for i := 0x11; i < 0x1a; i++ {
					l.Internet.AddAddr("eth0", host6("2001:db8:99:1", i).String()+"/64")
				}
			case "that of a service":
				l.Host.AddAddr("lo", "2001:db8:98:1::2/128")
				l.Internet.AddRoute("2001:db8:98:1::2/128", l.Link.B.IPv6.String())
				to = addr("2001:db8:98:1::2")
			}
			l.Link.B.IPv6 = to // what packets go to
			host := func(n int) netip.Addr {
				if name == "NAT64" {
					return addr(fmt.Sprintf("64:ff9b::198.51.100.%d", n))
				}
				return host6(network, n)
			}
			guilty, knocker, innocent := host(0x11), host(0x12), host(0x13)
			crowd := []netip.Addr{host(0x14), host(0x15), host(0x16), host(0x17), host(0x18)}

			if got := l.scanBy(ports(200, 5), crowd...); got.IsValid() {
				t.Errorf("five hosts asked for one port each, and %v was banned", got)
			}
			l.Served(innocent)
			if got := l.scanBy(ports(200, 9), guilty); got != guilty || len(l.probed(guilty)) != 5 {
				t.Errorf("%v asked for five ports, and %v was banned: %+v", guilty, got, l.lookup(guilty))
			}
			l.Offend(knocker)
			l.wantStanding(guilty, 1, CauseScan)
			l.wantStanding(knocker, 1, CauseTrap)
			l.wantBans(guilty.String(), knocker.String())
			l.Cut(guilty, knocker)
			l.Served(innocent)
			l.Served(crowd...)
		})
	}
}
