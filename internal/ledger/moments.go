package ledger

import (
	"math"
	"math/bits"
	"time"
)

// The moments of a record tell whether a report is of an offence that was counted before. There may be more offences than moments:
// those too long ago to be kept, and those known only because the source was found in a higher tier.

// last returns the moment of the last offence. There is one whenever offences is not 0: at most one ban by hand is newer than it, so
// that it is never the moment that has to go.
func (r *record) last() (at Instant, ok bool) {
	for i := int(r.n) - 1; i >= 0; i-- {
		if !r.isByHand(i) {
			return r.at[i], true
		}
	}
	return 0, false
}

// find returns the offence, or the ban by hand, that is known less than window before or after a moment; -1 if there is none.
func (r *record) find(at Instant, window time.Duration, byHand bool) int {
	for i := range int(r.n) {
		if i == 0 && r.cleared || r.isByHand(i) != byHand {
			continue
		}
		if d := at.Sub(r.at[i]); -window < d && d < window {
			return i
		}
	}
	return -1
}

func (r *record) isByHand(i int) bool { return r.byHand&(1<<i) != 0 }

// stale reports whether the count was cleared after that moment.
func (r *record) stale(at Instant) bool { return r.cleared && at <= r.at[0] }

// tooOld reports whether a moment is before all that are known, while there were offences whose moments are not.
func (r *record) tooOld(at Instant) bool {
	known := int(r.n) - bits.OnesCount8(r.byHand)
	return r.n > 0 && at < r.at[0] && int(r.offences) > known
}

// takeMissing reports whether a moment may be that of a missing offence, which is then missing no longer.
func (r *record) takeMissing(at Instant) bool {
	if r.base == 0 || at > r.at[r.base-1] {
		return false
	}
	if r.missing--; r.missing == 0 {
		r.base = 0
	}
	return true
}

// addMissing notes that there were more offences before moment i.
func (r *record) addMissing(n uint32, i int) {
	r.missing = uint8(min(uint32(r.missing)+n, math.MaxUint8))
	r.base = max(r.base, uint8(i+1))
}

// after returns the number of offences known after moment i.
func (r *record) after(i int) int {
	return int(r.n) - 1 - i - bits.OnesCount8(r.byHand>>(i+1))
}

// insert adds a moment. If there are too many, the oldest goes.
func (r *record) insert(at Instant, byHand bool) {
	if int(r.n) == depth {
		if at < r.at[0] {
			return
		}
		r.remove(0)
	}
	i := int(r.n)
	for i > 0 && r.at[i-1] > at {
		i--
	}
	copy(r.at[i+1:], r.at[i:r.n])
	r.at[i] = at
	low := uint8(1)<<i - 1
	r.byHand = r.byHand&low | r.byHand&^low<<1
	if byHand {
		r.byHand |= 1 << i
	}
	if int(r.base) > i {
		r.base++
	}
	r.n++
}

// remove takes out moment i.
func (r *record) remove(i int) {
	copy(r.at[i:], r.at[i+1:r.n])
	low := uint8(1)<<i - 1
	r.byHand = r.byHand&low | r.byHand>>1&^low
	switch {
	case int(r.base) == i+1:
		r.base, r.missing = 0, 0
	case int(r.base) > i+1:
		r.base--
	}
	r.n--
	if i == 0 {
		r.cleared = false
	}
}

// setBanByHand notes a ban by hand in place of an earlier one.
func (r *record) setBanByHand(at Instant) {
	for i := range int(r.n) {
		if r.isByHand(i) && (i > 0 || !r.cleared) {
			r.remove(i)
			break
		}
	}
	r.insert(at, true)
}

// clear forgets all offences up to a moment.
func (r *record) clear(at Instant) {
	r.offences, r.tier, r.proto, r.port = 0, 0, 0, 0
	r.n, r.byHand, r.cleared = 1, 1, true
	r.missing, r.base = 0, 0
	r.at[0] = at
}
