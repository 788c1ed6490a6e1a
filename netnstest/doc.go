// Package netnstest makes throw-away hosts for tests of what the Linux kernel
// does with packets: network namespaces joined by veth pairs, IPv4 and IPv6,
// with echo servers, raw packets from any source address, and a way to know for
// certain that a packet got no answer.
//
//	func TestMain(m *testing.M) { os.Exit(netnstest.Main(m)) }
//
//	func TestFirewall(t *testing.T) {
//		scanner, server := netnstest.NewHost(t, "scanner"), netnstest.NewHost(t, "server")
//		link := netnstest.Connect(t, scanner, server, "192.0.2.0/24", "2001:db8::/64")
//		server.Listen("tcp", "[::]:22")
//		// ... put a firewall on it, with netlink.Config{NetNS: server.FD()} or in server.Do ...
//		telnet := netip.AddrPortFrom(link.B.IPv4, 23)
//		if got := scanner.Probe(netnstest.SYN(link.A.IPv4, telnet)); got.Kind != netnstest.NoAnswer {
//			t.Errorf("SYN to %v: got %v, want none", telnet, got)
//		}
//	}
//
// # Privilege
//
// Main lets the tests run as any user: without root it starts the test binary
// again in a user namespace. Where that is forbidden the tests fail and say
// why. Nothing is ever skipped.
//
// # No sleeping
//
// No call waits for a fixed time. Connect and AddAddr return when the link
// passes packets and the address is in use; Send returns when the kernels have
// processed the packet, rules and all; Probe says "no answer" as soon as there
// can be none any more. Why that is so can be read in thread.go and send.go.
//
// # Threads
//
// A namespace belongs to a thread. The package enters one only while the
// goroutine is locked to its thread, and leaves it before the thread does
// anything else; so tests may run in parallel, and a failed test leaves no
// thread behind in a namespace of the past.
//
// The package needs Linux 5.2 and works on links that it has made itself.
package netnstest
