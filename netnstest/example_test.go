package netnstest_test

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/portmon/portmon/netnstest"
)

// A scanner plays addresses that it does not have: the server sends its answers to them by the scanner.
func ExampleHost_Probe() {
	var t *testing.T // the test's

	scanner, server := netnstest.NewHost(t, "scanner"), netnstest.NewHost(t, "server")
	link := netnstest.Connect(t, scanner, server, "192.0.2.0/24", "2001:db8::/64")
	server.AddRoute("198.51.100.0/24", link.A.IPv4.String())
	server.ListenTCP("[::]:22")

	ssh := netip.AddrPortFrom(link.B.IPv4, 22)
	fmt.Println(scanner.Probe(netnstest.SYN(netip.MustParseAddr("198.51.100.7"), ssh))) // SYN+ACK
}

// Bursts are made on the go: here of 100,000 datagrams from 256 addresses.
func ExampleSender_Burst() {
	var (
		scanner *netnstest.Host // a host
		link    *netnstest.Link // and its link to another
	)
	scanner.Sender(link.A.Dev).Burst(100_000, func(i int) netnstest.Packet {
		src := netip.AddrFrom4([4]byte{198, 51, 100, byte(i)})
		return netnstest.Datagram(src, netip.AddrPortFrom(link.B.IPv4, 9), "")
	})
}
