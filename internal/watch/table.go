package watch

import (
	"math"
	"time"

	"github.com/portmon/portmon/internal/book"
	"github.com/portmon/portmon/internal/stats"
	"github.com/portmon/portmon/ruleset"
)

// table is what is known of the table as a whole.
type table struct {
	state  tableState
	layout *ruleset.State // as it was read last, to decode elements by
	handle uint64         // the kernel's number of this incarnation; 0 if it is not known
	// known is the handle of the table that the book describes. What this one
	// lacks was lifted; what another one lacks is put back.
	known     uint64
	swapped   uint64      // the handle of a table that was put back as the book has it
	restoring bool        // bans are being put back
	since     book.Moment // when it went missing
	newAt     book.Moment // when we learned that it is another one
	// enforcedAt is until when bans may have been only observed, if they are
	// enforced now; observesAt is from when on they are, if they are now.
	enforcedAt, observesAt book.Moment
	removal                book.Moment // until when its end is portmon remove's work
	madeBy                 book.Moment // until when a new one is portmon apply's work
	made                   bool        // portmon has made the one that will be counted next
	countedAt              book.Moment // when a new one was counted first

	// Whether it is what it must be.
	seen       *look       // another one for each look, table and configuration
	lookedAt   book.Moment // when that was
	suspected  bool        // something has changed since
	wrongSince book.Moment // 0: nothing is
	held       book.Moment // until when portmon apply is changing it
	heldSince  book.Moment // when that was announced first
	repairAt   book.Moment // not before that
	failures   int         // repairs in a row that have not helped
}

type tableState int

const (
	// absent: there is no table, and the watcher does not make one.
	absent tableState = iota
	// present: there is a table.
	present
	// missing: another program deleted the table, and may make it again soon.
	missing
)

const (
	// patience is how long others have to make the table again that they
	// deleted, and half of it to undo what they changed.
	patience = time.Second
	// grace is how long portmon apply and portmon remove may take after they
	// announced themselves.
	grace = 10 * time.Second
	// swapTime is how long it may take to put back a table as it was, once that
	// was announced.
	swapTime = time.Minute
	// lookEvery is how often the table is looked at though nothing has changed
	// that the kernel tells of: its counters have.
	lookEvery = 10 * time.Second
	// maxPause bounds the wait before a repair that has failed is tried again.
	maxPause = time.Minute
)

// restored reports whether the table has what the book has.
func (t *table) restored() bool { return t.handle != 0 && t.known == t.handle }

// suspect has the table looked at soon. A look that is being taken may have come
// too early.
func (t *table) suspect() { t.suspected = true }

// onRemoving records that the user is about to delete the table.
func (k *core) onRemoving(now book.Clock) { k.table.removal = now.Boot.Add(grace) }

// onApplying records that the user is about to change the table, or still at it.
func (k *core) onApplying(now book.Clock) {
	if k.table.held <= now.Boot {
		k.table.heldSince = now.Boot
	}
	k.table.held, k.table.madeBy = now.Boot.Add(grace), now.Boot.Add(grace)
}

// onMode handles that the table was applied in a mode. What is being read may be
// of the one before.
func (k *core) onMode(applied *Applied, now book.Clock) {
	k.toCount = true // or what it drops from now on counts as observed, or the other way
	if k.reading != nil {
		k.reading.void = true
		k.readSoon(now.Boot)
	}
	switch {
	case applied.Observe:
		k.onObserving(now)
	case k.book.Observes():
		k.onEnforcing(applied.Keep, now)
	}
}

// onEnforcing handles that the table drops from now on. Unless what it observed is
// kept, it is forgotten, and the sets were made anew: what they lack of all else is
// put back.
func (k *core) onEnforcing(keep bool, now book.Clock) {
	k.book.Enforce(keep)
	k.book.SetObserves(false)
	if !keep {
		k.table.known, k.table.enforcedAt = 0, now.Boot
		k.readSoon(now.Boot)
	}
}

// onObserving handles that the table drops nothing. It may not have done so since
// portmon apply has begun to change it.
func (k *core) onObserving(now book.Clock) {
	if t := &k.table; !k.book.Observes() {
		if t.observesAt = now.Boot; t.held > now.Boot {
			t.observesAt = t.heldSince
		}
		k.book.Observe(t.observesAt)
		k.book.SetObserves(true)
	}
}

// onSwapped records that the table was put back as it was before, and has that
// handle, and that rows are what is known of it: of two tables, what the other
// one had is nobody's business any more.
func (k *core) onSwapped(handle uint64, rows *book.Book, now book.Clock) {
	k.onTableNew(now)
	t := &k.table
	if handle == 0 {
		t.state = absent
	}
	t.handle, t.known, t.swapped, k.swapped = handle, handle, handle, now.Boot
	t.made, t.madeBy, k.toCount = false, 0, true // its counters were put back too
	k.held = newHeld()
	clear(k.lifted)
	clear(k.recent)
	k.pending = nil
	k.book.Clear()
	for row := range rows.Rows() {
		k.book.Put(row)
	}
	k.book.SetTable(handle)
	k.book.SetObserves(rows.Observes())
	t.observesAt = 0
}

// onTableGone handles the end of the table, and of all its sets.
func (k *core) onTableGone(now book.Clock) {
	t := &k.table
	if t.state != present {
		return
	}
	k.dropPlans(now)
	k.release(math.MaxInt64)
	t.handle, t.known, t.since, t.seen, t.wrongSince, t.repairAt = 0, 0, now.Boot, new(look), 0, 0
	if now.Boot > t.removal {
		t.state = missing
		k.publish(News{Kind: TableGone})
		return
	}
	t.state = absent
	k.book.SetTable(0)
	for r := range k.book.Rows() {
		k.book.Lift(r.Source) // the steps count on
	}
	k.publish(News{Kind: Removed})
}

// onTableNew handles a new table, or new sets: they must be read, and what they
// lack must be put back.
func (k *core) onTableNew(now book.Clock) {
	k.dropPlans(now)
	t := &k.table
	t.state, t.handle, t.known, t.newAt = present, 0, 0, now.Boot
	if now.Boot < t.madeBy && (t.countedAt == 0 || now.Boot.Sub(t.countedAt) > settling) { // else it is counted
		t.made = true
	}
	t.seen = &look{generation: t.seen.generation, exists: true, current: t.seen.current, wrong: t.seen.wrong, adopt: t.seen.adopt}
	t.suspect()
	k.readAt = now.Boot
}

// dropPlans forgets what was to be asked about the previous table, and to be put
// into it: the book has it all.
func (k *core) dropPlans(now book.Clock) {
	if k.reading != nil {
		k.reading.void = true
	}
	for source := range k.lifted {
		k.settleLifted(source, now)
	}
	k.table.restoring, k.nets, k.netEnds = false, false, nil
	clear(k.toAsk)
	clear(k.toPut)
	clear(k.toLift)
	clear(k.toEnd)
}

// look is what was seen of the table.
type look struct {
	generation uint32 // of the ruleset; 0: nothing was seen yet
	exists     bool
	current    bool   // it is what it must be
	wrong      string // what is not
	full       uint64 // offences that led to no ban, as a set had no room
	heldBack   uint64 // those that led to none, as there were too many at a time
	observes   bool   // it drops nothing
	sealed     bool   // that is certain
	adopt      bool   // before the look: that is how it is to be
	table      stats.Table
}

// nextLook returns when to look at the table next.
func (t *table) nextLook() book.Moment {
	if t.suspected {
		return t.lookedAt.Add(patience / 2)
	}
	return t.lookedAt.Add(lookEvery)
}

// onLook handles the outcome of a look at the table.
func (k *core) onLook(l look, now book.Clock) {
	t := &k.table
	before := t.seen
	t.seen = &l
	switch {
	case !l.exists:
		k.onTableGone(now)
		return
	case t.state != present:
		k.onTableNew(now)
		return
	}
	if before.adopt && l.sealed {
		k.spec.Observe = l.observes
	}
	switch {
	case l.observes:
		k.onObserving(now)
	case k.book.Observes():
		k.readSoon(now.Boot) // what it does not hold was only observed
	}
	if before.generation != 0 {
		k.publishMissed(Full, l.full, before.full)
		k.publishMissed(HeldBack, l.heldBack, before.heldBack)
	}
	switch {
	case l.current:
		t.wrongSince, t.failures = 0, 0
	case t.wrongSince == 0:
		t.wrongSince = now.Boot
	}
}

// publishMissed publishes how many more offences led to no ban.
func (k *core) publishMissed(kind Kind, now, before uint64) {
	if now > before {
		k.publish(News{Kind: kind, Count: int(now - before)})
	}
}

// onApplied handles the outcome of making or repairing the table. Attempts that
// do not help are repeated at growing intervals.
func (k *core) onApplied(err error, now book.Clock) {
	t := &k.table
	t.suspect()
	t.repairAt = now.Boot.Add(min(pause<<min(t.failures, 10), maxPause))
	t.failures++
	if err != nil {
		return
	}
	if t.state == present && t.wrongSince != 0 {
		k.publish(News{Kind: Repaired, What: t.seen.wrong})
	}
	t.wrongSince = 0
}

// applyAt returns when the table is to be made or repaired; ok is false if it is
// not.
func (t *table) applyAt() (at book.Moment, ok bool) {
	switch {
	case t.state == missing:
		at = t.since.Add(patience)
	case t.state == present && t.wrongSince != 0 && !t.suspected:
		at = t.wrongSince.Add(patience / 2)
	default:
		return 0, false
	}
	return max(at, t.repairAt, t.held), true
}
