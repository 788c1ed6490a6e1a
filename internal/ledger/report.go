package ledger

import (
	"net/netip"
	"time"
)

// Offence is a trap packet that made the packet path ban its source in the first tier.
type Offence struct {
	Source netip.Prefix
	At     Instant
	Proto  uint8 // IP protocol
	Port   uint16
}

// Ban is a source in the set of a tier.
type Ban struct {
	Source netip.Prefix
	// Tier is that of the set, from 1.
	Tier int
	// From and Until are when the ban began and when it ends: the kernel tells an element's timeout and the time until it expires.
	// A source that the watcher took up to a tier is in its set since its offence if it was added as the Verdict says.
	From, Until Instant
}

// Verdict is what follows from a report.
type Verdict struct {
	// Counted tells that the report raised the number of offences; if not, they were known, or do not count.
	Counted bool
	// Offences is how many the source has to its name now.
	Offences int
	// Tier is the one it belongs in, 0 if it has no offence.
	Tier int
	// Edit tells that it is not there yet: it is to be added to the set of Tier with these two times, by both of which a later
	// dump tells the same beginning.
	Edit          bool
	Timeout, Left time.Duration
}

// minLeft is the shortest time for which an edit is worth while. The kernel takes timeouts near 0 for none at all.
const minLeft = 100 * time.Millisecond

// Offend takes in an offence heard from the packet path. However often it is reported, by Offend and by Seen, it counts once. The
// reports of an offence must be less than half the shortest ban apart, and less than 30 seconds; they may come in any order, but not
// after those of four later offences of the source.
func (l *Ledger) Offend(o Offence, now Instant) Verdict {
	k, ok := keyOf(o.Source)
	if !ok {
		return Verdict{}
	}
	at := within(o.At, now)
	id, r := l.obtain(k, at)
	if r.stale(at) {
		return l.verdict(r, now)
	}
	counted := false
	if r.find(at, l.window, false) < 0 {
		counted = l.count(id, at)
	}
	if last, _ := r.last(); at.Sub(last) > -l.window {
		r.proto, r.port = o.Proto, o.Port
	}
	v := l.verdict(r, now)
	v.Counted = counted
	v.Edit = counted && v.Tier > 1 && v.Left >= minLeft
	return v
}

// Seen takes in a ban found in the set of a tier. If a source is in several sets, the highest says it all. The offence that led to
// the ban is counted unless it is known, and whoever is in tier n has at least n offences. A ban by hand that was reported with
// [Ledger.BannedByHand] is not counted.
func (l *Ledger) Seen(b Ban, now Instant) Verdict {
	k, ok := keyOf(b.Source)
	if !ok || b.Tier < 1 {
		return Verdict{}
	}
	at := within(b.From, now)
	id, r := l.obtain(k, at)
	if r.stale(at) {
		return l.verdict(r, now)
	}
	i, before := r.find(at, l.window, false), r.offences
	if i < 0 && r.find(at, l.window, true) >= 0 {
		r.end = max(r.end, until(b, now))
		return l.verdict(r, now)
	}
	if i < 0 {
		l.count(id, at)
		i = r.find(at, l.window, false)
	}
	if i >= 0 {
		l.atLeast(id, i, b.Tier)
	}
	r.end = max(r.end, until(b, now))
	v := l.verdict(r, now)
	v.Counted = r.offences != before
	last, _ := r.last()
	v.Edit = v.Tier > b.Tier && v.Left >= minLeft && at.Sub(last) > -l.window
	return v
}

// count takes in an offence whose moment is not known yet, and reports whether it raises the number of offences.
func (l *Ledger) count(id uint32, at Instant) bool {
	r := l.slab.at(id)
	last, ok := r.last()
	newest := !ok || at > last
	switch {
	case newest:
		r.proto, r.port = 0, 0
	case r.takeMissing(at):
		r.insert(at, false)
		return false
	case r.tooOld(at):
		return false
	}
	r.insert(at, false)
	l.raise(id, r.offences+1)
	return true
}

// atLeast sees to it that a source whose offence at moment i led to a tier has as many offences up to that one.
func (l *Ledger) atLeast(id uint32, i, tier int) {
	r := l.slab.at(id)
	if n := uint32(tier + r.after(i)); n > r.offences {
		r.addMissing(n-r.offences, i)
		l.raise(id, n)
	}
}

// raise sets the number of offences, 1 or more, and what depends on it.
func (l *Ledger) raise(id, offences uint32) {
	r := l.slab.at(id)
	l.list(r).remove(&l.slab, id)
	r.offences = offences
	l.list(r).pushBack(&l.slab, id)
	r.tier = l.tier(offences)
	last, _ := r.last()
	r.end = max(r.end, last.Add(l.config.Ladder[r.tier-1]))
}

func (l *Ledger) verdict(r *record, now Instant) Verdict {
	v := Verdict{Offences: int(r.offences), Tier: min(int(r.tier), len(l.config.Ladder))}
	if v.Tier > 0 {
		last, _ := r.last()
		v.Timeout = l.config.Ladder[v.Tier-1]
		v.Left = max(0, last.Add(v.Timeout).Sub(now))
	}
	return v
}

// within returns a moment that is neither in the future nor beyond the horizon.
func within(at, now Instant) Instant { return min(max(at, now.Add(-horizon)), now) }

func until(b Ban, now Instant) Instant { return min(max(b.Until, now.Add(-horizon)), now.Add(horizon)) }
