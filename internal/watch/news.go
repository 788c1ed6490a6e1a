package watch

import (
	"net/netip"

	"github.com/portmon/portmon/internal/ledger"
)

// News is one thing worth telling.
type News struct {
	Kind   Kind
	Source netip.Prefix // what is banned; not valid for a range that is no prefix
	Set    string
	Tier   int // that of the set, 0 for the sets of prefixes
	// Offences is how many count; 0 if the news is of no offence.
	Offences int
	Proto    uint8
	Port     uint16 // 0 if it is not known
	// Until is when the ban ends, unless it is Forever.
	Until   ledger.Instant
	Forever bool
	// Reason is "trap", or the comment of whoever banned.
	Reason string
	// Count is the number of bans that were Restored.
	Count int
}

// Kind says what the news are.
type Kind int

// The kinds of news.
const (
	Banned    Kind = iota // the packet path banned a source
	Escalated             // a repeat offender went up the ladder
	ByHand                // somebody else banned a source
	Lifted                // somebody else lifted a ban
	Restored              // the bans of a set that came back were put into it again
	TableGone             // the table was deleted; its bans are remembered
	Removed               // `portmon remove` deleted the table
	Full                  // a set has no room left
)

var kinds = [...]string{"banned", "escalated", "banned by hand", "lifted", "restored", "table gone", "removed", "full"}

// String returns "banned" and the like.
func (k Kind) String() string { return kinds[k] }

// trap is the reason of a ban that the packet path made.
const trap = "trap"
