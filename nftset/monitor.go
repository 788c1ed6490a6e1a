package nftset

import (
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// DefaultReadBuffer is the size in bytes of the buffer in which events wait to be received: room for some 90,000 elements with
// timeouts, as Linux 6.18 counts.
const DefaultReadBuffer = 8 << 20

// MonitorConfig says what a [Monitor] listens to.
type MonitorConfig struct {
	// NetNS is the file descriptor of the network namespace, or 0 for that of the calling thread. It is needed only during [Listen].
	NetNS int

	// Table is the table whose events come. The zero Table stands for all of
	// them; then there are events of the kinds Commit and Overrun alone.
	Table Table

	// Sets are the sets of the table whose events come, and those of their elements. They need not exist.
	Sets []Set

	// ReadBuffer is the size in bytes of the socket's buffer, or 0 for [DefaultReadBuffer]. Without CAP_NET_ADMIN in the initial user
	// namespace net.core.rmem_max is the limit, silently.
	ReadBuffer int
}

// Monitor hears what programs do to a table and its sets. It does not hear of elements that the packet path adds, nor of those that
// expire: the kernel tells nobody. One goroutine may receive; others may meanwhile close the monitor or set its deadline.
//
// For as long as there is one, each element of a transaction costs the kernel some 8 KB until it commits; see [BatchSize].
type Monitor struct {
	conn    *Conn
	events  eventDecoder
	buffer  int
	overrun bool // the buffer was full, and what is in it has not all been read yet
	closed  atomic.Bool
}

// Listen opens a monitor; nil stands for the zero MonitorConfig. The monitor hears of every transaction that begins after it has returned. The error is os.ErrPermission without
// CAP_NET_ADMIN in the user namespace that owns the network namespace.
func Listen(config *MonitorConfig) (*Monitor, error) {
	if config == nil {
		config = &MonitorConfig{}
	}
	m := &Monitor{events: eventDecoder{table: config.Table, sets: make(map[string]*Set)}}
	for _, s := range config.Sets {
		err := s.fault()
		if s.Table != config.Table {
			err = errors.New("it is of another table")
		}
		if err != nil {
			return nil, fmt.Errorf("listen to set %v in table %v: %w", &s, config.Table, err)
		}
		m.events.sets[s.Name] = &s
	}
	var err error
	if m.conn, err = Dial(&Config{NetNS: config.NetNS}); err != nil {
		return nil, err
	}
	if err := m.join(config.ReadBuffer); err != nil {
		m.conn.Close()
		return nil, fmt.Errorf("listen to table %v: %w", config.Table, err)
	}
	return m, nil
}

func (m *Monitor) join(size int) (err error) {
	if size == 0 {
		size = DefaultReadBuffer
	}
	if err := m.conn.nl.SetReadBuffer(size); err != nil {
		return err
	}
	if m.buffer, err = m.conn.nl.ReadBuffer(); err != nil {
		return err
	}
	return m.conn.nl.JoinGroup(unix.NFNLGRP_NFTABLES)
}

// Close closes the monitor. A Receive that waits returns os.ErrClosed.
func (m *Monitor) Close() error {
	m.closed.Store(true)
	return m.conn.Close()
}

// SetReadDeadline makes Receive return os.ErrDeadlineExceeded from t on, also one that waits already; the zero Time means never.
// The monitor stays usable. A context ends a Receive by way of context.AfterFunc.
func (m *Monitor) SetReadDeadline(t time.Time) error { return m.conn.nl.SetReadDeadline(t) }

// ReadBuffer returns the size in bytes that the buffer really has. The kernel doubles what it is asked for, because it counts the
// memory that datagrams take rather than their length.
func (m *Monitor) ReadBuffer() int { return m.buffer }

// Receive waits for events and appends them to batch: those of one datagram, which may be a part of a transaction, but never of two.
// The error is os.ErrClosed after Close, os.ErrDeadlineExceeded after the deadline. Any other is of a message that could not be
// read, because a set is of another type than was said; the monitor is still good. What was appended is good in any case.
func (m *Monitor) Receive(batch []Event) ([]Event, error) {
	for n := len(batch); len(batch) == n; {
		b, err := m.conn.receive(!m.overrun)
		switch {
		case m.closed.Load():
			return batch, fmt.Errorf("receive events of table %v: %w", m.events.table, os.ErrClosed)
		case errors.Is(err, unix.ENOBUFS):
			// It is said ahead of what is in the buffer, and only once until all of that is read; the kernel discards events until
			// then. So this is not yet the time to tell.
			m.overrun = true
			continue
		case errors.Is(err, unix.EAGAIN):
			m.overrun = false
			return append(batch, Event{Kind: Overrun}), nil
		}
		if err == nil {
			batch, err = m.events.decode(batch, b)
		}
		if err != nil {
			return batch, fmt.Errorf("receive events of table %v: %w", m.events.table, err)
		}
	}
	return batch, nil
}
