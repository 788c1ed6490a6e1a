package nflog

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// Lost tells of messages that did not come.
type Lost struct {
	// Messages is how many are missing between the last one that came before and those that come with it.
	Messages int

	// Overrun is set once after the buffer was full. All that was in it has been read by then, and there is room again: who now looks
	// elsewhere for what may be missing, and goes on to receive, misses nothing. Their number becomes known with the next message.
	Overrun bool
}

// Receive waits for the next datagram and appends its messages to batch. They keep nothing of the connection's. Messages that were
// lost are no error. The error is os.ErrClosed after Close, os.ErrDeadlineExceeded after the deadline; after any other the
// connection is still good. What was appended is good in any case.
func (c *Conn) Receive(batch []Message) ([]Message, Lost, error) {
	if len(c.early) > 0 {
		b := c.early[0]
		c.early = c.early[1:]
		return c.decode(batch, b)
	}
	for {
		b, err := c.read(!c.overrun)
		switch {
		case errors.Is(err, unix.ENOBUFS):
			// It is said ahead of what is in the buffer, and only once until all of that is read; the kernel discards messages
			// until then. So this is not yet the time to tell.
			c.overrun = true
		case errors.Is(err, unix.EAGAIN):
			c.overrun = false
			return batch, Lost{Overrun: true}, nil
		case err != nil:
			return batch, Lost{}, fmt.Errorf("receive netlink log: %w", err)
		default:
			return c.decode(batch, b)
		}
	}
}

// decode appends the messages of a datagram.
func (c *Conn) decode(batch []Message, b []byte) ([]Message, Lost, error) {
	lost := Lost{}
	for len(b) > 0 {
		m, rest, err := nextMessage(b)
		if err != nil {
			return batch, lost, fmt.Errorf("decode netlink log: %w", err)
		}
		b = rest
		if m.typ != msgPacket || len(m.body) < nfgenmsgLen {
			continue // an NLMSG_DONE ends datagrams of several messages
		}
		batch = append(batch, Message{Prefix: c.prefix})
		last := &batch[len(batch)-1]
		if err := last.Decode(m.body[nfgenmsgLen:]); err != nil {
			return batch[:len(batch)-1], lost, fmt.Errorf("decode netlink log: %w", err)
		}
		c.prefix = last.Prefix
		lost.Messages += c.gap(last.Seq)
	}
	return batch, lost, nil
}

// gap returns how many messages are missing before the one with sequence number seq, which wraps around. Those that were logged
// in the instant between the binding of the group and the setting of the flag have none, and look like the first.
func (c *Conn) gap(seq uint32) int {
	n := int32(seq - c.next)
	c.next = seq + 1
	return int(max(n, 0))
}
