package netnstest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
)

// Server is an echo server on a host: it sends back what it gets.
type Server struct {
	addr    netip.AddrPort
	count   atomic.Int64
	serving sync.WaitGroup
	stop    func() // may be called again

	cpu       aCPU // of UDP, as raw
	raw       syscall.RawConn
	answering sync.Mutex // held while datagrams are answered
}

// Addr returns the address that the server listens on, with the port that the
// kernel chose if it was asked for 0.
func (s *Server) Addr() netip.AddrPort { return s.addr }

// Count returns how many connections the server has accepted, or how many
// datagrams it has answered.
func (s *Server) Count() int { return int(s.count.Load()) }

// Close stops the server, ends its connections and waits until its goroutines
// are gone. It may be called again, and is when the test ends.
func (s *Server) Close() {
	s.stop()
	s.serving.Wait()
}

// Listen starts an echo server on a network that net.Listen or net.ListenPacket
// knows: "tcp", "udp", and with a 4 or 6 at the end for one family only. addr is
// "[::]:22" for both families, "0.0.0.0:22", "192.0.2.1:22", or with port 0 for
// one that the kernel chooses; "tcp6" on "[::]:22" is a server with
// IPV6_V6ONLY. A UDP server answers from the address that it was asked at.
func (h *Host) Listen(network, addr string) *Server {
	h.t.Helper()
	serve := serveTCP
	if network[:min(3, len(network))] == "udp" {
		serve = h.cpu.serveUDP
	}
	var s *Server
	err := h.do(func() (err error) {
		s, err = serve(network, addr)
		return err
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
	s := &Server{addr: listener.Addr().(*net.TCPAddr).AddrPort()}
	open, end := context.WithCancel(context.Background())
	s.stop = func() {
		// A program that another test starts just now has the socket as well,
		// until it executes. A socket that is shut down does not listen.
		if raw, err := listener.(*net.TCPListener).SyscallConn(); err == nil {
			_ = raw.Control(func(fd uintptr) { _ = unix.Shutdown(int(fd), unix.SHUT_RD) })
		}
		_ = listener.Close()
		end()
	}
	s.serving.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			s.count.Add(1)
			s.serving.Go(func() {
				defer context.AfterFunc(open, func() { _ = conn.Close() })()
				_, _ = io.Copy(conn, conn)
				_ = conn.Close()
			})
		}
	})
	return s, nil
}

// udpServers are those of the process that run, as keys: *Server. Whoever finds
// datagrams in the socket of one may answer them: its own goroutine, or a Probe
// that wants to be sure that all have been.
var udpServers sync.Map

func (cpu aCPU) serveUDP(network, addr string) (*Server, error) {
	lc := net.ListenConfig{Control: askForDestination}
	pc, err := lc.ListenPacket(context.Background(), network, addr)
	if err != nil {
		return nil, err
	}
	conn := pc.(*net.UDPConn)
	raw, err := conn.SyscallConn()
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	s := &Server{addr: conn.LocalAddr().(*net.UDPAddr).AddrPort(), cpu: cpu, raw: raw}
	s.stop = func() {
		udpServers.Delete(s)
		_ = conn.Close()
	}
	udpServers.Store(s, nil)
	s.serving.Go(func() {
		// From the CPU that Probe sends from, for the same reason: see aCPU.
		err := cpu.pinned(func() error {
			return raw.Read(func(fd uintptr) bool {
				s.answer(int(fd))
				return false // wait for more
			})
		})
		if !errors.Is(err, net.ErrClosed) {
			panic(fmt.Errorf("serve datagrams to %s: %w", s.addr, err))
		}
	})
	return s, nil
}

// answerDatagrams answers whatever is in the sockets of all servers that answer
// from the CPU, and returns when that has been sent.
func (cpu aCPU) answerDatagrams() (err error) {
	udpServers.Range(func(key, _ any) bool {
		s := key.(*Server)
		if s.cpu != cpu {
			return true
		}
		err = s.raw.Control(func(fd uintptr) { s.answer(int(fd)) })
		if errors.Is(err, net.ErrClosed) {
			err = nil
		}
		return err == nil
	})
	return err
}

// answer sends back the datagrams in the socket. The control message that tells
// where one was sent to, and by which interface, is at once the one that says
// where to answer from: on a host with several addresses, the kernel would
// choose one by the route.
func (s *Server) answer(fd int) {
	s.answering.Lock()
	defer s.answering.Unlock()
	buf, oob := make([]byte, 1<<16), make([]byte, 256)
	for {
		n, oobn, _, from, err := unix.Recvmsg(fd, buf, oob, unix.MSG_DONTWAIT)
		switch {
		case err == nil:
			s.count.Add(1)
			_ = unix.Sendmsg(fd, buf[:n], oob[:oobn], from, unix.MSG_DONTWAIT)
		case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EBADF):
			return
		}
		// Other errors are of datagrams sent before, as ECONNREFUSED, and gone
		// now that they have been read.
	}
}

// askForDestination makes recvmsg tell the destination of a datagram, on a dual
// stack socket that of IPv4 ones too.
func askForDestination(network, _ string, c syscall.RawConn) (err error) {
	controlErr := c.Control(func(fd uintptr) {
		if network == "udp4" {
			err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_PKTINFO, 1)
		} else {
			err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1)
		}
	})
	return os.NewSyscallError("setsockopt", errors.Join(controlErr, err))
}
