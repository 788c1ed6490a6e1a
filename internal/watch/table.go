package watch

import (
	"maps"

	"github.com/portmon/portmon/internal/ledger"
	"github.com/portmon/portmon/ruleset"
)

// table is what is known of the table as such.
type table struct {
	state tableState
	// handle is the kernel's number of this incarnation of the table, 0 if it is not known.
	handle uint64
	// unsure tells that some of its sets were made anew, so that it may be another incarnation.
	unsure bool
	// sets are those that there are, of all that hold bans.
	sets map[string]bool
	// since is when the table went away; the next attempt to make it counts from here.
	since ledger.Instant
}

type tableState int

const (
	// resting: there is no table, and there shall be none, until somebody makes one.
	resting tableState = iota
	// standing: there is a table.
	standing
	// away: somebody deleted the table, and is likely to be making it again.
	away
)

// remover is the name of the program that deletes the table because its user wants that.
const remover = "portmon"

// vanished takes in that the table is gone: with all of its sets. by is the program that did it, "" if that is not known.
func (k *core) vanished(by string, now ledger.Now) {
	if k.table.state == away && by == remover {
		k.removed() // a reading has found that before the event came
		return
	}
	if k.table.state != standing {
		return
	}
	clear(k.table.sets)
	k.table.handle, k.table.unsure, k.table.since = 0, false, now.Mono
	if by == remover {
		k.removed()
		return
	}
	k.table.state = away
	k.tell(News{Kind: TableGone})
}

// removed takes in that the table is gone because its user wants that. All bans were lifted; the offences still count.
func (k *core) removed() {
	clear(k.mir)
	clear(k.edits)
	k.table.state = resting
	k.tell(News{Kind: Removed})
}

// restore has a set filled again with what it held.
func (k *core) restore(set string, now ledger.Now) {
	n := 0
	for iv, h := range k.mir.live(set, now.Mono) {
		h.round = k.round
		k.add(set, iv, h)
		n++
	}
	if n > 0 {
		k.fresh[set] = true
		tier, _ := ruleset.Tier(set)
		k.tell(News{Kind: Restored, Set: set, Tier: tier, Count: n})
	}
}

// stands takes in a reading of the table: its handle, and the sets of bans that it has. Those that are others than before, and hence
// empty but for what was put into them since, are returned.
func (k *core) stands(handle uint64, sets map[string]bool) (reborn map[string]bool) {
	reborn = make(map[string]bool)
	another := k.table.state == standing && k.table.handle != handle
	for set := range sets {
		if another || k.table.state == away || k.table.state == standing && !k.table.sets[set] {
			reborn[set] = true
		}
	}
	k.table.state, k.table.handle, k.table.unsure, k.table.sets = standing, handle, false, maps.Clone(sets)
	return reborn
}
