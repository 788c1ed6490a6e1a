package ruleset

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/internal/lab"
	"github.com/portmon/portmon/netnstest"
)

// TestListenerIsNoTrap opens, closes and opens again what listens on a trap
// port.
func TestListenerIsNoTrap(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, network, addr string
		serves              [2]bool // IPv4, IPv6
	}{
		{"TCP dual stack", "tcp", "[::]:23", [2]bool{true, true}},
		{"TCP any IPv4", "tcp4", "0.0.0.0:23", [2]bool{true, false}},
		{"TCP any IPv6", "tcp6", "[::]:23", [2]bool{false, true}},
		{"TCP bound IPv4", "tcp", "192.0.2.2:23", [2]bool{true, false}},
		{"TCP bound IPv6", "tcp", "[2001:db8::2]:23", [2]bool{false, true}},
		{"TCP loopback", "tcp", "127.0.0.1:23", [2]bool{false, false}},
		{"TCP other address", "tcp", "192.0.2.77:23", [2]bool{false, false}},
		{"UDP dual stack", "udp", "[::]:161", [2]bool{true, true}},
		{"UDP any IPv4", "udp4", "0.0.0.0:161", [2]bool{true, false}},
		{"UDP any IPv6", "udp6", "[::]:161", [2]bool{false, true}},
		{"UDP bound IPv4", "udp", "192.0.2.2:161", [2]bool{true, false}},
		{"UDP bound IPv6", "udp", "[2001:db8::2]:161", [2]bool{false, true}},
		{"UDP loopback", "udp", "[::1]:161", [2]bool{false, false}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			l := newTrap(t, trapSpec())
			l.Host.AddAddr("eth0", "192.0.2.77/24")
			knock, answer := func(l *fixture, src netip.Addr) netnstest.Packet { return l.SYN(src, lab.TrapTCP) }, netnstest.AnswerSYNACK
			if tt.network[:3] == "udp" {
				knock, answer = func(l *fixture, src netip.Addr) netnstest.Packet { return l.UDP(src, trapUDP) }, netnstest.AnswerUDP
			}
			var banned []string
			offend := func(l *fixture, src netip.Addr) {
				l.Want(knock(l, src), netnstest.NoAnswer)
				l.Cut(src)
				banned = append(banned, banOf(src))
			}
			for range 2 { // the second time as the first
				server := l.Host.Listen(tt.network, tt.addr)
				l.families(func(l *fixture, f family) {
					visitor := l.source(f)
					if !tt.serves[index(f)] {
						offend(l, visitor)
						return
					}
					for range 3 {
						l.Want(knock(l, visitor), answer)
					}
					l.Served(visitor)
				})
				l.wantBans(banned...)
				server.Close()
				l.families(func(l *fixture, f family) { offend(l, l.source(f)) })
				l.wantBans(banned...)
			}
		})
	}
}

// TestTransparentListenerIsNoTrap has a proxy on trap ports, with sockets that
// serve addresses of others too.
func TestTransparentListenerIsNoTrap(t *testing.T) {
	t.Parallel()
	l := newTrap(t, trapSpec())
	transparent := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) (err error) {
		controlErr := c.Control(func(fd uintptr) {
			err = errors.Join(
				unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_TRANSPARENT, 1),
				unix.SetsockoptInt(int(fd), unix.SOL_IPV6, unix.IPV6_TRANSPARENT, 1),
			)
		})
		return errors.Join(controlErr, err)
	}}
	transparent.SetMultipathTCP(false)
	var stream net.Listener
	var packets net.PacketConn
	var err, udpErr error
	l.Host.Do(func() {
		stream, err = transparent.Listen(t.Context(), "tcp", fmt.Sprintf("[::]:%d", lab.TrapTCP))
		packets, udpErr = transparent.ListenPacket(t.Context(), "udp", fmt.Sprintf("[::]:%d", trapUDP))
	})
	if err := errors.Join(err, udpErr); err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	defer packets.Close()
	l.families(func(l *fixture, f family) {
		src := l.source(f)
		l.Want(l.SYN(src, lab.TrapTCP), netnstest.AnswerSYNACK)
		l.Want(l.UDP(src, trapUDP), netnstest.NoAnswer) // it took it, and says nothing
		l.Served(src)
	})
	l.wantBans()
}

func TestListenerDoesNotPardon(t *testing.T) {
	t.Parallel()
	l := newTrap(t, trapSpec())
	l.families(func(l *fixture, f family) {
		offender, visitor := l.source(f), l.source(f)
		l.Offend(offender)
		server := l.Host.Listen("tcp", "[::]:23")
		l.Want(l.SYN(offender, lab.TrapTCP), netnstest.NoAnswer)
		l.Want(l.SYN(visitor, lab.TrapTCP), netnstest.AnswerSYNACK)
		l.Cut(offender)
		server.Close()
	})
	if n := len(l.bans()); n != 2 {
		t.Errorf("%d bans, want 2", n)
	}
}

// TestListenerOnOnePortIsNoneOnAnother has a service on one trap port, and a
// client of it that is an offender at the next.
func TestListenerOnOnePortIsNoneOnAnother(t *testing.T) {
	t.Parallel()
	l := newTrap(t, trapSpec())
	l.Host.Listen("tcp", "[::]:5900")
	l.Host.Listen("udp", "[::]:5901")
	l.families(func(l *fixture, f family) {
		src := l.source(f)
		l.Want(l.SYN(src, 5900), netnstest.AnswerSYNACK)
		l.Served(src)
		l.Want(l.SYN(src, 5901), netnstest.NoAnswer) // somebody listens there, but not by TCP
		l.Cut(src)
	})
	if n := len(l.bans()); n != 2 {
		t.Errorf("%d bans, want 2", n)
	}
}
