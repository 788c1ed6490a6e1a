package watch

import (
	"time"

	"github.com/portmon/portmon/internal/ledger"
	"github.com/portmon/portmon/ruleset"
)

// Stats are what a watcher has counted since it was opened, and what it knows now.
type Stats struct {
	counters

	// Table tells that there is a table, and Handle is the kernel's number for it.
	Table  bool
	Handle uint64
	// Tiers is how many the ladder has.
	Tiers int
	// Bans are those in force by set, of all sets that there are.
	Bans map[string]int
	// Offenders are the sources whose offences count.
	Offenders int
	// Saves and SaveFailures are of the state file.
	Saves, SaveFailures uint64
}

// Port is where an offence was.
type Port struct {
	Proto uint8  // IP protocol, 0 for one that is not known
	Port  uint16 // 0 for one that is not known, or one too many to be counted apart
}

// counters only grow, but for Lag.
type counters struct {
	// Offences by port. No more than [maxPorts] are told apart.
	Offences map[Port]uint64
	// Escalations by tier: that of tier 2 is the first.
	Escalations [ruleset.MaxSteps - 1]uint64
	// ByHand and Lifted are bans that others made and lifted, Restored are those put back.
	ByHand, Lifted, Restored uint64
	// TableGone is how often the table was deleted.
	TableGone uint64
	// LostMessages are those of the log group of which the kernel says that it had no room for them. LogOverruns is how often the
	// buffer of their socket was full, EventOverruns how often that of the events was.
	LostMessages, LogOverruns, EventOverruns uint64
	// Resyncs is how often all sets were read, the first time included.
	Resyncs uint64
	// Lag is how old the last ban was when it was taken in; 0 where the kernel does not tell.
	Lag time.Duration
}

// maxPorts bounds what is counted by port. All of the default's trap ports have room; of 65,535 trap ports the first ones hit have.
const maxPorts = 100

func (c *counters) count(n *News) {
	switch n.Kind {
	case Banned:
		c.offence(Port{n.Proto, n.Port})
	case Escalated:
		c.Escalations[max(n.Tier, 2)-2]++
	case ByHand:
		c.ByHand++
	case Lifted:
		c.Lifted++
	case Restored:
		c.Restored += uint64(n.Count)
	case TableGone, Removed:
		c.TableGone++
	}
}

func (c *counters) offence(p Port) {
	if c.Offences == nil {
		c.Offences = make(map[Port]uint64)
	}
	if _, known := c.Offences[p]; !known && len(c.Offences) >= maxPorts {
		p.Port = 0
	}
	c.Offences[p]++
}

// checkFull tells of sets that have become full. One that has some room again can become full again.
func (k *core) checkFull(now ledger.Instant) {
	for set := range k.table.sets {
		full := isTier(set) && k.mir[set].len() >= int(k.spec.Size)
		if full && !k.full[set] {
			k.mir.sweepSet(set, now)
			full = k.mir[set].len() >= int(k.spec.Size)
		}
		switch {
		case full && !k.full[set]:
			k.full[set] = true
			tier, _ := ruleset.Tier(set)
			k.tell(News{Kind: Full, Set: set, Tier: tier, Count: k.mir[set].len()})
		case !full && k.mir[set].len() < int(k.spec.Size)*9/10:
			delete(k.full, set)
		}
	}
}

// live counts the bans in force of each set that there is.
func (k *core) live(now ledger.Instant) map[string]int {
	k.mir.sweep(now)
	bans := make(map[string]int, len(k.table.sets))
	for set := range k.table.sets {
		bans[set] = k.mir[set].len()
	}
	return bans
}
