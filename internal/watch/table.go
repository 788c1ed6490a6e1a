package watch

import (
	"time"

	"github.com/portmon/portmon/internal/book"
	"github.com/portmon/portmon/ruleset"
)

// table is what is known of the table as such.
type table struct {
	state  tableState
	layout *ruleset.State // as it was read last, to decode elements by
	handle uint64         // the kernel's number of this incarnation; 0 if it is not known
	// known is the handle of the table that the book is about. Of another
	// table, what the book has and the table lacks is put back; of this one, it
	// has been lifted.
	known     uint64
	restoring bool        // what is to be put back has been found
	since     book.Moment // when it went missing
	newAt     book.Moment // when we learned that it is another one
	removal   book.Moment // until when its end is portmon remove's work

	// Whether it is what it must be.
	current    bool
	wrong      string      // what is not
	wrongSince book.Moment // 0: nothing is
	held       book.Moment // until when portmon apply is changing it
	repairAt   book.Moment // not before that
	failures   int         // repairs in a row that have not helped
	suspected  bool        // something has changed since the last look
	lookedAt   book.Moment // when it was looked at last
	closelyAt  book.Moment // when to look closely again
	closely    struct {    // the last close look
		at         book.Moment
		took       time.Duration
		generation uint32 // of the ruleset; 0: there was none
	}
	full uint64 // offences that led to no ban, as the table counts them
}

type tableState int

const (
	// absent: there is no table, and there shall be none until somebody makes
	// one.
	absent tableState = iota
	// present: there is a table.
	present
	// missing: the table was deleted, and is likely to be made again soon.
	missing
)

const (
	// patience is how long others have for making the table again that they
	// deleted, and half of it for putting right what they changed.
	patience = time.Second
	// grace is how long portmon apply and portmon remove may take after they
	// have announced themselves.
	grace = 10 * time.Second
	// lookEvery is how often it is asked whether the ruleset has changed.
	lookEvery = time.Second
	// lookClosely is how often the table is read though nothing has changed.
	lookClosely = 10 * time.Second
	// lookShare bounds the time that close looks may take: one part of as many.
	lookShare = 20
	// maxPause bounds how long a repair waits that has failed before.
	maxPause = time.Minute
)

// restored reports whether the table has what the book has.
func (t *table) restored() bool { return t.handle != 0 && t.known == t.handle }

// suspect has the table looked at closely soon. A look that is being taken may
// have come too early.
func (t *table) suspect(now book.Clock) { t.closelyAt, t.suspected = now.Boot, true }

// onRemoving records that the user is about to delete the table.
func (k *core) onRemoving(now book.Clock) { k.table.removal = now.Boot.Add(grace) }

// onApplying records that the user is about to change the table.
func (k *core) onApplying(now book.Clock) { k.table.held = now.Boot.Add(grace) }

// onTableGone handles the end of the table, and of all its sets.
func (k *core) onTableGone(now book.Clock) {
	t := &k.table
	if t.state != present {
		return
	}
	k.interrupt()
	t.handle, t.known, t.since, t.current, t.wrongSince, t.repairAt = 0, 0, now.Boot, false, 0, 0
	if now.Boot > t.removal {
		t.state = missing
		k.tell(News{Kind: TableGone})
		return
	}
	t.state = absent
	k.book.SetTable(0)
	for r := range k.book.Rows() {
		k.book.Lift(r.Source) // the steps count on
	}
	k.tell(News{Kind: Removed})
}

// onTableNew handles a new table, or new sets: they have to be read, and what
// they lack to be put back.
func (k *core) onTableNew(now book.Clock) {
	k.interrupt()
	k.table.state, k.table.handle, k.table.known, k.table.newAt = present, 0, 0, now.Boot
	k.table.suspect(now)
	k.readAt = now.Boot
}

// interrupt forgets what is to be asked about the table that was, and what was
// to be put into it: the book has it all.
func (k *core) interrupt() {
	if k.reading != nil {
		k.reading.void = true
	}
	for source := range k.freed {
		k.settleFreed(source)
	}
	k.table.restoring, k.nets = false, false
	clear(k.doubtful)
	clear(k.owed)
	clear(k.unwanted)
}

// look is a look at the table, whether it is what it must be.
type look struct {
	generation uint32
	closely    bool // only then what follows is known
	took       time.Duration
	exists     bool
	current    bool
	wrong      string // what is not right
	full       uint64
}

// nextLook returns when to look at the table next, and whether closely.
func (t *table) nextLook() (at book.Moment, closely bool) {
	if soon := max(t.closelyAt, t.lookedAt.Add(patience/2)); soon <= t.lookedAt.Add(lookEvery) {
		return soon, true
	}
	return t.lookedAt.Add(lookEvery), false
}

// onLook handles the outcome of a look at the table.
func (k *core) onLook(l look, now book.Clock) {
	t := &k.table
	t.lookedAt = now.Boot
	if !l.closely {
		if l.generation != t.closely.generation {
			// Somebody has changed the ruleset. It need not be this table: on a
			// host where that happens all the time, not every change is
			// followed.
			t.closelyAt = min(t.closelyAt, t.closely.at.Add(max(lookEvery, lookShare*t.closely.took)))
		}
		return
	}
	first := t.closely.generation == 0
	if !t.suspected {
		t.closelyAt = now.Boot.Add(lookClosely)
	}
	t.closely.at, t.closely.took, t.closely.generation = now.Boot, l.took, l.generation
	switch {
	case !l.exists:
		k.onTableGone(now)
		return
	case t.state != present:
		k.onTableNew(now)
		return
	}
	if l.full > t.full && !first {
		k.tell(News{Kind: Full, Count: int(l.full - t.full)})
	}
	t.full, t.current = l.full, l.current
	switch {
	case l.current:
		t.wrong, t.wrongSince, t.failures = "", 0, 0
	case t.wrongSince == 0:
		t.wrong, t.wrongSince = l.wrong, now.Boot
	}
}

// onApplied handles the outcome of making or repairing the table.
// If it does not help, the next attempts come later and later.
func (k *core) onApplied(err error, now book.Clock) {
	t := &k.table
	t.suspect(now)
	t.repairAt = now.Boot.Add(min(pause<<min(t.failures, 10), maxPause))
	t.failures++
	if err != nil {
		return
	}
	if t.state == present && t.wrongSince != 0 {
		k.tell(News{Kind: Repaired, What: t.wrong})
	}
	t.wrongSince = 0
}

// applyAt returns when the table is to be made or put right; ok is false if it
// is not.
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
