package ruleset

import (
	"slices"
	"time"
)

// Knock is a sequence of TCP ports. A source that asks for them in turn is
// never banned nor dropped for some time, whether it is banned or not: SYNs to
// them are looked at before any is dropped, and are never an offence. A SYN to
// any other port in between, or to one of them out of turn, ends the attempt.
type Knock struct {
	// TCP are the ports in their order, [MinKnocks] to [MaxKnocks] distinct ones
	// that do not just follow each other, as they do in a scan; none turns this
	// off.
	TCP []uint16
	// Within is the time within which each knock must follow the one before, at
	// most [MaxKnockWithin].
	Within time.Duration
	// Allow is for how long the source is let in: its full address, for IPv6 too.
	Allow time.Duration
}

// Limits of a Knock.
const (
	MinKnocks = 2
	MaxKnocks = 8 // each is a set, which a SYN to a knock port asks
	// MaxKnockWithin bounds how long the table remembers the beginning of a
	// sequence.
	MaxKnockWithin = 10 * time.Minute
)

func (k Knock) validate(
	bad func(field, format string, args ...any), duration func(field string, d, low, high time.Duration),
) {
	if len(k.TCP) == 0 {
		return
	}
	const field = "Knock.TCP"
	if n := len(k.TCP); n < MinKnocks || n > MaxKnocks {
		bad(field, "%d ports: want %d to %d, or none", n, MinKnocks, MaxKnocks)
	}
	up, down := true, true
	for i, port := range k.TCP {
		switch {
		case port == 0:
			bad(field, "0 is not a port from 1 to 65535")
		case slices.Contains(k.TCP[:i], port):
			bad(field, "%d stands twice: want distinct ports", port)
		}
		if i > 0 {
			up, down = up && port == k.TCP[i-1]+1, down && port == k.TCP[i-1]-1
		}
	}
	if len(k.TCP) > 1 && (up || down) {
		bad(field, "%d to %d one after the other: a scan would knock; want an order that a scan does not have",
			k.TCP[0], k.TCP[len(k.TCP)-1])
	}
	duration("Knock.Within", k.Within, MinBanTime, MaxKnockWithin)
	duration("Knock.Allow", k.Allow, MinBanTime, MaxBanTime)
}
