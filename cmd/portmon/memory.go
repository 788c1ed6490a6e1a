package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"time"

	"github.com/pelletier/go-toml/v2"

	"github.com/portmon/portmon/internal/book"
	"github.com/portmon/portmon/internal/config"
	"github.com/portmon/portmon/ruleset"
)

// statePath returns the file in which bans are remembered. Commands that need
// nothing else of the configuration can do with one that has faults, as long as
// it tells this; but they never take another file for it.
func (p *cli) statePath() (string, error) {
	conf, err := config.Load(p.configFile)
	if err == nil {
		return conf.Watch.State, nil
	}
	name := p.configFile
	if name == "" {
		name = config.DefaultPath
	}
	var faulty struct {
		Watch struct{ State *string }
	}
	text, readErr := os.ReadFile(name)
	if readErr != nil || toml.Unmarshal(text, &faulty) != nil {
		return "", err
	}
	if faulty.Watch.State == nil {
		return config.Default().Watch.State, nil
	}
	return *faulty.Watch.State, nil
}

// bookConfig says which book is meant. The table need not be there.
func bookConfig(path string, h *ruleset.Handle) book.Config {
	rows := book.DefaultMaxRows
	if h != nil {
		size := 0
		for i := range h.Sets {
			if role, _ := ruleset.RoleOf(h.Sets[i].Name); role != ruleset.RoleNone {
				size += int(h.Sets[i].Size)
			}
		}
		rows = max(rows, size)
	}
	c := book.Config{Path: path, MaxRows: rows, Now: book.ReadClock(), Wait: watcherPatience}
	if h == nil {
		c.Here = book.Here(0)
	} else {
		c.Here = book.Here(h.Handle)
	}
	return c
}

// lookAtBook reports what a book is about, without reading all of it. One of
// another machine or network namespace is refused.
func lookAtBook(path string, h *ruleset.Handle) (book.Report, error) {
	_, report, err := book.Lookup(bookConfig(path, h)) // of no source
	return report, refuse(path, report, err)
}

// refuse returns an error for a book that is not about this table.
func refuse(path string, r book.Report, err error) error {
	if err == nil && r.Origin != nil {
		return &book.Error{Op: "use", Path: path, Err: r.Origin}
	}
	return err
}

// openBook opens the book to change it.
func (p *cli) openBook(path string, h *ruleset.Handle) (*book.Book, book.Report, error) {
	b, report, err := book.Open(bookConfig(path, h))
	if err != nil {
		return nil, report, err
	}
	if err := refuse(path, report, nil); err != nil {
		b.Close()
		return nil, report, err
	}
	if damage := report.String(); damage != "" {
		p.warn("%s", damage)
	}
	return b, report, nil
}

// changeBook opens the book, has f change it, and writes it.
func (p *cli) changeBook(path string, h *ruleset.Handle, f func(b *book.Book)) error {
	b, _, err := p.openBook(path, h)
	if err != nil {
		return err
	}
	defer b.Close()
	f(b)
	return b.Compact(book.ReadClock())
}

// amendBook notes what became of some sources. A new book is about this table
// from the start: nothing is missing from it.
func (p *cli) amendBook(path string, h *ruleset.Handle, learn []book.Row, free []netip.Prefix) error {
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		return book.Amend(bookConfig(path, h), learn, free)
	}
	if len(learn) == 0 {
		return nil
	}
	return p.changeBook(path, h, func(b *book.Book) {
		b.SetTable(h.Handle)
		for _, r := range learn {
			b.Learn(r)
		}
	})
}

// rememberBans notes bans that were just made, unless a watcher does. That it
// cannot be done is only said, because the bans are in force.
func (p *cli) rememberBans(h *ruleset.Handle, records []ruleset.Record) {
	path, err := p.statePath()
	if err == nil {
		if w := p.runningWatcher(path); w != nil {
			w.Close()
			return
		}
		now := book.ReadClock().Boot
		rows := make([]book.Row, len(records))
		for i := range records {
			rows[i] = book.RowOf(&records[i], now)
		}
		err = p.amendBook(path, h, rows, nil)
	}
	if err != nil {
		p.warn("a reboot or a flush of nftables ends what was banned: it is not remembered: %v", err)
	}
}

// inKernel is what a table holds, by source, as rows.
type inKernel map[netip.Prefix]book.Row

// readKernel reads all that a table holds. Of several bans of a source the
// longest counts.
func readKernel(h *ruleset.Handle) (inKernel, error) {
	held := make(inKernel)
	start, begun := book.ReadClock().Boot, time.Now()
	for r, err := range h.Records() {
		if err != nil {
			return nil, fmt.Errorf("read bans: %w", err)
		}
		row := book.RowOf(&r, start.Add(time.Since(begun)))
		old := held[r.Source]
		if old.Banned && (!row.Banned || old.Timeout == 0 || row.Timeout > 0 && old.Until >= row.Until) {
			step, until := row.Step, row.StepUntil
			if row = old; step > row.Step {
				row.Step, row.StepUntil = step, until
			}
		} else if old.Step > row.Step {
			row.Step, row.StepUntil = old.Step, old.StepUntil
		}
		held[r.Source] = row
	}
	return held, nil
}
