package nftset

import (
	"cmp"
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
}

// EventKind is what an [Event] reports.
type EventKind uint16

// The kinds of events. Programs make them; the packet path and the passing of
// time do not. But for Overrun, they are the types of the kernel's messages.
const (
	// ElementAdded is an element that was added, or got another timeout. One
	// that was there already makes no event.
	ElementAdded EventKind = ofTables | unix.NFT_MSG_NEWSETELEM

	// ElementDeleted is an element that was deleted, also with all the others
	// of its set by FlushSet.
	ElementDeleted EventKind = ofTables | unix.NFT_MSG_DELSETELEM

	// SetAdded is a set that was added, or got another timeout or size.
	SetAdded EventKind = ofTables | unix.NFT_MSG_NEWSET

	// SetDeleted is a set that was deleted with its elements, for which no
	// events come.
	SetDeleted EventKind = ofTables | unix.NFT_MSG_DELSET

	// TableAdded is the table, added, or with other flags.
	TableAdded EventKind = ofTables | unix.NFT_MSG_NEWTABLE

	// TableDeleted is the table, deleted; before it, each set of it is. A table
	// that goes when the socket of its owner is closed makes no event at all.
	TableDeleted EventKind = ofTables | unix.NFT_MSG_DELTABLE

	// Commit ends the events of one transaction. It comes for every one that
	// did something to the table, its chains and rules included.
	Commit EventKind = ofTables | unix.NFT_MSG_NEWGEN

	// Overrun reports that events are missing: the buffer was full. All that
	// was in it came before this event, so a program that now reads the sets,
	// and goes on to receive, misses nothing more.
	Overrun EventKind = 1
)

const ofTables = EventKind(unix.NFNL_SUBSYS_NFTABLES) << 8

var eventKinds = map[EventKind]string{
	ElementAdded: "element added", ElementDeleted: "element deleted", SetAdded: "set added", SetDeleted: "set deleted",
	TableAdded: "table added", TableDeleted: "table deleted", Commit: "commit", Overrun: "overrun",
}

// String returns "element added" and the like.
func (k EventKind) String() string { return cmp.Or(eventKinds[k], "unknown") }

// decode appends the events of a datagram. Messages that it cannot read do not
// keep it from reading the others; the error is that of the first.
func (m *Monitor) decode(batch []Event, b []byte) ([]Event, error) {
	var fault error
	for msg, err := range nfnl.Messages(b) {
		if err == nil && msg.Type>>8 == unix.NFNL_SUBSYS_NFTABLES {
			batch, err = m.message(batch, msg)
		}
		if fault == nil {
			fault = err
		}
	}
	return batch, fault
}

func (m *Monitor) message(batch []Event, msg nfnl.Message) ([]Event, error) {
	ev := Event{Kind: EventKind(msg.Type), PortID: msg.Port}
	if ev.Kind == Commit {
		if m.touched {
			m.touched, batch = false, append(batch, ev)
		}
		return batch, nil
	}
	if m.table == (Table{}) {
		m.touched = true
		return batch, nil
	}
	table, object, err := names(msg.Attrs())
	if err != nil || Family(msg.Body[0]) != m.table.Family || string(table) != m.table.Name {
		return batch, err
	}
	m.touched = true
	switch ev.Kind {
	case TableAdded, TableDeleted:
		return append(batch, ev), nil
	case SetAdded, SetDeleted, ElementAdded, ElementDeleted:
	default:
		return batch, nil
	}
	s := m.sets[string(object)]
	if s == nil {
		return batch, nil
	}
	ev.Set = s.Name
	if ev.Kind == SetAdded || ev.Kind == SetDeleted {
		return append(batch, ev), nil
	}
	err = elementList(s.Type, msg.Attrs(), func(l listed) error {
		ev.Element, ev.End = l.el, l.end
		batch = append(batch, ev)
		return nil
	})
	if err != nil {
		err = fmt.Errorf("read event of set %v: %w", s, err)
	}
	return batch, err
}

// names returns the table that a message is about, and the set, if it is about
// one or its elements.
func names(attrs []byte) (table, set []byte, err error) {
	for a, err := range nfnl.Attrs(attrs) {
		if err != nil {
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
