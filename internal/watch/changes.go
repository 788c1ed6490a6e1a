package watch

import (
	"net/netip"

	"github.com/portmon/portmon/internal/book"
	"github.com/portmon/portmon/ruleset"
)

// change is what is to be done to the kernel: one of these.
type change struct {
	apply bool             // make the table what spec says
	lift  []netip.Prefix   // lift the bans of these
	put   []ruleset.Record // give the table these
	back  int              // how many bans of these are put back
	look  *look            // look whether it is what spec says; this is what was seen last
	spec  ruleset.Spec
}

// changed is the outcome of a change.
type changed struct {
	change
	refused []error // of the records put, by their place; nil if none was
	saw     look
	err     error
}

// nextChange returns what to do next to the kernel, if there is something.
func (k *core) nextChange(now book.Clock) (c change, ok bool) {
	t := &k.table
	applyAt, apply := t.applyAt()
	lookAt, closely := t.nextLook()
	switch {
	case k.changing:
		return c, false
	case apply && now.Boot >= applyAt:
		c.apply = true
	case t.state == present && len(k.unwanted) > 0:
		for source := range k.unwanted {
			c.lift = append(c.lift, source)
			k.putting[source] = now.Boot
		}
		clear(k.unwanted)
	case t.state == present && len(k.owed) > 0:
		c.put, c.back = k.records(now.Boot)
		for source := range k.owed {
			k.putting[source] = now.Boot
			if k.reading != nil {
				k.touch(source)
				k.reading.stale[source] = struct{}{}
			}
		}
		clear(k.owed)
	case now.Boot >= lookAt && k.begun:
		t.suspected = t.suspected && !closely
		c.look = &look{generation: t.closely.generation, closely: closely, current: t.current, wrong: t.wrong}
	default:
		return c, false
	}
	k.changing, c.spec = true, k.spec
	return c, true
}

// records returns what the table is owed, as the book has it now, and how many
// bans of it are put back. What today's ladder makes shorter, the book has so
// from now on.
func (k *core) records(now book.Moment) (out []ruleset.Record, back int) {
	out = make([]ruleset.Record, 0, len(k.owed))
	for source, restored := range k.owed {
		row, _ := k.book.Get(source)
		r, ok := row.Record(&k.spec, now)
		if !ok {
			continue // over, or unbanned meanwhile
		}
		row.Step = r.Step
		if r.Banned {
			row.Timeout, row.Until = r.Timeout, now.Add(r.Remaining)
		}
		k.book.Put(row)
		if out = append(out, r); restored && r.Banned {
			back++
		}
	}
	return out, back
}

// onChanged handles the outcome of a change.
func (k *core) onChanged(c changed, now book.Clock) {
	k.changing = false
	switch {
	case c.look != nil:
		if c.err == nil {
			k.onLook(c.saw, now)
		} else {
			k.table.lookedAt, k.table.closelyAt = now.Boot, now.Boot.Add(lookClosely)
		}
	case c.apply:
		k.onApplied(c.err, now)
	case c.err != nil:
		// What was to be put is in the book, and what was to be lifted is not:
		// a reading finds the difference.
		k.table.restoring = false
		k.readAt = now.Boot.Add(pause)
	case c.lift != nil:
		for _, source := range c.lift {
			if r, _ := k.book.Get(source); r.Step > 0 {
				k.owe(source, false) // the step went with it
			}
		}
	case c.put != nil:
		for i, err := range c.refused {
			if err == nil {
				continue
			}
			if row, known := k.book.Get(c.put[i].Source); known {
				k.refuse(row)
			}
			c.back--
		}
		if c.back > 0 {
			k.tell(News{Kind: Restored, Count: c.back})
		}
	}
	k.settle()
	k.changedAt = now.Boot
}

// tidy drops what is over, once a second.
func (k *core) tidy(now book.Clock) {
	if !k.changing && k.reading == nil && now.Boot.Sub(k.changedAt) > settling {
		for source, at := range k.putting {
			if now.Boot.Sub(at) > settling {
				delete(k.putting, source)
			}
		}
		for source, f := range k.freed {
			if now.Boot.Sub(f.at) > settling {
				delete(k.freed, source)
			}
		}
	}
	if now.Boot.Sub(k.sweptAt) >= sweepEvery {
		k.book.Sweep(now)
		k.sweptAt = now.Boot
	}
}
