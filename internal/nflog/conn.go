package nflog

import (
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// ErrBusy tells that the group has a listener already. The error of [Dial] names the group before it.
var ErrBusy = errors.New("is taken: is another `portmon watch` running?")

// DefaultReadBuffer is the size in bytes of the buffer in which messages wait to be received: on Linux 6.18 room for 60,000 that come
// 16 at a time, and for 20,000 that come one by one.
const DefaultReadBuffer = 8 << 20

// Config says which group to listen to.
type Config struct {
	// Group is the number of the group that rules log to.
	Group uint16

	// NetNS is the file descriptor of the network namespace whose packets are logged, or 0 for that of the calling thread. It is
	// needed only during [Dial].
	NetNS int

	// ReadBuffer is the size in bytes of the socket's buffer, or 0 for [DefaultReadBuffer]. Without CAP_NET_ADMIN in the initial user
	// namespace net.core.rmem_max is the limit, silently.
	ReadBuffer int
}

// Conn is the listener of a group. One goroutine may receive; others may meanwhile close the connection or set its deadline.
type Conn struct {
	nl     *netlink.Conn
	raw    syscall.RawConn
	closed atomic.Bool
	buffer int

	buf     []byte   // for receiving
	early   [][]byte // datagrams that came before Dial was done
	next    uint32   // sequence number of the next message
	prefix  string   // of the last message
	overrun bool     // the buffer was full, and what is in it has not all been read yet
}

// Dial listens to a group; nil stands for the zero Config, with group 0. The error is [ErrBusy] if the group has a listener, and os.ErrPermission without CAP_NET_ADMIN in the
// user namespace that owns the network namespace.
func Dial(config *Config) (*Conn, error) {
	if config == nil {
		config = &Config{}
	}
	nl, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{NetNS: config.NetNS})
	if err != nil {
		return nil, fmt.Errorf("open netlink socket: %w", err)
	}
	// The kernel takes what is left of the memory it gets for a datagram as well, which may be as much again.
	c := &Conn{nl: nl, buf: make([]byte, 4*datagramSize)}
	if err := c.start(config); err != nil {
		nl.Close()
		if errors.Is(err, ErrBusy) {
			return nil, fmt.Errorf("netlink log group %d %w", config.Group, ErrBusy)
		}
		return nil, fmt.Errorf("listen to netlink log group %d: %w", config.Group, err)
	}
	return c, nil
}

func (c *Conn) start(config *Config) (err error) {
	size := config.ReadBuffer
	if size == 0 {
		size = DefaultReadBuffer
	}
	if err := c.nl.SetReadBuffer(size); err != nil {
		return err
	}
	if c.buffer, err = c.nl.ReadBuffer(); err != nil {
		return err
	}
	if c.raw, err = c.nl.SyscallConn(); err != nil {
		return err
	}
	return c.bind(config.Group)
}

// Close ends the connection, and lets another listen to the group. A Receive that waits returns os.ErrClosed.
func (c *Conn) Close() error {
	c.closed.Store(true)
	return c.nl.Close()
}

// SetReadDeadline makes Receive return os.ErrDeadlineExceeded from t on, also one that waits already; the zero Time means never.
// The connection stays usable. A context ends a Receive by way of context.AfterFunc.
func (c *Conn) SetReadDeadline(t time.Time) error { return c.nl.SetReadDeadline(t) }

// ReadBuffer returns the size in bytes that the buffer really has. The kernel doubles what it is asked for, because it counts the
// memory that datagrams take rather than their length.
func (c *Conn) ReadBuffer() int { return c.buffer }

// read reads one datagram of the kernel's. If wait is false and there is none it
// returns EAGAIN. The result is valid until the next call. Whoever has
// CAP_NET_ADMIN can send to this socket as well, and what such a program sends is
// passed over: only port id 0 is the kernel.
func (c *Conn) read(wait bool) ([]byte, error) {
	var (
		n   int
		err error
	)
	cerr := c.raw.Read(func(fd uintptr) bool {
		for {
			var from unix.Sockaddr
			n, from, err = unix.Recvfrom(int(fd), c.buf, 0)
			if sender, ok := from.(*unix.SockaddrNetlink); err != nil || ok && sender.Pid == 0 {
				return !wait || !errors.Is(err, unix.EAGAIN)
			}
		}
	})
	switch {
	case c.closed.Load():
		return nil, os.ErrClosed
	case cerr != nil:
		return nil, cerr
	}
	return c.buf[:max(n, 0)], err
}
