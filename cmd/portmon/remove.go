package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/portmon/portmon/internal/watch"
	"github.com/portmon/portmon/ruleset"
)

func removeCommand(p *cli) *cobra.Command {
	return &cobra.Command{
		Use:   "remove",
		Short: "take the table out of the kernel, with all bans",
		Long: `Remove deletes the table inet portmon, and with it the traps and all bans.
Nothing else is touched. There being no table is no error.

The bans that were remembered go as well; that sources have offended is still
remembered.`,
		Example: `  portmon remove
  portmon apply`,
		ValidArgsFunction: cobra.NoFileCompletions,
		Args:              noArgs,
		RunE: func(*cobra.Command, []string) error {
			c, err := p.dial()
			if err != nil {
				return err
			}
			defer c.Close()
			s, err := ruleset.Read(c, tableName)
			if err != nil {
				return err
			}
			n, err := countBans(c, s.Table)
			if err != nil {
				return err
			}
			existed, err := ruleset.Remove(c, tableName)
			switch {
			case err != nil:
				return err
			case !existed:
				p.note("there was no table inet %s", tableName)
			default:
				p.print("inet %s: removed, and %s with it\n", tableName, plural(n, "ban"))
			}
			return p.forgetBans()
		},
	}
}

// forgetBans sees to it that the next apply does not put back what was removed. A watcher that runs does that.
func (p *cli) forgetBans() error {
	path := p.statePath()
	if w, err := p.watcher(path); err == nil {
		w.Close()
		return nil
	}
	if err := watch.ForgetBans(path); err != nil {
		return fmt.Errorf("the table is gone, but its bans are still remembered: %w", err)
	}
	return nil
}
