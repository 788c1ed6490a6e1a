package nftset

import (
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/internal/nfnl"
)

// Event is something that a program's transaction did, one of those that
// [Listen] was asked for.
type Event struct {
	Kind EventKind

	// Set is the name of the set that the event is about.
	Set string

	// Element is what was added or deleted, as one entry of the kernel's list:
	// From and To are the same key. In an interval set it is the first key, or
	// if End is set, the key behind the last; each comes as an event of its
	// own, in any order. Remaining is, when it was deleted, the time that it
	// had left.
	Element Element
	End     bool

	// PortID is the netlink port id of the connection that did it, see
	// [Conn.PortID].
	PortID uint32

	// Generation is the number of the ruleset's state that a Commit has made,
	// see [Conn.Generation]. Process is the name of the program, at most 15
	// bytes, and PID the process id of the thread, as the initial PID namespace
	// counts.
	Generation uint32
	PID        uint32
	Process    string
}

// EventKind is what an [Event] reports.
type EventKind uint8

// The kinds of events. Programs make them; the packet path and the passing of
// time do not.
const (
	// ElementAdded is an element that was added, or got another timeout. One
	// that was there already makes no event.
	ElementAdded EventKind = iota + 1

	// ElementDeleted is an element that was deleted, also with all the others
	// of its set by FlushSet.
	ElementDeleted

	// SetAdded is a set that was added, or got another timeout or size.
	SetAdded

	// SetDeleted is a set that was deleted with its elements, for which no
	// events come.
	SetDeleted

	// TableAdded is the table, added, or with other flags.
	TableAdded

	// TableDeleted is the table, deleted; before it, each set of it is. A table
	// that goes when the socket of its owner is closed makes no event at all.
	TableDeleted

	// Commit ends the events of one transaction. It comes for every one that
	// did something to the table, its chains and rules included.
	Commit

	// Overrun reports that events are missing: the buffer was full. All that
	// was in it came before this event, so a program that now reads the sets,
	// and goes on to receive, misses nothing more.
	Overrun
)

var eventKinds = [...]string{
	"unknown", "element added", "element deleted", "set added", "set deleted",
	"table added", "table deleted", "commit", "overrun",
}

// String returns "element added" and the like.
func (k EventKind) String() string {
	if int(k) >= len(eventKinds) {
		k = 0
	}
	return eventKinds[k]
}

// eventKind returns the kind of event that an nf_tables message reports, 0 for
// none.
func eventKind(typ uint8) EventKind {
	switch typ {
	case unix.NFT_MSG_NEWSETELEM:
		return ElementAdded
	case unix.NFT_MSG_DELSETELEM:
		return ElementDeleted
	case unix.NFT_MSG_NEWSET:
		return SetAdded
	case unix.NFT_MSG_DELSET:
		return SetDeleted
	case unix.NFT_MSG_NEWTABLE:
		return TableAdded
	case unix.NFT_MSG_DELTABLE:
		return TableDeleted
	}
	return 0
}

// eventDecoder makes events of datagrams.
type eventDecoder struct {
	table   Table
	sets    map[string]*Set
	touched bool // the transaction whose messages are coming did something to the table
}

// decode appends the events of a datagram. Messages that it cannot read do not
// keep it from reading the others; the error is that of the first.
func (d *eventDecoder) decode(batch []Event, b []byte) ([]Event, error) {
	var fault error
	for len(b) > 0 {
		m, rest, err := nfnl.NextMessage(b)
		if err != nil {
			return batch, err
		}
		if m.Type>>8 == unix.NFNL_SUBSYS_NFTABLES {
			if batch, err = d.message(batch, m); err != nil && fault == nil {
				fault = err
			}
		}
		b = rest
	}
	return batch, fault
}

func (d *eventDecoder) message(batch []Event, m nfnl.Message) ([]Event, error) {
	if uint8(m.Type) == unix.NFT_MSG_NEWGEN {
		return d.commit(batch, m)
	}
	if d.table == (Table{}) {
		d.touched = true
		return batch, nil
	}
	table, object, err := names(m.Attrs())
	if err != nil || Family(m.Body[0]) != d.table.Family || string(table) != d.table.Name {
		return batch, err
	}
	d.touched = true
	ev := Event{Kind: eventKind(uint8(m.Type)), PortID: m.Port}
	switch ev.Kind {
	case 0:
		return batch, nil
	case TableAdded, TableDeleted:
		return append(batch, ev), nil
	}
	s := d.sets[string(object)]
	if s == nil {
		return batch, nil
	}
	ev.Set = s.Name
	if ev.Kind == SetAdded || ev.Kind == SetDeleted {
		return append(batch, ev), nil
	}
	_, err = elementList(s.Type, m.Attrs(), func(l listed) bool {
		ev.Element, ev.End = l.el, l.end
		batch = append(batch, ev)
		return true
	})
	if err != nil {
		err = fmt.Errorf("read event of set %v: %w", s, err)
	}
	return batch, err
}

func (d *eventDecoder) commit(batch []Event, m nfnl.Message) ([]Event, error) {
	if !d.touched {
		return batch, nil
	}
	d.touched = false
	attrs, err := nfnl.Parse(m.Attrs())
	if err != nil {
		return batch, err
	}
	return append(batch, Event{
		Kind: Commit, PortID: m.Port, Generation: attrs[unix.NFTA_GEN_ID].Uint32(),
		PID: attrs[unix.NFTA_GEN_PROC_PID].Uint32(), Process: string(attrs[unix.NFTA_GEN_PROC_NAME].Text()),
	}), nil
}

// names returns the table that a message is about, and the set, if it is about
// one or its elements.
func names(attrs []byte) (table, set []byte, err error) {
	for len(attrs) > 0 {
		var a nfnl.Attr
		if a, attrs, err = nfnl.NextAttr(attrs); err != nil {
			return nil, nil, err
		}
		switch a.Type {
		case unix.NFTA_TABLE_NAME: // the same number in sets, elements, chains, rules and objects
			table = a.Text()
		case unix.NFTA_SET_NAME: // as NFTA_SET_ELEM_LIST_SET
			set = a.Text()
		}
	}
	return table, set, nil
}
