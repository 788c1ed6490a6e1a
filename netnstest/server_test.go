package netnstest

import (
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestServersListenWhereTheyAreTold(t *testing.T) {
	client, server, link := pair(t)
	server.AddAddr(link.B.Dev, "192.0.2.22/24")
	other := netip.MustParseAddr("192.0.2.22")
	for _, tt := range []struct {
		network, addr  string
		v4, v6, second bool // whether it answers at the three addresses of the server
	}{
		{"tcp", "[::]:80", true, true, true},
		{"tcp6", "[::]:80", false, true, false},
		{"tcp4", "0.0.0.0:80", true, false, true},
		{"tcp", "192.0.2.22:80", false, false, true},
		{"tcp", "[2001:db8::2]:80", false, true, false},
		{"udp", "[::]:80", true, true, true},
		{"udp6", "[::]:80", false, true, false},
		{"udp4", "0.0.0.0:80", true, false, true},
		{"udp", "192.0.2.22:80", false, false, true},
		{"udp", "[2001:db8::2]:80", false, true, false},
	} {
		t.Run(tt.network+" "+tt.addr, func(t *testing.T) {
			s := server.With(t).Listen(tt.network, tt.addr)
			answers := 0
			for to, want := range map[netip.Addr]bool{link.B.IPv4: tt.v4, link.B.IPv6: tt.v6, other: tt.second} {
				err := client.With(t).Exchange(tt.network[:3], netip.Addr{}, at(to, 80), patience)
				switch {
				case want && err != nil:
					t.Errorf("exchange with %v: %v", to, err)
				case !want && !errors.Is(err, unix.ECONNREFUSED):
					t.Errorf("exchange with %v: got %v, want %v", to, err, unix.ECONNREFUSED)
				case want:
					answers++
				}
			}
			if s.Count() != answers {
				t.Errorf("count %d, want %d", s.Count(), answers)
			}
		})
	}
}

func TestServerChoosesPort(t *testing.T) {
	h := NewHost(t, "h")
	tcp, udp := h.Listen("tcp", "127.0.0.1:0"), h.Listen("udp", "[::1]:0")
	if err := h.Exchange("tcp", netip.Addr{}, tcp.Addr(), patience); err != nil {
		t.Error(err)
	}
	if err := h.Exchange("udp", netip.Addr{}, udp.Addr(), patience); err != nil {
		t.Error(err)
	}
	wantFatal(t, func(t testing.TB) { h.With(t).Listen("tcp", tcp.Addr().String()) }, "host h: serve tcp on 127.0.0.1", "in use")
	wantFatal(t, func(t testing.TB) { h.With(t).Listen("udp", "192.0.2.1:53") }, "serve udp on 192.0.2.1:53", "cannot assign")
}

func TestServerCloseEndsConnections(t *testing.T) {
	client, server, link := pair(t)
	s := server.Listen("tcp", "[::]:80")
	conn, err := client.Dial("tcp", link.A.IPv4, at(link.B.IPv4, 80), patience)
	if err != nil {
		t.Fatal(err)
	}
	if got := conn.LocalAddr().(*net.TCPAddr).AddrPort().Addr().Unmap(); got != link.A.IPv4 {
		t.Errorf("dialled from %v, want %v", got, link.A.IPv4)
	}
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	if err := Echo(conn); err != nil {
		t.Error(err)
	}
	s.Close()
	s.Close()
	if err := Echo(conn); err == nil || errors.Is(err, unix.ETIMEDOUT) {
		t.Errorf("echo of a server that is closed: got %v, want an end of the connection", err)
	}
	if got := client.Probe(SYN(link.A.IPv4, at(link.B.IPv4, 80))); got.Kind != AnswerRST {
		t.Errorf("SYN to a server that is closed: got %v, want RST", got)
	}
}

func TestDialTimesOut(t *testing.T) {
	client, _, link := pair(t)
	link.LearnNeighbours() // and there is none
	err := client.Exchange("tcp", link.A.IPv4, netip.MustParseAddrPort("192.0.2.99:80"), 20*time.Millisecond)
	var timeout net.Error
	if !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Errorf("dial nobody: got %v, want a timeout", err)
	}
	if err := client.Exchange("tcp", v4b.Addr(), at(link.B.IPv4, 80), patience); !errors.Is(err, unix.EADDRNOTAVAIL) {
		t.Errorf("dial from an address of another: got %v, want %v", err, unix.EADDRNOTAVAIL)
	}
}

// TestCloseWhileAnotherHasTheSocket keeps a copy of the socket, as a program
// that is being started does.
func TestCloseWhileAnotherHasTheSocket(t *testing.T) {
	a, b := NewHost(t, "a"), NewHost(t, "b")
	link := Connect(t, a, b, "192.0.2.0/24")
	server := b.Listen("tcp", "[::]:777")
	copies := 0
	for fd := range 1024 {
		if sa, err := unix.Getsockname(fd); err == nil {
			if in, ok := sa.(*unix.SockaddrInet6); ok && in.Port == 777 {
				held, err := unix.Dup(fd)
				if err != nil {
					t.Fatal(err)
				}
				defer unix.Close(held)
				copies++
			}
		}
	}
	if copies == 0 {
		t.Fatal("the socket was not found: this is no test")
	}
	server.Close()
	if got := a.Probe(SYN(link.A.IPv4, netip.AddrPortFrom(link.B.IPv4, 777))); got.Kind != AnswerRST {
		t.Errorf("got %v, want a reset", got)
	}
}
