package nftset

import (
	"errors"
	"fmt"
	"syscall"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Config says how to open a [Conn]. The zero value is for the calling thread's network namespace.
type Config struct {
	// NetNS is the file descriptor of the network namespace to talk to, or 0 for that of the calling thread. It is needed only
	// during [Dial].
	NetNS int
}

// Conn is a netlink socket for nf_tables. It is for one goroutine at a time.
type Conn struct {
	nl     *netlink.Conn
	raw    syscall.RawConn
	seq    uint32
	sndbuf int
	buf    []byte // for receiving; what is read from it does not outlive the next read
	dumped bool   // a dump is being read, maybe from within a loop of the caller's
}

// errDumped keeps a loop over a dump from having its answers thrown away, and from waiting for them ever after.
var errDumped = errors.New("the connection is in the midst of a dump: open another one for use inside of the loop")

// receiveBuffer is more than one datagram of a dump ever has: the kernel builds them as large as the reader's buffer, up to 32 KiB.
// A small buffer costs dearly, because the kernel walks the set from its start again for each datagram.
const receiveBuffer = 64 << 10

// Dial opens a connection; nil stands for the zero Config. It needs no privilege, but nearly everything done with the connection
// needs CAP_NET_ADMIN in the user namespace that owns the network namespace.
func Dial(config *Config) (*Conn, error) {
	if config == nil {
		config = &Config{}
	}
	nl, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{NetNS: config.NetNS})
	if err != nil {
		return nil, fmt.Errorf("open netlink socket: %w", err)
	}
	c := &Conn{nl: nl, buf: make([]byte, receiveBuffer)}
	if c.raw, err = nl.SyscallConn(); err != nil {
		nl.Close()
		return nil, fmt.Errorf("open netlink socket: %w", err)
	}
	// The request is not repeated in errors (Linux 4.3), and they name the attribute that is wrong (4.12).
	for _, option := range []netlink.ConnOption{netlink.CapAcknowledge, netlink.ExtendedAcknowledge} {
		if err := nl.SetOption(option, true); err != nil {
			nl.Close()
			return nil, fmt.Errorf("set netlink socket option: %w", err)
		}
	}
	return c, nil
}

// Close closes the connection.
func (c *Conn) Close() error { return c.nl.Close() }

// PortID returns the netlink port id of the connection, which events of its edits bear.
func (c *Conn) PortID() uint32 { return c.nl.PID() }

// send sends the pieces as one datagram. By the time it returns, the kernel has done the work and queued the answers.
func (c *Conn) send(pieces ...[]byte) error {
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

// growSendBuffer makes room for a datagram of n bytes: netlink takes none that is larger than the socket's buffer.
func (c *Conn) growSendBuffer(n int) error {
	const overhead = 4096
	if n += overhead; n <= c.sndbuf {
		return nil
	}
	var err error
	cerr := c.raw.Control(func(fd uintptr) {
		// FORCE needs CAP_NET_ADMIN in the initial user namespace. Without it net.core.wmem_max is the limit, silently.
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

// pending calls f with the datagrams that wait to be read, until it returns an
// error. Those that did not fit the receive buffer are not among them.
func (c *Conn) pending(f func([]byte) error) (err error) {
	cerr := c.raw.Read(func(fd uintptr) bool {
		for err == nil {
			n, fault := unix.Read(int(fd), c.buf)
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

// receive reads one datagram. If wait is false and there is none it returns EAGAIN. The result is valid until the next call.
func (c *Conn) receive(wait bool) ([]byte, error) {
	var (
		n   int
		err error
	)
	cerr := c.raw.Read(func(fd uintptr) bool {
		n, err = unix.Read(int(fd), c.buf)
		return !wait || !errors.Is(err, unix.EAGAIN)
	})
	if cerr != nil {
		return nil, cerr
	}
	return c.buf[:max(n, 0)], err
}
