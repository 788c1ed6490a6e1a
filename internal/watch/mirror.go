package watch

import (
	"iter"
	"time"

	"github.com/portmon/portmon/internal/ledger"
	"github.com/portmon/portmon/nftset"
	"github.com/portmon/portmon/ruleset"
)

// mirror is what the sets of bans hold, as far as is known: enough to fill them again after somebody deleted them.
type mirror map[string]*bans

// held is one ban in one set.
type held struct {
	timeout time.Duration // 0 means for ever
	until   ledger.Instant
	comment string
	byHand  bool   // neither the packet path nor the watcher made it
	round   uint32 // the last dump that showed it, or the one before it was heard of
}

func (m mirror) put(set string, iv nftset.Interval, h held) {
	s := m[set]
	if s == nil {
		s = new(bans)
		m[set] = s
	}
	s.put(iv, h)
}

func (m mirror) get(set string, iv nftset.Interval) (held, bool) { return m[set].get(iv) }

func (m mirror) drop(set string, iv nftset.Interval) { m[set].drop(iv) }

// live yields the bans of a set that have more than a moment left.
func (m mirror) live(set string, now ledger.Instant) iter.Seq2[nftset.Interval, held] {
	return func(yield func(nftset.Interval, held) bool) {
		for iv, h := range m[set].all() {
			if h.lasts(now.Add(ruleset.MinBanTime)) && !yield(iv, h) {
				return
			}
		}
	}
}

// sweep forgets bans that have expired.
func (m mirror) sweep(now ledger.Instant) {
	for set := range m {
		m.sweepSet(set, now)
	}
}

func (m mirror) sweepSet(set string, now ledger.Instant) {
	for iv, h := range m[set].all() {
		if !h.lasts(now) {
			m.drop(set, iv)
		}
	}
}

// lasts reports whether the ban still runs at a moment.
func (h held) lasts(at ledger.Instant) bool { return h.timeout == 0 || h.until > at }

// element returns the ban as it is added to its set. It must last at least [ruleset.MinBanTime] from now.
func (h held) element(iv nftset.Interval, now ledger.Instant) nftset.Element {
	el := nftset.Element{Interval: iv, Timeout: h.timeout, Comment: h.comment}
	if h.timeout > 0 {
		el.Expires = min(h.until.Sub(now), h.timeout)
	}
	return el
}

// elements yields bans as they are to be added, without those that are over. The clock is asked for each: with many of them, the last
// is added a good while after the first.
func elements(bans []ban, now func() ledger.Instant) iter.Seq[nftset.Element] {
	return func(yield func(nftset.Element) bool) {
		for _, b := range bans {
			if at := now(); b.held.lasts(at.Add(ruleset.MinBanTime)) && !yield(b.held.element(b.key, at)) {
				return
			}
		}
	}
}
