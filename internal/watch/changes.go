package watch

import (
	"errors"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/portmon/portmon/internal/book"
	"github.com/portmon/portmon/ruleset"
)

// change is what is to be done to the kernel: one of these.
type change struct {
	apply bool             // make the table what spec says
	lift  []netip.Prefix   // lift the bans of these
	end   []netip.Prefix   // end the allowances of these
	put   []ruleset.Record // give the table these
	back  []bool           // which bans of these are put back
	tidy  bool             // take out of the sets of prefixes what is over
	look  *look            // look whether it is what spec says, with what was seen last
	spec  ruleset.Spec
}

// changed is the outcome of a change.
type changed struct {
	change
	refused []error // of the records put, by their place; nil if none was
	saw     look
	made    bool // the table was made
	err     error
}

// grain is how near to each other ends are that count as one.
const grain = book.Moment(time.Second / 4)

// nextChange returns the next change to make in the kernel, if there is one.
func (k *core) nextChange(now book.Clock) (c change, ok bool) {
	t := &k.table
	applyAt, apply := t.applyAt()
	switch {
	case k.changing || k.paused != 0:
		return c, false
	case apply && now.Boot >= applyAt:
		c.apply = true
	case t.state == present && len(k.toLift) > 0:
		for source := range k.toLift {
			c.lift = append(c.lift, source)
			k.recent[source] = now.Boot
		}
		clear(k.toLift)
	case t.state == present && len(k.toEnd) > 0:
		c.end = slices.Collect(maps.Keys(k.toEnd))
		clear(k.toEnd)
	case t.state == present && len(k.toPut) > 0:
		c.put, c.back = k.records(now.Boot)
		for source := range k.toPut {
			k.recent[source] = now.Boot
			if k.reading != nil {
				k.supersede(source)
			}
		}
		clear(k.toPut)
	case t.state == present && len(k.netEnds) > 0 && now.Boot >= k.netEnds[0].Add(settling):
		c.tidy = true
		k.netEnds = slices.DeleteFunc(k.netEnds, func(end book.Moment) bool { return now.Boot >= end.Add(settling) })
	case (now.Boot >= t.nextLook() || k.toCount) && k.begun:
		c.look, t.suspected, k.toCount = t.seen, false, false
	default:
		return c, false
	}
	k.changing, c.spec = true, k.spec
	return c, true
}

// records returns what is to be put into the table, as the book has it now, and
// which bans among it are put back. What today's ladder makes shorter is
// shortened in the book as well.
func (k *core) records(now book.Moment) (out []ruleset.Record, back []bool) {
	out = make([]ruleset.Record, 0, len(k.toPut))
	for source, restored := range k.toPut {
		row, _ := k.book.Get(source)
		r, ok := row.Record(&k.spec, now)
		if !ok {
			continue // over, or unbanned meanwhile
		}
		row.Step = r.Step
		if r.Banned || r.Allowed {
			row.Timeout, row.Until = r.Timeout, now.Add(r.Remaining)
		}
		k.book.Put(row)
		out, back = append(out, r), append(back, restored && r.Banned)
	}
	return out, back
}

// onChanged handles the outcome of a change.
func (k *core) onChanged(c changed, now book.Clock) {
	k.changing = false
	switch {
	case c.look != nil:
		if c.err == nil {
			k.addTable(c.saw.table, now)
		}
		if k.table.lookedAt = now.Boot; c.err != nil || c.look != k.table.seen {
			k.table.suspect() // what was seen is of another table or configuration
		} else {
			k.onLook(c.saw, now)
		}
	case c.apply:
		if c.made {
			k.table.made, k.toCount = true, true // until that is on the disk, a kill would have it be an unknown one
		}
		k.onApplied(c.err, now)
	case c.tidy && c.err != nil:
		k.tidyAt(now.Boot.Add(pause))
	case c.err != nil:
		// What was to be put is in the book, and what was to be lifted is not:
		// a reading finds the difference.
		k.table.restoring = false
		k.readAt = now.Boot.Add(pause)
	case c.lift != nil:
		for _, source := range c.lift {
			if r, _ := k.book.Get(source); r.Step > 0 {
				k.putLater(source, false) // the step went with it
			}
		}
	case c.put != nil:
		restored := 0
		for i, back := range c.back {
			if c.refused == nil || c.refused[i] == nil {
				if back {
					restored++
				}
			} else if row, known := k.book.Get(c.put[i].Source); !known {
			} else if errors.As(c.refused[i], new(*ruleset.AllowFullError)) {
				k.book.DisallowAlone(row.Source)
			} else if errors.As(c.refused[i], new(*ruleset.SourceError)) {
				k.book.Free(row.Source) // no host sends from there
			} else {
				k.liftExempt(row)
			}
		}
		if restored > 0 {
			k.publish(News{Kind: Restored, Count: restored})
		}
	}
	k.settle()
	k.changedAt = now.Boot
}

// planTidying notes when the bans end that a reading of the sets of prefixes has
// shown, after which the kernel must be asked to take them out. It does that at
// most once a second, so what has just ended, and is not shown any more, may
// still be in there.
func (k *core) planTidying(ends []book.Moment, now book.Moment) {
	for _, end := range k.netEnds {
		if end <= now.Add(settling) {
			ends = append(ends, end)
		}
	}
	for i := range ends {
		ends[i] -= ends[i] % grain
	}
	slices.Sort(ends)
	k.netEnds = slices.Clone(slices.Compact(ends))
}

// tidyAt has the sets of prefixes tidied at a moment.
func (k *core) tidyAt(at book.Moment) {
	k.netEnds = append(k.netEnds, at.Add(-settling))
	slices.Sort(k.netEnds)
}

// tidy drops what is over.
func (k *core) tidy(now book.Clock) {
	if !k.changing && k.reading == nil && now.Boot.Sub(k.changedAt) > settling {
		for source, at := range k.recent {
			if now.Boot.Sub(at) > settling {
				delete(k.recent, source)
			}
		}
		for source, f := range k.lifted {
			if now.Boot.Sub(f.at) > settling {
				delete(k.lifted, source)
			}
		}
	}
	k.release(now.Boot)
	for source, until := range k.drills {
		if now.Boot > until {
			delete(k.drills, source)
		}
	}
	if now.Boot.Sub(k.sweptAt) >= sweepEvery {
		k.book.Sweep(now)
		k.sweptAt = now.Boot
	}
}
