package notice

import (
	"net/netip"
	"strconv"
	"time"

	"github.com/portmon/portmon/internal/ledger"
)

// Kind says what happened.
type Kind int

// The kinds of events. Their names, which PORTMON_EVENT holds, are "banned", "escalated", "banned by hand", "lifted", "full", "restored",
// "table gone" and "removed".
const (
	Banned    Kind = iota // the packet path banned a source
	Escalated             // a repeat offender went up the ladder
	ByHand                // somebody banned a source
	Lifted                // somebody lifted a ban
	Full                  // a set has no room left
	Restored              // the bans of a set were put back
	TableGone             // the table was deleted
	Removed               // `portmon remove` deleted the table
	kindCount
)

var kinds = [kindCount]string{"banned", "escalated", "banned by hand", "lifted", "full", "restored", "table gone", "removed"}

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
	Set    string       // the name of the set
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
	// Count is how many bans were Restored.
	Count int
}

// subject returns the address of a single host, and any other prefix as a prefix; "" if there is none.
func (e *Event) subject() string {
	switch {
	case !e.Prefix.IsValid():
		return ""
	case e.Prefix.IsSingleIP():
		return e.Prefix.Addr().String()
	default:
		return e.Prefix.String()
	}
}

// protocol returns "tcp", "udp", or the number of any other protocol; "" if it is not known.
func (e *Event) protocol() string { return ledger.ProtocolName(e.Proto) }

// bounded returns the event with its texts made printable and short.
func (e Event) bounded() Event {
	e.Set, e.Reason = printable(e.Set, maxName), printable(e.Reason, maxReason)
	return e
}
