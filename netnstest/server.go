package netnstest

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// Server is an echo server on a host: it sends back what it gets.
type Server struct {
	addr  netip.AddrPort
	count atomic.Int64
	stop  func()
	once  sync.Once
}

// Addr returns the address that the server listens on, with the port that the
// kernel chose if it was asked for 0.
func (s *Server) Addr() netip.AddrPort { return s.addr }

// Count returns how many connections the server has accepted, or how many
// datagrams it has answered.
func (s *Server) Count() int { return int(s.count.Load()) }

// Close stops the server, ends its connections and waits until its goroutines
// are gone. It may be called again, and is when the test ends.
func (s *Server) Close() { s.once.Do(s.stop) }

// ListenTCP starts a TCP echo server on addr: "[::]:22" for both families,
// "0.0.0.0:22", "192.0.2.1:22", or with port 0 for one that the kernel chooses.
func (h *Host) ListenTCP(addr string) *Server {
	h.t.Helper()
	return h.Listen("tcp", addr)
}

// ListenUDP starts a UDP echo server on addr, as ListenTCP does. It answers
// from the address that it was asked at.
func (h *Host) ListenUDP(addr string) *Server {
	h.t.Helper()
	return h.Listen("udp", addr)
}

// Listen starts an echo server on a network that net.Listen or net.ListenPacket
// knows: "tcp", "udp", and with a 4 or 6 at the end for one family only. So
// "tcp6" on "[::]:22" is a server with IPV6_V6ONLY.
func (h *Host) Listen(network, addr string) *Server {
	h.t.Helper()
	var (
		s   *Server
		err error
	)
	h.Do(func() {
		switch network {
		case "udp", "udp4", "udp6":
			s, err = serveUDP(network, addr)
		default:
			s, err = serveTCP(network, addr)
		}
	})
	if err != nil {
		h.check(fmt.Errorf("serve %s on %s: %w", network, addr, err))
	}
	h.t.Cleanup(s.Close)
	return s
}

func serveTCP(network, addr string) (*Server, error) {
	var lc net.ListenConfig
	// Go listens with MPTCP by default since 1.24. A firewall's tests are about
	// plain TCP.
	lc.SetMultipathTCP(false)
	listener, err := lc.Listen(context.Background(), network, addr)
	if err != nil {
		return nil, err
	}
	var (
		conns   sync.Map // of net.Conn, to close those that are open
		serving sync.WaitGroup
	)
	s := &Server{addr: addrPort(listener.Addr())}
	s.stop = func() {
		// A program that another test starts just now has the socket as well,
		// until it executes. A socket that is shut down does not listen.
		if raw, err := listener.(*net.TCPListener).SyscallConn(); err == nil {
			_ = raw.Control(func(fd uintptr) { _ = unix.Shutdown(int(fd), unix.SHUT_RD) })
		}
		_ = listener.Close()
		conns.Range(func(c, _ any) bool { _ = c.(net.Conn).Close(); return true })
		serving.Wait()
	}
	serving.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			s.count.Add(1)
			conns.Store(conn, nil)
			serving.Go(func() {
				_, _ = io.Copy(conn, conn)
				_ = conn.Close()
				conns.Delete(conn)
			})
		}
	})
	return s, nil
}

// addrPort returns the address of a TCP or UDP socket, an IPv4 one as such.
func addrPort(a net.Addr) netip.AddrPort {
	var ap netip.AddrPort
	switch a := a.(type) {
	case *net.TCPAddr:
		ap = a.AddrPort()
	case *net.UDPAddr:
		ap = a.AddrPort()
	}
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}
