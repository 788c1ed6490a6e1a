package watch

import (
	"github.com/portmon/portmon/internal/ledger"
	"github.com/portmon/portmon/nftset"
)

// happened takes in an event. Events count with the end of their transaction: until then it may be said otherwise, as by programs
// that delete an element in order to add it anew.
func (k *core) happened(ev nftset.Event, now ledger.Now) {
	switch ev.Kind {
	case nftset.Commit:
		k.committed(k.pending, ev, now)
		k.pending = k.pending[:0]
	case nftset.Overrun:
		k.pending = k.pending[:0] // what is missing may be the end of this transaction, and more
	default:
		k.pending = append(k.pending, ev)
	}
}

// place is where an element stands.
type place struct {
	set string
	key nftset.Interval
}

// committed takes in a transaction.
func (k *core) committed(events []nftset.Event, end nftset.Event, now ledger.Now) {
	edits := make(map[place]nftset.Event) // what was done to each element in the end
	reborn := make(map[string]bool)
	deleted := false
	for _, ev := range events {
		switch ev.Kind {
		case nftset.ElementAdded, nftset.ElementDeleted:
			switch {
			case ev.PortID == k.port:
			case isTier(ev.Set):
				edits[place{ev.Set, ev.Element.Interval}] = ev
			default:
				k.reread[ev.Set] = true
			}
		case nftset.SetDeleted:
			delete(k.table.sets, ev.Set)
			delete(reborn, ev.Set)
			for p := range edits {
				if p.set == ev.Set {
					delete(edits, p)
				}
			}
		case nftset.SetAdded: // or changed
			if !k.table.sets[ev.Set] {
				k.table.sets[ev.Set], reborn[ev.Set] = true, true
			}
		case nftset.TableDeleted: // after the sets
			deleted = true
		}
	}
	if deleted && len(k.table.sets) == 0 {
		k.vanished(end.Process, now)
		return
	}
	switch {
	case len(reborn) == 0:
	case len(reborn) == len(k.table.sets):
		k.table.state, k.table.handle, k.table.unsure = standing, 0, false
	default: // a tier was added, or the rest of the transaction was lost
		k.table.state, k.table.unsure = standing, true
	}
	for p, ev := range edits {
		if h, ok := k.mir.get(p.set, p.key); ok && reborn[p.set] && h.lasts(now.Mono) {
			continue // a copy from when the rules were saved; we know how long the ban still is
		}
		if ev.Kind == nftset.ElementDeleted && k.overtaken(p, end.Generation) {
			k.ask = append(k.ask, p)
			continue
		}
		k.edited(p, ev, now)
	}
	for set := range reborn {
		k.restore(set, now)
	}
	if len(reborn) > 0 {
		k.inherit(now)
	}
}

// overtaken reports whether the last dump may have shown an element as it was after a transaction that is heard of only now.
func (k *core) overtaken(p place, generation uint32) bool {
	h, known := k.mir.get(p.set, p.key)
	return known && k.round > 0 && h.round == k.round && int32(generation-k.dumpEnd) <= 0
}
