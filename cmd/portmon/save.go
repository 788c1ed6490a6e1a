package main

import (
	"errors"

	"github.com/spf13/cobra"

	"github.com/portmon/portmon/internal/book"
	"github.com/portmon/portmon/internal/text"
	"github.com/portmon/portmon/ruleset"
)

func saveCommand(p *cli) *cobra.Command {
	return &cobra.Command{
		Use:   "save",
		Short: "write bans and offences to disk",
		Long: `Save writes all bans, and the offences that the kernel remembers, to the state
file that the configuration names in [watch]. After a reboot or a flush of
nftables, portmon apply puts them back with the time they have left.

A running watcher writes them by itself; save then waits until all of them are
on disk. Without a table there is nothing to save, and the file stays as it is.`,
		Example: `  # before all rules go, and after it
  portmon save
  nft flush ruleset
  portmon apply`,
		Args: noArgs,
		RunE: func(*cobra.Command, []string) error {
			path, err := p.statePath()
			if err != nil {
				return err
			}
			if w := p.runningWatcher(path); w != nil {
				defer w.Close()
				if err := w.Save(); err != nil {
					return err
				}
				p.print("%s: saved by the watcher\n", path)
				return nil
			}
			err = p.withTable(func(h *ruleset.Handle) error { return p.save(path, h) })
			if errors.Is(err, errNoTable) {
				p.note("no table inet %s: nothing to save", tableName)
				return nil
			}
			return err
		},
	}
}

// save brings the book up to date with the table. What only the book has was
// lifted or is over if it is about this very table, and otherwise still has to
// be put back.
func (p *cli) save(path string, h *ruleset.Handle) error {
	// A ban is in the table before it is in the book: so the book is read first,
	// and what the table lacks then was lifted.
	b, report, _, err := p.openBook(bookConfig(path, h))
	if err != nil {
		return err
	}
	defer b.Close()
	held, err := readKernel(h)
	if err != nil {
		return err
	}
	if report.Missing {
		b.SetTable(h.Handle)
	}
	catchUp(b, held, sameTable(report, h))
	if err := b.Compact(book.ReadClock()); err != nil {
		return err
	}
	bans := 0
	for row := range b.Rows() {
		if row.Banned {
			bans++
		}
	}
	p.print("%s: saved %s\n", path, text.Plural(bans, "ban"))
	return nil
}

// sameTable reports whether a book is about this very table, so that what is
// missing from the table was lifted or is over.
func sameTable(r book.Report, h *ruleset.Handle) bool {
	return r.Saved.SameTable(book.Here(h.Handle))
}

// catchUp enters what a table holds into a book, and if the book is about that
// table, removes what it does not hold any more.
func catchUp(b, held *book.Book, sameTable bool) {
	b.Sweep(book.ReadClock())
	if sameTable {
		for row := range b.Rows() {
			now, _ := held.Get(row.Source)
			if row.Step > 0 && now.Step == 0 {
				b.Free(row.Source)
			} else if row.Banned && !now.Banned {
				b.Lift(row.Source)
			}
		}
	}
	for row := range held.Rows() {
		b.Learn(row)
	}
}
