package ledger

import (
	"math"
	"net/netip"
)

// BannedByHand takes in that an administrator or another program put a source into the set of a tier. That is no offence, and later
// dumps that show it do not make it one.
func (l *Ledger) BannedByHand(b Ban, now Instant) {
	k, ok := keyOf(b.Source)
	if !ok {
		return
	}
	at := within(b.From, now)
	_, r := l.obtain(k, at)
	if r.stale(at) {
		return
	}
	r.setBanByHand(at)
	r.end = max(r.end, until(b, now))
}

// Unbanned takes in that a source was unbanned by hand: its offences no longer count, and with the next it is in the first tier
// again. Reports of what was before that may still come, and are passed over.
func (l *Ledger) Unbanned(source netip.Prefix, at, now Instant) {
	k, ok := keyOf(source)
	if !ok {
		return
	}
	if _, ok := l.index.find(k); !ok && l.index.n >= l.config.Max {
		return // not worth forgetting an offender for
	}
	at = within(at, now)
	id, r := l.obtain(k, at)
	l.list(r).remove(&l.slab, id)
	r.clear(at)
	r.end = at.Add(l.config.Ladder[0])
	l.firstTimers.pushBack(&l.slab, id)
}

// Put takes in what was known of an offender by an earlier ledger, in place of what is known of it. A Record without an offence, or
// of a source that is forgotten by now, is passed over.
func (l *Ledger) Put(rec Record, now Instant) {
	k, ok := keyOf(rec.Source)
	if !ok || rec.Offences < 1 {
		return
	}
	last := within(rec.Last, now)
	end := until(Ban{Until: rec.End}, now)
	if now.Sub(end) > l.config.Forget {
		return
	}
	if id, ok := l.index.find(k); ok {
		l.drop(id)
	}
	id, r := l.obtain(k, last)
	l.count(id, last)
	l.atLeast(id, 0, min(rec.Offences, math.MaxInt32))
	r.proto, r.port, r.end = rec.Proto, rec.Port, end
	if rec.Tier > 0 {
		r.tier = uint8(min(rec.Tier, int(r.tier)))
	}
}
