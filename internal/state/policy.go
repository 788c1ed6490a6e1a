package state

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/portmon/portmon/internal/ledger"
)

// Policy says what of a state is to be restored.
type Policy struct {
	Now ledger.Now
	// Here is the table that is in force now.
	Here Origin
	// Ladder, Forget and Prefix6 are those of the configuration in force. No ban by the ladder is restored for longer than the
	// timeout of its tier.
	Ladder  []time.Duration
	Forget  time.Duration
	Prefix6 int
	// Whitelisted reports whether all of a prefix is whitelisted; nil: nothing is.
	Whitelisted func(netip.Prefix) bool
	// Standing returns how long the ban of a prefix, in the set of that tier or of a higher one, still lasts in the kernel, 0 being
	// for ever; ok is false if there is none. A dump may miss a ban, so that the kernel must have been asked for this very one before it
	// is said to be absent. Nil: there are no bans.
	Standing func(p netip.Prefix, tier int) (left time.Duration, ok bool)
	// Kept is told, as it was saved and with the time it still lasts, of each ban of a tier that was in this same table then, unless
	// it was lifted or is over. Nil: nobody wants to know.
	Kept func(b Ban)
	// Adopt tells to restore what was saved on another machine as well.
	Adopt bool
}

// Ban is a ban to put back. Added with both times, it begins when it did; both are 0 if it is for ever.
type Ban struct {
	Prefix        netip.Prefix
	Tier          int // 0 for the set of prefixes
	Timeout, Left time.Duration
	ByHand        bool
	Comment       string
}

// Restored is what came of the records of a state.
type Restored struct {
	// Bans are to be put back. There is one for each prefix, and those of tier 0 do not overlap.
	Bans []Ban
	// Offenders is how many sources the ledger was told of, Forgotten how many it was not because their offences no longer count.
	Offenders, Forgotten int
	// How many bans are not among Bans because the kernel has them, because their time is over, because their prefix is whitelisted,
	// and because they were lifted by hand.
	Standing, Expired, Whitelisted, Lifted int
	// ClockBehind is by how much the wall clock would have to be set forward to show when the state was saved. If it is not 0 then
	// nobody knows how much time has passed, and every ban has as much left as it had then.
	ClockBehind time.Duration
}

// String returns what happened in half a sentence, such as "12 bans to put back, 40 offenders, 3 bans expired".
func (r Restored) String() string {
	b := fmt.Appendf(nil, "%d bans to put back, %d offenders", len(r.Bans), r.Offenders)
	for _, part := range []struct {
		n    int
		what string
	}{
		{r.Standing, "bans in force"}, {r.Expired, "bans expired"}, {r.Lifted, "bans lifted by hand"},
		{r.Whitelisted, "bans whitelisted"}, {r.Forgotten, "offenders forgotten"},
	} {
		if part.n > 0 {
			b = fmt.Appendf(b, ", %d %s", part.n, part.what)
		}
	}
	if r.ClockBehind > 0 {
		b = fmt.Appendf(b, "; the clock is %v behind the time of saving, so they have as much left as they had then", r.ClockBehind.Round(time.Second))
	}
	return string(b)
}
