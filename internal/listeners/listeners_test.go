package listeners

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/netnstest"
)

func TestMain(m *testing.M) { os.Exit(netnstest.Main(m)) }

// has reports whether a socket with this address is among those of the host.
func has(t *testing.T, host *netnstest.Host, proto, addr string) bool {
	t.Helper()
	var sockets []Socket
	var err error
	host.Do(func() { sockets, err = Read(proto) })
	if err != nil {
		t.Fatal(err)
	}
	return slices.ContainsFunc(sockets, func(s Socket) bool { return s.Proto == proto && s.Addr == netip.MustParseAddrPort(addr) })
}

func TestReadSeesWhoListens(t *testing.T) {
	host := netnstest.NewHost(t, "host")
	for _, tt := range []struct{ network, addr, want string }{
		{"tcp4", "0.0.0.0:3389", "0.0.0.0:3389"},
		{"tcp", "[::]:23", "[::]:23"},
		{"tcp4", "127.0.0.1:6379", "127.0.0.1:6379"},
		{"tcp6", "[::1]:445", "[::1]:445"},
		{"udp4", "0.0.0.0:53", "0.0.0.0:53"},
		{"udp", "[::]:5060", "[::]:5060"},
	} {
		proto := tt.network[:3]
		if has(t, host, proto, tt.want) {
			t.Errorf("%s %s: listed before anybody listened", proto, tt.want)
		}
		server := host.Listen(tt.network, tt.addr)
		if !has(t, host, proto, tt.want) {
			t.Errorf("%s %s: not listed while somebody listens", proto, tt.want)
		}
		server.Close()
		if has(t, host, proto, tt.want) {
			t.Errorf("%s %s: still listed after it was closed", proto, tt.want)
		}
	}
}

func TestReadIsOfTheThread(t *testing.T) {
	here, there := netnstest.NewHost(t, "here"), netnstest.NewHost(t, "there")
	here.Listen("tcp4", "0.0.0.0:4444")
	if !has(t, here, "tcp", "0.0.0.0:4444") || has(t, there, "tcp", "0.0.0.0:4444") {
		t.Error("a host sees the listeners of another one, or not its own")
	}
}

// Connections are no listeners, neither those that came in nor those that went
// out, TCP or UDP.
func TestReadLeavesOutConnections(t *testing.T) {
	client, server := netnstest.NewHost(t, "client"), netnstest.NewHost(t, "server")
	link := netnstest.Connect(t, client, server, "192.0.2.0/24")
	s := server.Listen("tcp4", "0.0.0.0:80")
	u := server.Listen("udp4", "0.0.0.0:53")
	var conns []net.Conn
	for network, addr := range map[string]netip.AddrPort{"tcp": s.Addr(), "udp": u.Addr()} {
		conn, err := client.Dial(network, netip.Addr{}, netip.AddrPortFrom(link.B.IPv4, addr.Port()), 0)
		if err != nil {
			t.Fatal(err)
		}
		conns = append(conns, conn)
	}
	for _, conn := range conns {
		local := netip.MustParseAddrPort(conn.LocalAddr().String())
		if has(t, client, conn.LocalAddr().Network(), local.String()) {
			t.Errorf("%v is listed: it is a connection", local)
		}
	}
	if !has(t, server, "tcp", "0.0.0.0:80") || !has(t, server, "udp", "0.0.0.0:53") {
		t.Error("a listener with a connection is not listed")
	}
}

// A socket can be bound to a device, and one of IPv6 can leave IPv4 alone.
func TestReadSeesWhatASocketTakes(t *testing.T) {
	host := netnstest.NewHost(t, "host")
	for _, tt := range []struct {
		device string
		only6  int
		port   uint16
	}{{"", 0, 1001}, {"", 1, 1002}, {"lo", 1, 1003}, {"lo", 0, 1004}} {
		host.Do(func() {
			fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_STREAM, 0)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { unix.Close(fd) })
			err = unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, tt.only6)
			if tt.device != "" {
				err = errors.Join(err, unix.BindToDevice(fd, tt.device))
			}
			err = errors.Join(err, unix.Bind(fd, &unix.SockaddrInet6{Port: int(tt.port)}), unix.Listen(fd, 1))
			if err != nil {
				t.Fatal(err)
			}
			want := Socket{"tcp", netip.AddrPortFrom(netip.IPv6Unspecified(), tt.port), tt.device, tt.only6 == 1, netip.AddrPort{}}
			if got, err := Read("tcp"); err != nil || !slices.Contains(got, want) {
				t.Errorf("got %+v, %v; want %+v", got, err, want)
			}
		})
	}
}

func TestTakes(t *testing.T) {
	for _, tt := range []struct {
		socket, to, device string
		only6              bool
		want               bool
	}{
		{"0.0.0.0:23", "192.0.2.2:23", "", false, true},
		{"0.0.0.0:23", "[2001:db8::2]:23", "", false, false},
		{"0.0.0.0:23", "192.0.2.2:24", "", false, false},
		{"[::]:23", "192.0.2.2:23", "", false, true},
		{"[::]:23", "192.0.2.2:23", "", true, false},
		{"[::]:23", "[2001:db8::2]:23", "", true, true},
		{"192.0.2.2:23", "192.0.2.2:23", "", false, true},
		{"192.0.2.2:23", "192.0.2.3:23", "", false, false},
		{"0.0.0.0:23", "192.0.2.2:23", "eth1", false, false},
		{"0.0.0.0:23", "192.0.2.2:23", "eth0", false, true},
	} {
		s := Socket{Addr: netip.MustParseAddrPort(tt.socket), Device: tt.device, Only6: tt.only6}
		if got := s.Takes(netip.MustParseAddrPort(tt.to), "eth0"); got != tt.want {
			t.Errorf("%+v, packet to %s: got %v", s, tt.to, got)
		}
	}
}
