package main

import (
	"errors"
	"slices"
	"time"

	"github.com/portmon/portmon/internal/book"
	"github.com/portmon/portmon/internal/config"
	"github.com/portmon/portmon/internal/text"
	"github.com/portmon/portmon/nftset"
	"github.com/portmon/portmon/ruleset"
)

// modeOptions are the flags of apply that choose the mode.
type modeOptions struct{ observe, keep bool }

// choose puts them into a configuration, in place of what that says.
func (o modeOptions) choose(spec *ruleset.Spec) error {
	if o.keep && spec.Observe {
		return errors.New(`--keep is for a configuration that enforces: this one has mode = "observe"`)
	}
	spec.Observe, spec.KeepObserved = spec.Observe || o.observe, o.keep
	return nil
}

// letStay has what is from before the table observed stay in effect, if it is to
// enforce now.
func (p *cli) letStay(c *nftset.Conn, spec *ruleset.Spec) {
	h, err := ruleset.Open(c, tableName)
	if err != nil || !h.Observe || spec.Observe || spec.KeepObserved {
		return // who applies it meets the error, too
	}
	rows, known := p.remembered(h)
	if !known {
		p.warn("which bans are from before the table observed is not known, without a watcher and a state file about it: " +
			"those by hand stay, all others are forgotten")
	}
	if rows == nil {
		return // that is what happens then
	}
	spec.Stays = func(r ruleset.Record) ruleset.Record {
		now := book.ReadClock().Boot
		row, _ := rows.Get(r.Source)
		row = row.Enforced()
		before := row.BannedAt(now) && (row.Remaining(now)-r.Remaining).Abs() < time.Second
		r.Banned = r.Banned && before || r.ByHand().Banned
		if r.Step > 0 {
			r.Step, r.StepRemaining = row.StepAt(now), row.StepRemaining(now)
		}
		return r
	}
}

// noteObserving notes that the bans of a table have no effect yet.
func (p *cli) noteObserving(h *ruleset.Handle) {
	if h.Observe && h.Idle() == "" {
		p.note("inet %s observes, and drops nothing: banned sources are those that would be", tableName)
	}
}

// reportMode reports in which mode a table is that was applied, and what that
// means for the bans.
func (p *cli) reportMode(h *ruleset.Handle, r *ruleset.Plan, conf *config.Config) error {
	switch {
	case conf.Spec.Observe:
		p.print("inet %s: observing: nothing is dropped\n", tableName)
	case slices.Contains(r.Summary(), ruleset.ChangeMode):
		n, err := countBans(h)
		if err != nil {
			return err
		}
		p.print("inet %s: now enforcing: starts with %s\n", tableName, text.Plural(n, "ban"))
	}
	return nil
}
