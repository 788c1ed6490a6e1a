package nftset

import (
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/internal/nfnl"
)

// MonitorConfig holds the options of [Listen].
type MonitorConfig struct {
	// NetNS is the file descriptor of the network namespace, or 0 for that of
	// the calling thread. It is needed only during [Listen].
	NetNS int

	// Table is the table whose events come. The zero Table stands for all of
	// them; then there are events of the kinds Commit and Overrun alone.
	Table Table

	// Sets are the sets of the table whose events come, and those of their
	// elements. They need not exist.
	Sets []Set

	// ReadBuffer is the size in bytes of the socket's buffer, or 0 for 8 MiB:
	// room for some 90,000 elements with timeouts, as Linux 6.18 counts.
	// Without CAP_NET_ADMIN in the initial user namespace net.core.rmem_max is
	// the limit, silently.
	ReadBuffer int
}

// Monitor receives what programs do to a table and its sets. It does not
// receive elements that the packet path adds, nor those that expire: the kernel
// makes no events for them. One goroutine may receive; others may meanwhile
// close the monitor or set its deadline.
//
// For as long as there is one, each element of a transaction costs the kernel
// some 8 KB until it commits; see [BatchSize].
type Monitor struct {
	wire    *nfnl.Conn
	table   Table
	sets    map[string]*Set
	touched bool // the transaction whose messages are coming did something to the table
}

// Listen opens a monitor; nil stands for the zero MonitorConfig. The monitor
// receives every transaction that begins after Listen has returned. The error
// is os.ErrPermission without CAP_NET_ADMIN in the user namespace that owns the
// network namespace.
func Listen(config *MonitorConfig) (*Monitor, error) {
	if config == nil {
		config = &MonitorConfig{}
	}
	m := &Monitor{table: config.Table, sets: make(map[string]*Set)}
	for _, s := range config.Sets {
		err := s.fault()
		if s.Table != config.Table {
			err = errors.New("it is of another table")
		}
		if err != nil {
			return nil, fmt.Errorf("listen to set %v in table %v: %w", &s, config.Table, err)
		}
		m.sets[s.Name] = &s
	}
	var err error
	if m.wire, err = nfnl.Dial(config.NetNS); err != nil {
		return nil, err
	}
	if err = m.wire.SetReadBuffer(config.ReadBuffer); err == nil {
		err = m.wire.JoinGroup(unix.NFNLGRP_NFTABLES)
	}
	if err != nil {
		m.wire.Close()
		return nil, fmt.Errorf("listen to table %v: %w", config.Table, err)
	}
	return m, nil
}

// Close closes the monitor. A Receive that waits returns os.ErrClosed.
func (m *Monitor) Close() error { return m.wire.Close() }

// Pause makes the monitor receive no more transactions, so that one of many
// elements costs the kernel less. [Monitor.Resume] ends that: whoever then reads
// the sets misses nothing but what has happened in between.
func (m *Monitor) Pause() error { return m.wire.LeaveGroup(unix.NFNLGRP_NFTABLES) }

// Resume ends a pause.
func (m *Monitor) Resume() error { return m.wire.JoinGroup(unix.NFNLGRP_NFTABLES) }

// SetReadDeadline makes Receive return os.ErrDeadlineExceeded from t on, also
// one that waits already; the zero Time means never. The monitor stays usable.
// A context ends a Receive by way of context.AfterFunc.
func (m *Monitor) SetReadDeadline(t time.Time) error { return m.wire.SetReadDeadline(t) }

// Receive waits for events and appends them to batch: those of one datagram,
// which may be a part of a transaction, but never of two. The error is
// os.ErrClosed after Close, os.ErrDeadlineExceeded after the deadline. Any
// other is about a message that could not be read, because a set is of another
// type than the configuration says; the monitor is still good. What was
// appended is good in any case.
func (m *Monitor) Receive(batch []Event) ([]Event, error) {
	for n := len(batch); len(batch) == n; {
		b, overrun, err := m.wire.Next()
		if overrun {
			return append(batch, Event{Kind: Overrun}), nil
		}
		if err == nil {
			batch, err = m.decode(batch, b)
		}
		if err != nil {
			return batch, fmt.Errorf("receive events of table %v: %w", m.table, err)
		}
	}
	return batch, nil
}
