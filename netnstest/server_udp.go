package netnstest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// datagrams is a UDP echo server. Whoever finds datagrams in its socket may
// answer them: its own goroutine, or a Probe that wants to be sure that all
// have been.
type datagrams struct {
	server *Server
	conn   *net.UDPConn
	raw    syscall.RawConn

	mu       sync.Mutex // held while datagrams are answered
	buf, oob []byte
}

// open are the UDP servers of the process that run.
var open struct {
	mu      sync.Mutex
	servers map[*datagrams]struct{}
}

func serveUDP(network, addr string) (*Server, error) {
	lc := net.ListenConfig{Control: askForDestination}
	pc, err := lc.ListenPacket(context.Background(), network, addr)
	if err != nil {
		return nil, err
	}
	d := &datagrams{conn: pc.(*net.UDPConn), buf: make([]byte, 1<<16), oob: make([]byte, 256)}
	if d.raw, err = d.conn.SyscallConn(); err != nil {
		_ = pc.Close()
		return nil, err
	}
	d.server = &Server{addr: addrPort(pc.LocalAddr())}

	open.mu.Lock()
	defer open.mu.Unlock()
	if open.servers == nil {
		open.servers = map[*datagrams]struct{}{}
	}
	open.servers[d] = struct{}{}

	var serving sync.WaitGroup
	serving.Go(d.serve)
	d.server.stop = func() {
		open.mu.Lock()
		delete(open.servers, d)
		open.mu.Unlock()
		_ = d.conn.Close()
		serving.Wait()
	}
	return d.server, nil
}

// serve answers from the CPU that Probe sends from, for the same reason: see
// theCPU.
func (d *datagrams) serve() {
	err := pinned(func() error {
		return d.raw.Read(func(fd uintptr) bool {
			d.answer(int(fd))
			return false // wait for more
		})
	})
	if !errors.Is(err, net.ErrClosed) {
		panic(fmt.Errorf("serve datagrams to %s: %w", d.server.addr, err))
	}
}

// answerDatagrams answers whatever is in the sockets of all servers, and
// returns when that has been sent.
func answerDatagrams() error {
	open.mu.Lock()
	defer open.mu.Unlock()
	for d := range open.servers {
		if err := d.raw.Control(func(fd uintptr) { d.answer(int(fd)) }); err != nil && !errors.Is(err, net.ErrClosed) {
			return fmt.Errorf("answer datagrams to %s: %w", d.server.addr, err)
		}
	}
	return nil
}

// answer sends back the datagrams in the socket. The control message that tells
// where one was sent to, and by which interface, is at once the one that says
// where to answer from: on a host with several addresses, the kernel would
// choose one by the route.
func (d *datagrams) answer(fd int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for {
		n, oobn, _, from, err := unix.Recvmsg(fd, d.buf, d.oob, unix.MSG_DONTWAIT)
		switch {
		case err == nil:
			d.server.count.Add(1)
			_ = unix.Sendmsg(fd, d.buf[:n], d.oob[:oobn], from, unix.MSG_DONTWAIT)
		case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EBADF):
			return
		}
		// Other errors are of datagrams sent before, as ECONNREFUSED, and gone
		// now that they have been read.
	}
}

// askForDestination makes recvmsg tell the destination of a datagram, on a dual
// stack socket that of IPv4 ones too.
func askForDestination(_, _ string, c syscall.RawConn) (err error) {
	controlErr := c.Control(func(fd uintptr) {
		var domain int
		if domain, err = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_DOMAIN); err != nil {
			return
		}
		if domain == unix.AF_INET6 {
			err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1)
		} else {
			err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_PKTINFO, 1)
		}
	})
	return os.NewSyscallError("setsockopt", errors.Join(controlErr, err))
}
