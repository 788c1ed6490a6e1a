package lab

import (
	"net/netip"
	"os"
	"testing"

	"github.com/portmon/portmon/netnstest"
)

func TestMain(m *testing.M) { os.Exit(netnstest.Main(m)) }

// A lab without a firewall answers everything, and forwards what it publishes.
func TestLab(t *testing.T) {
	l := New(t)
	l.Serve()
	l.Served(l.Sources(1)...)
	server := netnstest.NewHost(t, "server")
	link := netnstest.Connect(t, server, l.Host, "198.51.100.0/24", "2001:db8:f::/64")
	l.Host.Forward()
	server.DefaultVia(link.B.IPv4, link.B.IPv6)
	tcp, udp := server.Listen("tcp", "[::]:80"), server.Listen("udp", "[::]:53")
	for _, to := range []netip.Addr{link.A.IPv4, link.A.IPv6} {
		DNAT(t, l.Host, "tcp", 8080, netip.AddrPortFrom(to, 80))
		DNAT(t, l.Host, "udp", 8053, netip.AddrPortFrom(to, 53))
	}
	for _, src := range l.Sources(1) {
		l.Want(l.SYN(src, 8080), netnstest.AnswerSYNACK)
		l.Want(l.SYN(src, 8081), netnstest.AnswerRST)
		l.Want(l.UDP(src, 8053), netnstest.AnswerUDP)
		l.Want(l.UDP(src, 8080), netnstest.AnswerPortUnreachable)
	}
	// A SYN that the probe resets is not a connection.
	if tcp.Count() != 0 || udp.Count() != 2 {
		t.Errorf("the server saw %d connections and %d datagrams, want 0 and 2", tcp.Count(), udp.Count())
	}
}

func TestProgramsAreSorted(t *testing.T) {
	for i := 1; i < len(Programs); i++ {
		if Programs[i-1].Name >= Programs[i].Name {
			t.Errorf("%s is not before %s", Programs[i-1].Name, Programs[i].Name)
		}
	}
}
