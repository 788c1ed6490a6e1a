package notice

import (
	"cmp"
	"slices"
)

// maxNamed is how many of a kind are named in a summary.
const maxNamed = 5

// digest is what is kept of events until they are told. Its size has an end, whatever comes.
type digest struct {
	total  int // events
	groups [kindCount]group
	ports  portCounts // of the bans that the packet path made

	last      Event
	lastNamed bool // last stands at the end of the named of its group
}

// group is what is kept of the events of a kind.
type group struct {
	count int // events, or bans for Restored
	named []Event
}

// add takes in an event.
func (d *digest) add(e Event) {
	if e.Kind < 0 || e.Kind >= kindCount {
		return
	}
	e = e.bounded()
	switch {
	case e.Kind == Banned:
		d.ports.add(e.Proto, e.Port)
	case e.Kind == Escalated && d.total > 0 && d.last.Kind == Banned && d.last.Prefix == e.Prefix:
		d.supersede()
	}
	d.total++
	g := &d.groups[e.Kind]
	if e.Kind == Restored {
		g.count += max(1, e.Count)
	} else {
		g.count++
	}
	d.last, d.lastNamed = e, g.name(e)
}

// supersede takes back the last event, a ban: the packet path bans a repeat offender first, and the watcher escalates it right after.
// These are one offence, and one event to people. Its port stays counted.
func (d *digest) supersede() {
	d.total--
	g := &d.groups[d.last.Kind]
	g.count--
	if d.lastNamed {
		g.named = g.named[:len(g.named)-1]
	}
}

// name keeps the event if it is one of those to be named: the worst of the escalated, of the others the first. Sets are named once. It
// reports whether the event stands last.
func (g *group) name(e Event) bool {
	if e.Kind == Full || e.Kind == Restored {
		if slices.ContainsFunc(g.named, func(o Event) bool { return o.Set == e.Set }) {
			return false
		}
	}
	at := len(g.named)
	if e.Kind == Escalated {
		at, _ = slices.BinarySearchFunc(g.named, e, func(have, e Event) int {
			// Never equal, so that of two that are as bad the first stays first.
			return cmp.Or(e.Tier-have.Tier, e.Offences-have.Offences, -1)
		})
	}
	g.named = slices.Insert(g.named, at, e)
	g.named = g.named[:min(len(g.named), maxNamed)]
	return at == len(g.named)-1
}
