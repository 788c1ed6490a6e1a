package main

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/spf13/cobra"

	"github.com/portmon/portmon/internal/book"
	"github.com/portmon/portmon/internal/text"
	"github.com/portmon/portmon/ruleset"
)

func removeCommand(p *cli) *cobra.Command {
	return &cobra.Command{
		Use:   "remove",
		Short: "delete the table, with all bans",
		Long: `Remove deletes the table inet portmon, and with it the traps and all bans. No
other table is touched. A running watcher is told first, so that it does not put
the table back. It is not an error if there is no table.

The bans are forgotten as well, so that portmon apply does not put them back;
offences are still remembered.`,
		Example: `  portmon remove
  portmon apply`,
		Args:    noArgs,
		PreRunE: p.lookForState,
		RunE: func(*cobra.Command, []string) error {
			c, h, err := p.open()
			if err != nil {
				return err
			}
			defer c.Close()
			n, err := countBans(h)
			if err != nil {
				return err
			}
			w, _ := p.runningWatcher()
			if w != nil {
				defer w.Close()
				if err := w.Removing(); err != nil {
					return fmt.Errorf("nothing is removed, as the watcher would put it back: %w", err)
				}
			}
			if p.stateErr != nil {
				p.warn("a watcher, or the end of a trial, may put the table back: where to ask is not known")
			} else if err := p.endTrial(); err != nil && !errors.Is(err, fs.ErrPermission) {
				p.warn("the table may be put back when the trial ends: %v", err)
			}
			if w == nil {
				p.count(h, false)
			}
			existed, err := ruleset.Remove(c, tableName)
			switch {
			case err != nil:
				return err
			case !existed:
				p.note("there was no table inet %s", tableName)
			default:
				p.print("inet %s: removed, and %s with it\n", tableName, text.Plural(n, "ban"))
			}
			if w != nil {
				return nil
			}
			err = p.stateErr
			if err == nil {
				err = p.forgetBans(h)
			}
			if err != nil {
				return fmt.Errorf("bans are still remembered, and can come back: %w", err)
			}
			return nil
		},
	}
}

// forgetBans takes all bans out of the book, so that the next apply puts none
// back and the next watcher does not make the table again.
func (p *cli) forgetBans(h *ruleset.Handle) error {
	if err := h.Refresh(); err != nil {
		return err
	}
	report, err := p.lookAtBook(h)
	if err != nil || report.Missing {
		return err
	}
	return p.changeBook(h, false, func(b *book.Book, _ book.Report) error {
		for row := range b.Rows() {
			b.Lift(row.Source)
		}
		b.SetTable(0)
		return nil
	})
}
