package main

import (
	"net/netip"
	"testing"
	"time"

	"github.com/portmon/portmon/internal/listeners"
)

// Who uses a service is found among as many sources and connections as there
// can be, always by the lowest port.
func TestSuspects(t *testing.T) {
	address := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{203, byte(i >> 16), byte(i >> 8), byte(i)}) }
	var connected []listeners.Socket
	connect := func(peer netip.Addr, port uint16) {
		connected = append(connected, listeners.Socket{
			Addr: netip.AddrPortFrom(netip.MustParseAddr("192.0.2.1"), port), Peer: netip.AddrPortFrom(peer, 40_000),
		})
	}
	for i := range 10_000 {
		connect(address(i), 443)
		connect(address(i), 22)
	}
	for i := range 200_000 {
		connect(address(1<<21+i), 443)
	}
	connect(netip.MustParseAddr("2001:db8:1:2::7"), 25)
	connect(netip.MustParseAddr("fe80::7%eth0"), 53)
	suspect := suspects(listeners.UsersAmong(connected))
	for source, want := range map[string]string{
		"203.0.0.7/32": "uses tcp/22", "203.0.39.0/24": "uses tcp/22", "203.0.40.0/24": "", "203.0.0.0/8": "uses tcp/22",
		"2001:db8:1:2::/64": "uses tcp/25", "2001:db8:1:3::/64": "", "fe80::7/128": "uses tcp/53", "fe80::8/128": "on a link of this host",
		"10.0.0.1/32": "in a private network", "100.64.1.1/32": "behind a carrier's NAT",
	} {
		if got := suspect(netip.MustParsePrefix(source)); got != want {
			t.Errorf("%s: got %q, want %q", source, got, want)
		}
	}
	before := time.Now()
	for i := range 65_536 {
		suspect(netip.PrefixFrom(address(1<<20+i), 32))
	}
	if took := time.Since(before); took > time.Minute { // 140 s if each goes through all connections
		t.Errorf("65,536 sources took %v", took)
	}
}
