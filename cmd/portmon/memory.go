package main

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/portmon/portmon/internal/book"
	"github.com/portmon/portmon/internal/config"
	"github.com/portmon/portmon/nftset"
	"github.com/portmon/portmon/ruleset"
)

// statePath returns the file in which bans are remembered.
func (p *cli) statePath() (string, error) { return config.StatePath(p.configFile) }

// lockPatience is how long a command waits for the lock of the book. A watcher
// holds it all the time, another command for some milliseconds.
const lockPatience = 2 * time.Second

// bookConfig returns how to open the book of a table, which need not be there.
func bookConfig(path string, h *ruleset.Handle) book.Config {
	rows, handle := book.DefaultMaxRows, uint64(0)
	if h != nil {
		size := 0
		for i := range h.Sets {
			if role, _ := ruleset.RoleOf(h.Sets[i].Name); role != ruleset.RoleNone {
				size += int(h.Sets[i].Size)
			}
		}
		rows, handle = max(rows, size), h.Handle
	}
	return book.Config{Path: path, MaxRows: rows, Here: book.Here(handle), Now: book.ReadClock(), Wait: lockPatience}
}

// lookAtBook reports what a book is about. One of another machine or network
// namespace is refused.
func lookAtBook(path string, h *ruleset.Handle) (book.Report, error) {
	report, err := book.Look(bookConfig(path, h))
	return report, cmp.Or(err, originError(report))
}

// originError returns an error for a book that is not about this table.
func originError(r book.Report) error {
	if r.Origin == nil {
		return nil
	}
	return &book.Error{Op: "use", Path: r.Path, Err: r.Origin}
}

// openBook opens the book to change it, even if it is locked by a watcher that
// hangs.
func (p *cli) openBook(c book.Config) (b *book.Book, r book.Report, locked bool, err error) {
	b, r, err = book.Open(c)
	if locked = errors.Is(err, book.ErrLocked); locked {
		c.Force, c.Wait = true, 0
		b, r, err = book.Open(c)
	}
	if err != nil {
		return nil, r, locked, err
	}
	if err := originError(r); err != nil {
		b.Close()
		return nil, r, locked, err
	}
	if damage := r.String(); damage != "" {
		p.warn("%s", damage)
	}
	return b, r, locked, nil
}

// changeBook opens the book, lets f change it, and writes it.
func (p *cli) changeBook(path string, h *ruleset.Handle, f func(b *book.Book)) error {
	b, _, locked, err := p.openBook(bookConfig(path, h))
	if err != nil {
		return err
	}
	defer b.Close()
	if locked {
		return &book.Error{Op: "open", Path: path, Err: book.ErrLocked}
	}
	f(b)
	return b.Compact(book.ReadClock())
}

// rememberBans notes bans that were just made, unless a watcher does. If that
// fails it only warns, because the bans are in force.
func (p *cli) rememberBans(h *ruleset.Handle, records []ruleset.Record) {
	path, err := p.statePath()
	if err == nil {
		if w := p.runningWatcher(path); w != nil {
			w.Close()
			return
		}
		conf, sources := bookConfig(path, h), make([]netip.Prefix, len(records))
		for i := range records {
			sources[i] = records[i].Source
		}
		err = book.Amend(conf, sources, func(b *book.Book) {
			for i := range records {
				b.Learn(book.RowOf(&records[i], conf.Now.Boot))
			}
		})
	}
	if err != nil {
		p.warn("the ban is not remembered, and ends with a reboot or a flush of nftables: %v", err)
	}
}

// withSets is [ruleset.Handle.Retry]; if the table is gone, that is the error.
func withSets(h *ruleset.Handle, f func() error) error {
	err := h.Retry(f)
	if errors.Is(err, os.ErrNotExist) && !h.Exists {
		return errNoTable
	}
	return err
}

// readKernel returns a book of all that a table holds.
func readKernel(h *ruleset.Handle) (held *book.Book, err error) {
	err = withSets(h, func() error {
		before := h.State
		if held, err = readSets(h); err != nil {
			return err
		}
		if err := h.Refresh(); err != nil {
			return err
		}
		// What was moved to another set meanwhile may have been missed.
		if !slices.EqualFunc(before.Sets, h.Sets, func(a, b nftset.Set) bool { a.Count = b.Count; return a == b }) {
			return fmt.Errorf("the sets were changed meanwhile: %w", os.ErrNotExist)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read bans: %w", err)
	}
	return held, nil
}

// readSets reads each set once. Of several bans of a source the longest counts.
func readSets(h *ruleset.Handle) (*book.Book, error) {
	held := book.New(math.MaxInt)
	start, begun := book.ReadClock().Boot, time.Now()
	for r := range ahead(h.Records(), time.Now) {
		if r.err != nil {
			return nil, r.err
		}
		row := book.RowOf(&r.value, start.Add(r.at.Sub(begun)))
		if old, ok := held.Get(row.Source); ok {
			step := row
			if old.Step > row.Step {
				step = old
			}
			if old.Banned && (!row.Banned || old.Timeout == 0 || row.Timeout > 0 && old.Until >= row.Until) {
				row = old
			}
			row.Step, row.StepUntil = step.Step, step.StepUntil
		}
		held.Put(row)
	}
	return held, nil
}
