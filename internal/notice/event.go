package notice

import (
	"net/netip"
	"strconv"
	"time"

	"github.com/portmon/portmon/internal/text"
)

// Kind says what happened.
type Kind int

// The kinds of events, in the order of those of the watcher. Their names are what
// PORTMON_EVENT holds.
const (
	Banned      Kind = iota // the packet path banned a source
	Escalated               // a repeat offender went up the ladder
	ByHand                  // somebody banned a source
	Lifted                  // somebody lifted a ban
	Whitelisted             // a ban of a whitelisted source was lifted at once
	Restored                // bans were put back
	TableGone               // the table was deleted
	Repaired                // the table was not what it must be, and was put right
	Removed                 // `portmon remove` deleted the table
	Full                    // offences banned nobody, because a set had no room
	kindCount
)

var kinds = [kindCount]string{
	"banned", "escalated", "banned by hand", "lifted", "whitelisted", "restored", "table gone", "repaired", "removed", "full",
}

// String returns "banned" and the like.
func (k Kind) String() string {
	if k < 0 || k >= kindCount {
		return "Kind(" + strconv.Itoa(int(k)) + ")"
	}
	return kinds[k]
}

// Event is one thing worth telling. What is not known, or does not apply to the kind, is zero.
type Event struct {
	Kind   Kind
	Prefix netip.Prefix // who is, or was, banned
	Cause  string       // of the ban: "trap", "scan", "subnet", "hand" or "other"
	// Tier is the step of the ladder, from 1. Last tells that there is none above it.
	Tier     int
	Last     bool
	Proto    uint8 // an IP protocol number, of the offence
	Port     uint16
	Offences int // how many count
	// Time is when it happened; zero means when it was told.
	Time time.Time
	// Until is when the ban ends, unless it is Forever.
	Until   time.Time
	Forever bool
	// Reason is what somebody noted beside a ban. It is shown as text whatever is in it, and cut if it is long.
	Reason string
	// Wrong is what was wrong with a table that was Repaired.
	Wrong string
	// Count is how many bans were Restored, or how many offences found a set
	// Full.
	Count int
}

// subject returns the address of a single host, and any other prefix as a prefix; "" if there is none.
func (e *Event) subject() string { return text.Prefix(e.Prefix) }

// protocol returns "tcp", "udp", or the number of any other protocol; "" if it is not known.
func (e *Event) protocol() string { return text.Protocol(e.Proto) }

// bounded returns the event with its texts made printable and short.
func (e Event) bounded() Event {
	e.Cause, e.Reason, e.Wrong = printable(e.Cause, maxName), printable(e.Reason, maxReason), printable(e.Wrong, maxReason)
	return e
}
