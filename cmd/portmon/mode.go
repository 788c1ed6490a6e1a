package main

import (
	"errors"
	"slices"

	"github.com/portmon/portmon/internal/config"
	"github.com/portmon/portmon/internal/text"
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
	case r.Forgets:
		p.print("inet %s: now enforcing: starts with no bans\n", tableName)
	case slices.Contains(r.Summary(), ruleset.ChangeMode):
		n, err := countBans(h)
		if err != nil {
			return err
		}
		p.print("inet %s: now enforcing: starts with %s\n", tableName, text.Plural(n, "ban"))
	}
	return nil
}
