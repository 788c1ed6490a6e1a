package netnstest_test

import (
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/portmon/portmon/netnstest"
)

// inTest runs f as a test. Examples have no testing.TB of their own; in a test,
// t is the test's.
func inTest(f func(t testing.TB)) {
	t := &example{}
	defer func() {
		for i := range t.cleanups {
			t.cleanups[len(t.cleanups)-1-i]()
		}
	}()
	f(t)
}

type example struct {
	testing.TB
	cleanups []func()
}

func (e *example) Helper()                      {}
func (e *example) Name() string                 { return "Example" }
func (e *example) Cleanup(f func())             { e.cleanups = append(e.cleanups, f) }
func (e *example) Errorf(s string, args ...any) { fmt.Printf(s+"\n", args...) }
func (e *example) Fatalf(s string, args ...any) { panic(fmt.Sprintf(s, args...)) }

// Two hosts on one link, a server on one of them, and what the other gets for
// its packets. Sources need no address on the scanner: the server sends its
// answers to 198.51.100.0/24 there. To 203.0.113.7 it has no route.
func ExampleHost_Probe() {
	inTest(func(t testing.TB) {
		scanner, server := netnstest.NewHost(t, "scanner"), netnstest.NewHost(t, "server")
		link := netnstest.Connect(t, scanner, server, "192.0.2.0/24", "2001:db8::/64")
		server.AddRoute("198.51.100.0/24", link.A.IPv4.String())
		server.Listen("tcp", "[::]:22")

		ssh, telnet := netip.AddrPortFrom(link.B.IPv4, 22), netip.AddrPortFrom(link.B.IPv4, 23)
		fmt.Println(scanner.Probe(netnstest.SYN(link.A.IPv4, ssh)))
		fmt.Println(scanner.Probe(netnstest.SYN(netip.MustParseAddr("198.51.100.7"), ssh)))
		fmt.Println(scanner.Probe(netnstest.SYN(link.A.IPv4, telnet)))
		fmt.Println(scanner.Probe(netnstest.SYN(netip.MustParseAddr("203.0.113.7"), ssh)))
		fmt.Println(scanner.Probe(netnstest.SYN(link.A.IPv6, netip.AddrPortFrom(link.B.IPv6, 22))))
	})
	// Output:
	// SYN+ACK
	// SYN+ACK
	// RST
	// none
	// SYN+ACK
}

// A burst is 10,000 datagrams here, from 256 sources. All of them have been
// processed when Burst returns.
func ExampleHost_Burst() {
	inTest(func(t testing.TB) {
		scanner, server := netnstest.NewHost(t, "scanner"), netnstest.NewHost(t, "server")
		link := netnstest.Connect(t, scanner, server, "192.0.2.0/24")
		sniffer := server.Sniff(link.B.Dev)
		scanner.Burst(10_000, func(i int) netnstest.Packet {
			src := netip.AddrFrom4([4]byte{198, 51, 100, byte(i)})
			return netnstest.Datagram(src, netip.AddrPortFrom(link.B.IPv4, 9), "")
		})
		p, err := sniffer.Await(func(p netnstest.Packet) bool { return p.Proto == netnstest.UDP }, time.Second)
		fmt.Println(p, err)
	})
	// Output:
	// UDP 198.51.100.0:0 > 192.0.2.2:9 length 0 <nil>
}

// Code that opens sockets itself runs in the namespace of a host.
func ExampleHost_Do() {
	inTest(func(t testing.TB) {
		client, server := netnstest.NewHost(t, "client"), netnstest.NewHost(t, "server")
		link := netnstest.Connect(t, client, server, "192.0.2.0/24")
		echo := server.Listen("udp", "0.0.0.0:7")
		client.Do(func() {
			conn, err := net.Dial("udp", netip.AddrPortFrom(link.B.IPv4, 7).String())
			if err != nil {
				t.Fatalf("dial: %v", err)
			}
			defer conn.Close()
			conn.SetDeadline(time.Now().Add(time.Second))
			fmt.Println(netnstest.Echo(conn), echo.Count())
		})
	})
	// Output:
	// <nil> 1
}

// A router between two hosts.
func ExampleHost_Forward() {
	inTest(func(t testing.TB) {
		a, router, b := netnstest.NewHost(t, "a"), netnstest.NewHost(t, "router"), netnstest.NewHost(t, "b")
		left := netnstest.Connect(t, a, router, "192.0.2.0/24")
		right := netnstest.Connect(t, b, router, "198.51.100.0/24")
		router.Forward()
		a.DefaultVia(left.B.IPv4)
		b.DefaultVia(right.B.IPv4)
		fmt.Println(a.Probe(netnstest.Ping(left.A.IPv4, right.A.IPv4, 1)))
	})
	// Output:
	// echo
}
