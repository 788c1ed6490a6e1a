package main

import (
	"fmt"
	"os"
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
	switched := slices.Contains(r.Summary(), ruleset.ChangeMode)
	if err != nil || report.Missing && !h.Observe || report.Saved.SameTable(book.Of(h.State)) && report.Saved.Observe == h.Observe {
		return false, err
	}
	bans, allowances := 0, 0
	var left []error
	err = p.changeBook(h, true, func(b *book.Book, _ book.Report) error {
		if !h.Observe {
			if n := b.Enforce(spec.KeepObserved); n > 0 && !spec.KeepObserved {
				p.note("forgotten, as it was only observed: %s", text.Plural(n, "source"))
			}
		}
		held, records, refused, err := putBack(h, b, spec)
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
		if p.catchUp(b, held, h, h.Observe && !switched); h.Observe && switched {
			b.Observe(since)
		}
		b.SetTable(h.Handle)
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

// putBack puts what a book says, and the table lacks, into the table, unless that
// is the one that the book is about. It returns what the table held before, what
// was put, and which of that was refused.
func putBack(h *ruleset.Handle, b *book.Book, spec *ruleset.Spec) (held *book.Book, records []ruleset.Record, refused []error, err error) {
	err = withSets(h, func() (err error) {
		if held, err = readKernel(h); err != nil {
			return err
		}
		records = nil
		now := book.ReadClock().Boot
		for row := range b.Rows() {
			if r, ok := row.Record(spec, now); ok && !isAbout(b, h) && addsTo(held, &r, now) {
				records = append(records, r)
			}
		}
		table := h.Handle
		if refused, err = h.Put(records); err != nil {
			return err
		}
		// What the table held counts as put back: that is of no use if another
		// one has taken its place meanwhile.
		if err = h.Refresh(); err == nil && h.Handle != table {
			err = fmt.Errorf("the table was made anew meanwhile: %w", os.ErrNotExist)
		}
		return err
	})
	return held, records, refused, err
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
