// Package nflog reads what nftables rules log to a netlink log group: for each
// packet the addresses, the ports, the interface and the time.
//
// [Conn] is the socket and [Message.Decode] reads one message; that is all
// there is. A group has one listener at a time. Without one, what rules log to
// it is lost, and packets are treated as if there were one.
package nflog

import (
	"errors"
	"fmt"
	"io"
	"time"

	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/internal/nfnl"
)

// ErrBusy reports that the group has a listener already. The error of [Dial]
// names the group before it.
var ErrBusy = errors.New("is taken: is another `portmon watch` or `portmon top` running?")

// A listener that only shows what is logged gives the group back after a Turn,
// for a Gap, so that a watcher can take it: nobody can take it from one that has
// it.
const (
	Turn = 3 * time.Second
	Gap  = 60 * time.Millisecond
)

// Config holds the options of [Dial].
type Config struct {
	// Group is the number of the group that rules log to.
	Group uint16

	// NetNS is the file descriptor of the network namespace whose packets are
	// logged, or 0 for that of the calling thread. It is needed only during
	// [Dial].
	NetNS int

	// ReadBuffer is the size in bytes of the socket's buffer, or 0 for 8 MiB:
	// on Linux 6.18 room for 60,000 messages that come 16 at a time, and for
	// 20,000 that come one by one. Without CAP_NET_ADMIN in the initial user
	// namespace net.core.rmem_max is the limit, silently.
	ReadBuffer int
}

// Conn is the listener of a group. One goroutine may receive; others may
// meanwhile close the connection or set its deadline.
type Conn struct {
	wire   *nfnl.Conn
	group  uint16
	early  []Message // that came before Dial was done
	next   uint32    // sequence number of the next message
	prefix string    // of the last message
}

// Dial listens to a group; nil stands for the zero Config, with group 0. The
// error is [ErrBusy] if the group has a listener, and os.ErrPermission without
// CAP_NET_ADMIN in the user namespace that owns the network namespace.
func Dial(config *Config) (*Conn, error) {
	if config == nil {
		config = &Config{}
	}
	wire, err := nfnl.Dial(config.NetNS)
	if err != nil {
		return nil, err
	}
	c := &Conn{wire: wire, group: config.Group}
	if err = wire.SetReadBuffer(config.ReadBuffer); err == nil {
		err = c.bind(config.Group)
	}
	switch {
	case errors.Is(err, ErrBusy):
		err = fmt.Errorf("netlink log group %d %w", config.Group, ErrBusy)
	case err != nil:
		err = fmt.Errorf("listen to netlink log group %d: %w", config.Group, err)
	default:
		return c, nil
	}
	wire.Close()
	return nil, err
}

// Close ends the connection, and lets another listen to the group. A Receive
// that waits returns os.ErrClosed.
func (c *Conn) Close() error { return c.wire.Close() }

// SetReadDeadline makes Receive return os.ErrDeadlineExceeded from t on, also
// one that waits already; the zero Time means never. The connection stays
// usable. A context ends a Receive by way of context.AfterFunc.
func (c *Conn) SetReadDeadline(t time.Time) error { return c.wire.SetReadDeadline(t) }

// Lost counts messages that did not come.
type Lost struct {
	// Messages is how many are missing between the last one that came before
	// and those that come with it.
	Messages int

	// Overrun is set once after the buffer was full. All that was in it has
	// been read by then, and there is room again: a caller that now looks
	// elsewhere for what may be missing, and goes on to receive, misses
	// nothing. The number of messages becomes known with the next one.
	Overrun bool
}

// Receive waits for the next datagram and appends its messages to batch. They
// share no memory with the connection. Messages that were lost are no error.
// The error is os.ErrClosed after Close, io.EOF after all that came before
// [Conn.Unbind], os.ErrDeadlineExceeded after the deadline; after any other the
// connection is still good. What was appended is good in any case.
func (c *Conn) Receive(batch []Message) ([]Message, Lost, error) {
	n := len(batch)
	var err error
	if batch, c.early = append(batch, c.early...), nil; len(batch) == n {
		b, overrun, fault := c.wire.Next()
		if overrun {
			return batch, Lost{Overrun: true}, nil
		}
		if err = fault; err == nil {
			batch, err = c.decode(batch, b)
		}
	}
	var lost Lost
	for _, m := range batch[n:] {
		lost.Messages += c.gap(m.Seq)
	}
	if err != nil && err != io.EOF {
		err = fmt.Errorf("receive netlink log: %w", err)
	}
	return batch, lost, err
}

// decode appends the messages of a datagram.
func (c *Conn) decode(batch []Message, b []byte) ([]Message, error) {
	for m, err := range nfnl.Messages(b) {
		if err == nil && m.Type == unix.NLMSG_ERROR { // the answer to Unbind
			if err = m.Errno(); err == nil {
				err = io.EOF
			}
		}
		if err == nil {
			batch, err = c.take(batch, m)
		}
		if err != nil {
			return batch, err
		}
	}
	return batch, nil
}

// take appends what a message says, if it is about a packet. Others are the
// NLMSG_DONE that ends a datagram of several.
func (c *Conn) take(batch []Message, m nfnl.Message) ([]Message, error) {
	if m.Type != msgPacket {
		return batch, nil
	}
	last := Message{Prefix: c.prefix}
	if err := last.Decode(m.Attrs()); err != nil {
		return batch, err
	}
	c.prefix = last.Prefix
	return append(batch, last), nil
}

// gap returns how many messages are missing before the one with sequence number
// seq, which wraps around. Those that were logged in the instant between the
// binding of the group and the setting of the flag have none, and look like the
// first.
func (c *Conn) gap(seq uint32) int {
	n := int32(seq - c.next)
	c.next = seq + 1
	return int(max(n, 0))
}
