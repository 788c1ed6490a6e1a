package notice

import (
	"net/netip"
	"time"

	"github.com/portmon/portmon/internal/text"
	"github.com/portmon/portmon/internal/watch"
)

// Event is one thing worth telling. What is not known, or does not apply to the
// kind, is zero.
type Event struct {
	Kind   watch.Kind
	Prefix netip.Prefix // who is, or was, banned
	Cause  string       // of the ban: "trap", "scan", "subnet", "hand" or "other"
	// Tier is the step of the ladder, from 1. Last tells that there is none
	// above it.
	Tier     int
	Last     bool
	Proto    uint8 // an IP protocol number, of the offence
	Port     uint16
	Offences int // how many count
	// Time is when it happened; zero means when Tell was called.
	Time time.Time
	// Until is when the ban ends, unless it is Forever.
	Until   time.Time
	Forever bool
	// Reason is the comment of a ban. It is shown as text whatever
	// is in it, and cut if it is long.
	Reason string
	// Wrong is what was wrong with a table that was Repaired.
	Wrong string
	// Count is how many bans were Restored, or how many offences found a set
	// Full.
	Count int
}

// subject returns the address of a single host, and any other prefix as a
// prefix; "" if there is none.
func (e *Event) subject() string { return text.Prefix(e.Prefix) }

// protocol returns "tcp", "udp", or the number of any other protocol; "" if it
// is not known.
func (e *Event) protocol() string { return text.Protocol(e.Proto) }

// bounded returns the event with its texts made printable and short.
func (e Event) bounded() Event {
	e.Cause, e.Reason, e.Wrong = printable(e.Cause, maxName), printable(e.Reason, maxReason), printable(e.Wrong, maxReason)
	return e
}
