package nfnl

import (
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// receiveBuffer is longer than any datagram: the kernel builds those of a dump
// as large as the reader's buffer, up to 32 KiB. A small buffer is slow,
// because the kernel walks a set from its start again for each datagram.
const receiveBuffer = 64 << 10

// DefaultReadBuffer is the size in bytes that [Conn.SetReadBuffer] takes for 0.
const DefaultReadBuffer = 8 << 20

// Conn is a netlink socket. One goroutine may send and receive; others may
// meanwhile close it or set its deadline.
type Conn struct {
	nl     *netlink.Conn
	raw    syscall.RawConn
	sndbuf int
	rcvbuf int
	buf    []byte

	sender    unix.RawSockaddrNetlink // of what was read last
	senderLen uint32

	overrun bool // the buffer was full, and what is in it has not all been read yet
	closed  atomic.Bool
}

// Dial opens a socket in the network namespace of a file descriptor, or in that
// of the calling thread if netns is 0.
func Dial(netns int) (*Conn, error) {
	nl, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{NetNS: netns})
	if err != nil {
		return nil, fmt.Errorf("open netlink socket: %w", err)
	}
	c := &Conn{nl: nl, buf: make([]byte, receiveBuffer)}
	if c.raw, err = nl.SyscallConn(); err != nil {
		nl.Close()
		return nil, fmt.Errorf("open netlink socket: %w", err)
	}
	// The request is not repeated in errors (Linux 4.3), and they name the
	// attribute that is wrong (4.12).
	for _, option := range []netlink.ConnOption{netlink.CapAcknowledge, netlink.ExtendedAcknowledge} {
		if err := nl.SetOption(option, true); err != nil {
			nl.Close()
			return nil, fmt.Errorf("set netlink socket option: %w", err)
		}
	}
	return c, nil
}

// Close closes the socket. A read that waits returns os.ErrClosed.
func (c *Conn) Close() error {
	c.closed.Store(true)
	return c.nl.Close()
}

// PortID returns the port id of the socket.
func (c *Conn) PortID() uint32 { return c.nl.PID() }

// JoinGroup subscribes to a multicast group, unix.NFNLGRP_*.
func (c *Conn) JoinGroup(group uint32) error { return c.nl.JoinGroup(group) }

// SetReadDeadline makes reads that wait return os.ErrDeadlineExceeded from t
// on; the zero Time means never.
func (c *Conn) SetReadDeadline(t time.Time) error { return c.nl.SetReadDeadline(t) }

// SetReadBuffer sets the size in bytes of the socket's buffer, 0 for
// [DefaultReadBuffer]. Without CAP_NET_ADMIN in the initial user namespace,
// net.core.rmem_max is the limit, silently.
func (c *Conn) SetReadBuffer(size int) (err error) {
	if size == 0 {
		size = DefaultReadBuffer
	}
	if err := c.nl.SetReadBuffer(size); err != nil {
		return err
	}
	c.rcvbuf, err = c.nl.ReadBuffer()
	return err
}

// ReadBuffer returns the size in bytes that SetReadBuffer got. The kernel
// doubles what it is asked for, because it counts the memory that datagrams
// take rather than their length.
func (c *Conn) ReadBuffer() int { return c.rcvbuf }

// Send sends the pieces as one datagram. By the time it returns, the kernel has
// done the work and queued the answers.
func (c *Conn) Send(pieces ...[]byte) error {
	total := 0
	for _, p := range pieces {
		total += len(p)
	}
	if err := c.growSendBuffer(total); err != nil {
		return err
	}
	var err error
	cerr := c.raw.Write(func(fd uintptr) bool {
		_, err = unix.SendmsgBuffers(int(fd), pieces, nil, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}, 0)
		return !errors.Is(err, unix.EAGAIN)
	})
	return errors.Join(cerr, err)
}

// growSendBuffer makes room for a datagram of n bytes: netlink takes none that
// is larger than the socket's buffer.
func (c *Conn) growSendBuffer(n int) error {
	const overhead = 4096
	if n += overhead; n <= c.sndbuf {
		return nil
	}
	var err error
	cerr := c.raw.Control(func(fd uintptr) {
		// FORCE needs CAP_NET_ADMIN in the initial user namespace. Without it
		// net.core.wmem_max is the limit, silently.
		if err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, n); err != nil {
			err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUF, n)
		}
		if err == nil {
			c.sndbuf, err = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUF)
		}
	})
	if err = errors.Join(cerr, err); err != nil {
		return fmt.Errorf("set netlink send buffer: %w", err)
	}
	if c.sndbuf < n {
		return fmt.Errorf("a transaction of %d bytes does not fit the netlink send buffer of %d: raise net.core.wmem_max: %w",
			n-overhead, c.sndbuf, unix.EMSGSIZE)
	}
	return nil
}

// Receive reads one datagram. If wait is false and there is none, it returns
// EAGAIN. The result is valid until the next read.
func (c *Conn) Receive(wait bool) ([]byte, error) {
	var n int
	var err error
	cerr := c.raw.Read(func(fd uintptr) bool {
		n, err = c.read(fd)
		return !wait || !errors.Is(err, unix.EAGAIN)
	})
	switch {
	case c.closed.Load():
		return nil, os.ErrClosed
	case cerr != nil:
		return nil, cerr
	}
	return c.buf[:n], err
}

// read reads one datagram of the kernel's. Any program with CAP_NET_ADMIN can
// send to this socket too; what it sends is skipped. unix.Recvfrom would
// allocate the address of each sender.
func (c *Conn) read(fd uintptr) (int, error) {
	for {
		c.senderLen = unix.SizeofSockaddrNetlink
		n, _, errno := unix.Syscall6(unix.SYS_RECVFROM, fd, uintptr(unsafe.Pointer(&c.buf[0])), uintptr(len(c.buf)), 0,
			uintptr(unsafe.Pointer(&c.sender)), uintptr(unsafe.Pointer(&c.senderLen)))
		if errno != 0 {
			return 0, errno
		}
		if c.sender.Pid == 0 {
			return int(n), nil
		}
	}
}

// Pending calls f with the datagrams that wait to be read, until it returns an
// error. Those that did not fit the socket's buffer are not among them.
func (c *Conn) Pending(f func([]byte) error) (err error) {
	cerr := c.raw.Read(func(fd uintptr) bool {
		for err == nil {
			n, fault := c.read(fd)
			switch {
			case fault == nil:
				err = f(c.buf[:n])
			case errors.Is(fault, unix.EAGAIN):
				return true
			case !errors.Is(fault, unix.ENOBUFS):
				err = fault
			}
		}
		return true
	})
	return errors.Join(cerr, err)
}

// Next waits for the next datagram that the kernel sends on its own account.
// overrun is set, without a datagram, once after the socket's buffer was full.
// All that was in it has been read by then, and there is room again: a caller
// that now looks elsewhere for what may be missing, and goes on to receive,
// misses nothing.
func (c *Conn) Next() (b []byte, overrun bool, err error) {
	for {
		switch b, err = c.Receive(!c.overrun); {
		case errors.Is(err, unix.ENOBUFS):
			// The kernel reports it ahead of what is in the buffer, and only
			// once until all of that is read; it discards messages until then.
			c.overrun = true
		case errors.Is(err, unix.EAGAIN):
			c.overrun = false
			return nil, true, nil
		default:
			return b, false, err
		}
	}
}
