package main

import (
	"cmp"
	"errors"

	"github.com/spf13/cobra"

	"github.com/portmon/portmon/internal/book"
	"github.com/portmon/portmon/internal/config"
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
on disk. Without a table there is nothing to save, and the file stays as it is.
If /etc/portmon/portmon.toml has a fault, save warns of it and goes by what can
be read of it.`,
		Example: `  # before all rules go, and after it
  portmon save
  nft flush ruleset
  portmon apply`,
		Args:    noArgs,
		PreRunE: p.findState,
		RunE: func(*cobra.Command, []string) error {
			if _, _, _, err := config.Glance(p.configFile); err != nil { // a host that shuts down has no other chance
				p.fail(err)
				p.state = cmp.Or(p.state, config.Default().Watch.State)
				p.warn("saving to %s all the same", p.state)
			}
			if w, _ := p.runningWatcher(); w != nil {
				defer w.Close()
				if err := w.Save(); err != nil {
					return err
				}
				p.print("%s: saved by the watcher\n", p.state)
				return nil
			}
			err := p.withTable(p.save)
			if errors.Is(err, errNoTable) {
				p.note("no table inet %s: nothing to save", tableName)
				return nil
			}
			return err
		},
	}
}

// save brings the book up to date with the table. What only the book has was
// lifted or is over if it is about this very table, is forgotten if it was only
// observed and the table enforces, and otherwise still has to be put back.
func (p *cli) save(h *ruleset.Handle) error {
	bans := 0
	err := p.changeBook(h, true, func(b *book.Book, report book.Report) error {
		// A ban is in the table before it is in the book: so the book is read
		// first, and what the table lacks then was lifted.
		held, err := readKernel(h)
		if err != nil {
			return err
		}
		if !h.Observe {
			b.Enforce(false)
		}
		if report.Missing {
			b.SetTable(h.Handle)
		}
		p.catchUp(b, held, h, h.Observe)
		b.SetObserves(h.Observe)
		for row := range b.Rows() {
			if row.Banned {
				bans++
			}
		}
		return nil
	})
	if err == nil {
		p.count(h, false)
		p.print("%s: saved %s\n", p.state, text.Plural(bans, "ban"))
	}
	return err
}
