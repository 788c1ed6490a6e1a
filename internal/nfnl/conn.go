package nfnl

import (
	"cmp"
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

// defaultReadBuffer is the size in bytes that [Conn.SetReadBuffer] takes for 0.
const defaultReadBuffer = 8 << 20

// Conn is a netlink socket. One goroutine may send and receive; others may
// meanwhile close it or set its deadline.
type Conn struct {
	nl      *netlink.Conn
	raw     syscall.RawConn
	overrun bool // the buffer was full, and what is in it has not all been read yet
	closed  atomic.Bool

	// What receive, which is made once, is asked for and has got.
	receive   func(fd uintptr) bool
	wait      bool
	buf       []byte
	n         uintptr
	errno     syscall.Errno
	sender    unix.RawSockaddrNetlink
	senderLen uint32
}

// Dial opens a socket in the network namespace of a file descriptor, or in that
// of the calling thread if netns is 0.
func Dial(netns int) (*Conn, error) {
	nl, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{NetNS: netns})
	if err != nil {
		return nil, fmt.Errorf("open netlink socket: %w", err)
	}
	c := &Conn{nl: nl, buf: make([]byte, receiveBuffer)}
	c.receive = c.receiveOne
	c.raw, err = nl.SyscallConn()
	// The request is not repeated in errors (Linux 4.3), and they name the
	// attribute that is wrong (4.12).
	for _, option := range []netlink.ConnOption{netlink.CapAcknowledge, netlink.ExtendedAcknowledge} {
		err = errors.Join(err, nl.SetOption(option, true))
	}
	if err != nil {
		nl.Close()
		return nil, fmt.Errorf("set up netlink socket: %w", err)
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

// LeaveGroup ends a subscription.
func (c *Conn) LeaveGroup(group uint32) error { return c.nl.LeaveGroup(group) }

// SetReadDeadline makes reads that wait return os.ErrDeadlineExceeded from t
// on; the zero Time means never.
func (c *Conn) SetReadDeadline(t time.Time) error { return c.nl.SetReadDeadline(t) }

// SetReadBuffer sets the size in bytes of the socket's buffer, 0 for
// 8 MiB. Without CAP_NET_ADMIN in the initial user namespace,
// net.core.rmem_max is the limit, silently.
func (c *Conn) SetReadBuffer(size int) error {
	return c.nl.SetReadBuffer(cmp.Or(size, defaultReadBuffer))
}

// Exchange sends the pieces as one datagram and calls f with each message that
// waits to be read then, until f returns an error. These are the answers, of
// which the kernel has queued all by the time that Send returns, or of a dump
// each datagram by the time that the one before is read. If some are lost,
// because they did not fit the socket's buffer or the kernel had no memory for
// them, the error is ENOBUFS, after f was called with the others. A single
// answer always fits, and so do those to a dump.
func (c *Conn) Exchange(f func(Message) error, pieces ...[]byte) error {
	if err := c.Send(pieces...); err != nil {
		return err
	}
	err := c.pending(func(b []byte) error {
		for m, err := range Messages(b) {
			if err == nil {
				err = f(m)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
	if errors.Is(err, unix.ENOBUFS) {
		return fmt.Errorf("the socket's buffer was full, or the kernel lacks memory for its answers: %w", err)
	}
	return err
}

// Discard throws away what waits to be read.
func (c *Conn) Discard() error {
	err := c.pending(func([]byte) error { return nil })
	if errors.Is(err, unix.ENOBUFS) {
		return nil
	}
	return err
}

// pending calls f with each datagram that waits to be read, until f returns an
// error. If there were more that are lost, it returns ENOBUFS at the end.
func (c *Conn) pending(f func([]byte) error) error {
	var lost error
	for {
		b, err := c.read(false)
		switch {
		case errors.Is(err, unix.EAGAIN):
			return lost
		case errors.Is(err, unix.ENOBUFS): // the kernel reports it ahead of what there is
			lost = err
			continue
		case err == nil:
			err = f(b)
		}
		if err != nil {
			return err
		}
	}
}

// Send sends the pieces as one datagram.
func (c *Conn) Send(pieces ...[]byte) error {
	err := c.send(pieces)
	if !errors.Is(err, unix.EMSGSIZE) {
		return err
	}
	// Netlink takes no datagram that is larger than the socket's buffer. Without
	// CAP_NET_ADMIN in the initial user namespace net.core.wmem_max is the limit
	// of that, silently.
	const overhead = 4096
	total := overhead
	for _, p := range pieces {
		total += len(p)
	}
	if err := c.nl.SetWriteBuffer(total); err != nil {
		return fmt.Errorf("set netlink send buffer: %w", err)
	}
	if err = c.send(pieces); errors.Is(err, unix.EMSGSIZE) {
		return fmt.Errorf("a transaction of %d bytes does not fit the netlink send buffer: raise net.core.wmem_max: %w",
			total-overhead, err)
	}
	return err
}

func (c *Conn) send(pieces [][]byte) error {
	var err error
	cerr := c.raw.Write(func(fd uintptr) bool {
		_, err = unix.SendmsgBuffers(int(fd), pieces, nil, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}, 0)
		return !errors.Is(err, unix.EAGAIN)
	})
	return errors.Join(cerr, err)
}

// read reads one datagram of the kernel's. If wait is false and there is none,
// it returns EAGAIN. The result is valid until the next read. Any program with
// CAP_NET_ADMIN can send to this socket too; what it sends is skipped.
func (c *Conn) read(wait bool) ([]byte, error) {
	c.wait = wait
	err := c.raw.Read(c.receive)
	switch {
	case c.closed.Load():
		return nil, os.ErrClosed
	case err != nil:
		return nil, err
	case c.errno != 0:
		return nil, c.errno
	}
	return c.buf[:c.n], nil
}

// receiveOne reports whether read is done. unix.Recvfrom would allocate the
// address of each sender.
func (c *Conn) receiveOne(fd uintptr) bool {
	for {
		c.senderLen = unix.SizeofSockaddrNetlink
		c.n, _, c.errno = unix.Syscall6(unix.SYS_RECVFROM, fd,
			uintptr(unsafe.Pointer(&c.buf[0])), uintptr(len(c.buf)), 0,
			uintptr(unsafe.Pointer(&c.sender)), uintptr(unsafe.Pointer(&c.senderLen)))
		if c.errno != 0 || c.sender.Pid == 0 {
			return !c.wait || c.errno != unix.EAGAIN
		}
	}
}

// Next waits for the next datagram that the kernel sends on its own account.
// overrun is set, without a datagram, once after the socket's buffer was full.
// All that was in it has been read by then, and there is room again: a caller
// that now looks elsewhere for what may be missing, and goes on to receive,
// misses nothing. The datagram is valid until the next one is read.
func (c *Conn) Next() (b []byte, overrun bool, err error) {
	for {
		switch b, err = c.read(!c.overrun); {
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
