package notice

import (
	"cmp"
	"slices"

	"github.com/portmon/portmon/internal/watch"
)

// maxNamed is how many of a kind are named in a summary.
const maxNamed = 5

// digest is what is kept of events until they are sent. Its size has an end,
// whatever comes.
type digest struct {
	total  int // events
	groups [watch.Kinds]group
	ports  portCounts // of the bans that the packet path made
	last   Event
}

// group is what is kept of the events of a kind.
type group struct {
	count int // events; bans if Restored, offences if Full
	named []Event
}

// add adds an event.
func (d *digest) add(e Event) {
	if e.Kind < 0 || e.Kind >= watch.Kinds {
		return
	}
	e = e.bounded()
	if e.Kind == watch.Banned || e.Kind == watch.Escalated {
		d.ports.add(e.Proto, e.Port)
	}
	d.total++
	g := &d.groups[e.Kind]
	if e.Kind == watch.Restored || e.Kind == watch.Full {
		g.count += max(1, e.Count)
	} else {
		g.count++
	}
	d.last = e
	g.name(e)
}

// name keeps the event if it is one of those to be named: the worst of the
// escalated, of the others the first. What was wrong with the table is named
// once.
func (g *group) name(e Event) {
	if e.Kind == watch.Repaired && slices.ContainsFunc(g.named, func(o Event) bool { return o.Wrong == e.Wrong }) {
		return
	}
	at := len(g.named)
	if e.Kind == watch.Escalated {
		at, _ = slices.BinarySearchFunc(g.named, e, func(have, e Event) int {
			// Never equal, so that of two that are as bad the first stays
			// first.
			return cmp.Or(e.Tier-have.Tier, e.Offences-have.Offences, -1)
		})
	}
	g.named = slices.Insert(g.named, at, e)
	g.named = g.named[:min(len(g.named), maxNamed)]
}
