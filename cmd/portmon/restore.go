package main

import (
	"slices"
	"time"

	"github.com/portmon/portmon/internal/book"
	"github.com/portmon/portmon/internal/text"
	"github.com/portmon/portmon/ruleset"
)

// restore puts back what is remembered and the table lacks, if it is not the
// table that the book is about; what was only observed is forgotten instead, if the
// table enforces, unless it is to be kept. If the table is in another mode than
// before, which it was given since a moment, the book says so. A running watcher
// does all that by itself. put reports whether the table has what is to be put
// back, though the book may not say so.
func (p *cli) restore(h *ruleset.Handle, spec *ruleset.Spec, r *ruleset.Plan, since book.Moment) (put bool, err error) {
	report, err := p.lookAtBook(h)
	same, switched := sameTable(report, h), slices.Contains(r.Summary(), ruleset.ChangeMode)
	if err != nil || report.Missing && !h.Observe || same && report.Saved.Observe == h.Observe {
		return false, err
	}
	bans, allowances := 0, 0
	var left []error
	err = p.changeBook(h, true, func(b *book.Book, _ book.Report) error {
		held, err := readKernel(h)
		if err != nil {
			return err
		}
		if !h.Observe {
			if n := b.Enforce(spec.KeepObserved); n > 0 && !spec.KeepObserved {
				p.note("forgotten, as it was only observed: %s", text.Plural(n, "source"))
			}
		}
		now := book.ReadClock().Boot
		var records []ruleset.Record
		for row := range b.Rows() {
			if r, ok := row.Record(spec, now); ok && !same && addsTo(held, &r, now) {
				records = append(records, r)
			}
		}
		var refused []error
		err = withSets(h, func() (err error) { refused, err = h.Put(records); return err })
		if err != nil {
			return err
		}
		put = true
		for i := range records {
			r := &records[i]
			switch {
			case refused != nil && refused[i] != nil:
				b.Free(r.Source) // it was whitelisted since, or no host sends from there
				b.DisallowAlone(r.Source)
				left = append(left, refused[i])
			case r.Banned:
				bans++
				held.Free(r.Source) // the table has what the book says
			case r.Allowed:
				allowances++
				held.DisallowAlone(r.Source)
			}
		}
		b.SetTable(h.Handle)
		if p.catchUp(b, held, same, h.Observe && !switched); h.Observe && switched {
			b.Observe(since)
		}
		b.SetObserves(h.Observe)
		return nil
	})
	var back []string
	if bans > 0 {
		back = append(back, text.Plural(bans, "ban"))
	}
	if allowances > 0 {
		back = append(back, text.Plural(allowances, "allowance"))
	}
	if back != nil {
		p.print("inet %s: put back %s\n", tableName, text.Enumerate(back, "and"))
	}
	if len(left) > 0 {
		p.warn("not put back: %s; %v", text.Plural(len(left), "remembered source"), left[0])
	}
	return put, err
}

// addsTo removes from a record what the table holds already for as long or
// longer, and reports whether anything is left.
func addsTo(held *book.Book, r *ruleset.Record, now book.Moment) bool {
	has, _ := held.Get(r.Source)
	const slack = time.Second
	if has.Timeout == 0 || r.Timeout > 0 && r.Remaining < has.Remaining(now)+slack {
		r.Banned = r.Banned && !has.BannedAt(now)
		r.Allowed = r.Allowed && !has.AllowedAt(now)
	}
	if has.Step > r.Step || has.Step == r.Step && r.StepRemaining < has.StepRemaining(now)+slack {
		r.Step = 0
	}
	return r.Banned || r.Allowed || r.Step > 0
}
