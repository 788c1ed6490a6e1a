package main

import (
	"errors"

	"github.com/portmon/portmon/internal/book"
	"github.com/portmon/portmon/internal/folder"
	"github.com/portmon/portmon/internal/stats"
	"github.com/portmon/portmon/ruleset"
)

// count adds what the counters of a table have grown, and the offences that
// this command has learned of, to the statistics. Made says that the table is
// portmon's work of just now. A running watcher does that by itself.
func (p *cli) count(h *ruleset.Handle, made bool) {
	if p.state == "" {
		return
	}
	now := book.ReadClock()
	s, report, err := stats.Open(p.state, book.Of(h.State), now.Wall.Location(), now, lockPatience)
	if errors.Is(err, folder.ErrLocked) {
		return // by the watcher
	}
	if err == nil {
		defer s.Close()
		if damage := report.String(); damage != "" {
			p.warn("%s", damage)
		}
		// Read now that nobody else counts: never older than what was counted.
		if err = h.Refresh(); err == nil {
			s.AddTable(stats.TableOf(h.State), made, now.Wall)
		}
		for _, o := range p.learned {
			s.AddOffence(o)
		}
		p.learned = nil
		if wait := s.Flush(now); wait != nil {
			err = errors.Join(err, wait())
		}
	}
	if err != nil {
		p.warn("not counted in the statistics: %v", err)
	}
}

// learn enters what a table holds of a source into a book. If that is an
// offence, it is for the statistics.
func (p *cli) learn(b *book.Book, row book.Row, now book.Clock) {
	before, _ := b.Get(row.Source)
	row, offence := b.Learn(row)
	if !offence {
		return
	}
	o := stats.Offence{At: now.Time(row.Last), Cause: row.Cause, Step: row.Step, First: row.Offences == 1, Observed: row.Observed}
	if before.Last != 0 {
		o.Before = now.Time(before.Last)
	}
	p.learned = append(p.learned, o)
}
