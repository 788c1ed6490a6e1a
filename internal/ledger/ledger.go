package ledger

import (
	"iter"
	"net/netip"
	"slices"
	"time"
)

// DefaultMax is the number of records a ledger holds if Config.Max is 0; they take about 90 MB.
const DefaultMax = 1_000_000

// Config says how a ledger counts.
type Config struct {
	// Ladder is the timeout of each tier, the first tier first: 1 to 255 durations, each longer than the one before.
	Ladder []time.Duration
	// Forget is how long a source must have been free and quiet to be forgotten, counted from the end of its last ban.
	Forget time.Duration
	// Max is the most sources held; 0 means DefaultMax.
	Max int
}

// Ledger remembers who offended how often. It is not safe for concurrent use.
type Ledger struct {
	config Config
	window time.Duration
	slab   slab
	index  index

	// In the order in which the last offence of each was counted; firstTimers also has the records without offences.
	firstTimers, repeaters list
}

// maxWindow bounds the window. A longer one would not recognise more reports (their times are a second off at most, or as long as
// the watcher hangs), but it would overlook an offence of a source that came free early without anybody saying so.
const maxWindow = 30 * time.Second

// New returns an empty ledger.
func New(c Config) *Ledger {
	l := &Ledger{window: maxWindow}
	l.index = newIndex(&l.slab)
	l.Reconfigure(c)
	return l
}

// Reconfigure makes l count by c from now on. What was counted stays, and bans that run are not measured by the new ladder. If there
// are more records than c.Max, those that matter least are forgotten.
func (l *Ledger) Reconfigure(c Config) {
	if c.Max <= 0 {
		c.Max = DefaultMax
	}
	c.Ladder = slices.Clone(c.Ladder)
	l.config = c
	// Two offences are at least the shortest ban apart. Half of it tells best whether two reports are of the same one. The window is
	// never widened, because bans by the earlier, shorter ladder may still run.
	l.window = min(l.window, c.Ladder[0]/2)
	for l.index.n > c.Max {
		l.evict()
	}
}

// tier returns the tier that a number of offences leads to.
func (l *Ledger) tier(offences uint32) uint8 { return uint8(min(int(offences), len(l.config.Ladder))) }

// list returns the list that a record belongs in.
func (l *Ledger) list(r *record) *list {
	if r.offences > 1 {
		return &l.repeaters
	}
	return &l.firstTimers
}

// obtain returns the record of a source, and begins an empty one if there is none or if the source is forgotten at that moment.
func (l *Ledger) obtain(k key, at Instant) (uint32, *record) {
	if id, ok := l.index.find(k); ok {
		r := l.slab.at(id)
		if !l.forgotten(r, at) {
			return id, r
		}
		l.drop(id)
	}
	if l.index.n >= l.config.Max {
		l.evict()
	}
	id := l.slab.alloc()
	r := l.slab.at(id)
	r.key = k
	l.index.insert(id)
	l.firstTimers.pushBack(&l.slab, id)
	return id, r
}

func (l *Ledger) drop(id uint32) {
	r := l.slab.at(id)
	l.list(r).remove(&l.slab, id)
	l.index.remove(r.key)
	l.slab.release(id)
}

// evict makes room: it forgets the first-timer counted longest ago, and a repeat offender only if there is no first-timer.
func (l *Ledger) evict() {
	if l.firstTimers.first != 0 {
		l.drop(l.firstTimers.first)
	} else {
		l.drop(l.repeaters.first)
	}
}

// forgotten reports whether a source was free and quiet for so long that it starts anew.
func (l *Ledger) forgotten(r *record, at Instant) bool {
	if r.offences == 0 {
		return at > r.end
	}
	return at.Sub(r.end) > l.config.Forget
}

// Forget drops the records of sources that are forgotten by now and returns how many. It looks at every record, which takes some
// 10 ms for a million. Nothing but the memory depends on it, so that once an hour is often enough.
func (l *Ledger) Forget(now Instant) int {
	n := 0
	// In the order of the memory, which takes a tenth of the time of that of the lists.
	for id := uint32(1); id <= l.slab.used; id++ {
		if r := l.slab.at(id); r.n > 0 && l.forgotten(r, now) {
			l.drop(id)
			n++
		}
	}
	return n
}

// Len returns the number of records, those included that are only about a ban or unban by hand or that wait for Forget.
func (l *Ledger) Len() int { return l.index.n }

// Lookup returns the record of an offender that is not forgotten.
func (l *Ledger) Lookup(source netip.Prefix, now Instant) (Record, bool) {
	k, _ := keyOf(source)
	id, ok := l.index.find(k)
	if !ok {
		return Record{}, false
	}
	r := l.slab.at(id)
	if r.offences == 0 || l.forgotten(r, now) {
		return Record{}, false
	}
	return r.export(len(l.config.Ladder)), true
}

// All yields the records of all offenders that are not forgotten: those with one offence first, then repeat offenders; each in the
// order in which their last offence was counted. Put takes them in this order. The ledger must not be changed meanwhile.
func (l *Ledger) All(now Instant) iter.Seq[Record] {
	return func(yield func(Record) bool) {
		for _, list := range [...]list{l.firstTimers, l.repeaters} {
			for id := list.first; id != 0; id = l.slab.at(id).next {
				r := l.slab.at(id)
				if r.offences == 0 || l.forgotten(r, now) {
					continue
				}
				if !yield(r.export(len(l.config.Ladder))) {
					return
				}
			}
		}
	}
}
