package main

import (
	"errors"
	"time"

	"github.com/spf13/cobra"

	"github.com/portmon/portmon/internal/config"
	"github.com/portmon/portmon/internal/control"
	"github.com/portmon/portmon/internal/lastgood"
	"github.com/portmon/portmon/nftset"
	"github.com/portmon/portmon/ruleset"
)

func statusCommand(p *cli) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "status",
		Short: "report whether the table is in force, and what it did",
		Long: `Status reports whether the table inet portmon is installed and is what the
configuration says; when its traps are armed, and which trap ports are not traps
at the moment because a program listens; how full each set is; what each counter
counted; whether a watcher runs; and whether the address that you are connected
from by SSH is safe.

The exit code is 0 if the table is as configured, in force or observing, 3 if it
is missing, dormant or different, and 2 if the configuration is wrong, so that
this is not known.`,
		Example: `  # for monitoring: how full is the set of bans, in percent?
  portmon status --json | jq '.sets[] | select(.name == "ban4") | 100 * .count / .size'`,
		Args: noArgs,
		RunE: func(*cobra.Command, []string) error {
			r, wrong := p.report(modeOptions{})
			if r == nil {
				return wrong
			}
			if asJSON {
				wrong = errors.Join(wrong, p.json(r))
			} else {
				r.print(&p.ui)
			}
			if wrong == nil && !r.asConfigured() {
				wrong = exitCodeError(exitNotInForce)
				if !asJSON {
					p.hint(runApply)
				}
			}
			return wrong
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "write JSON, version 1")
	return cmd
}

// report is what status has to say.
type report struct {
	Version int    `json:"version"`
	Table   string `json:"table"`
	// Present reports that there is such a table, and Dormant that it is
	// switched off.
	Present bool `json:"present"`
	Dormant bool `json:"dormant,omitempty"`
	// Mode is "observe" if the table drops nothing, otherwise "enforce".
	Mode string `json:"mode,omitempty"`
	// InForce reports that the kernel does what the configuration says, and
	// drops; Current that it holds what that says; Differences are where it does
	// not. Both are nil if that is not known.
	InForce     *bool    `json:"in_force,omitempty"`
	Current     *bool    `json:"current,omitempty"`
	Differences []string `json:"differences"`
	// Stuck is what sets keep all the same, as the kernel does not change it.
	Stuck []string `json:"stuck,omitempty"`
	// Config is the file; empty if it is the built-in default.
	Config string `json:"config"`
	// LastGood is what was applied last.
	LastGood *lastGoodReport `json:"last_good,omitempty"`
	// TrialSeconds is for how long a configuration is still on trial.
	TrialSeconds seconds `json:"trial_seconds,omitempty"`
	// You is what becomes of the address that the user is connected from by SSH.
	You *yourReport `json:"you,omitempty"`
	trapReport
	Sets      []setReport        `json:"sets"`
	Counters  map[string]traffic `json:"counters"`
	Listeners []listener         `json:"listeners,omitzero"`
	Watcher   watcherReport      `json:"watcher"`

	idle string // why nothing is dropped
	zone *time.Location
}

type setReport struct {
	Name           string  `json:"name"`
	Tier           int     `json:"tier,omitempty"`
	Count          int     `json:"count"`
	Size           uint32  `json:"size,omitempty"`
	Full           bool    `json:"full"`
	TimeoutSeconds seconds `json:"timeout_seconds,omitempty"`
}

type traffic struct {
	Packets uint64 `json:"packets"`
	Bytes   uint64 `json:"bytes"`
}

// watcherReport is what a watcher reports of itself, if one runs.
type watcherReport struct {
	Running bool `json:"running"`
	*control.Status
}

// report asks the kernel. With a wrong configuration there is both a report, of
// what the kernel holds, and an error.
func (p *cli) report(mode modeOptions) (*report, error) {
	c, h, err := p.open()
	if err != nil {
		return nil, err
	}
	defer c.Close()
	r := &report{
		Version: 1, Table: h.Table.String(), Present: h.Exists, Dormant: h.Dormant,
		Differences: []string{}, Sets: []setReport{}, Counters: map[string]traffic{},
		trapReport: trapReport{TrapTCP: []string{}, TrapUDP: []string{}}, Listeners: []listener{}, zone: p.now().Location(),
		idle: "there is no such table",
	}
	if h.Exists {
		r.idle, r.Mode = h.Idle(), h.Mode()
		if err := r.read(p, h); err != nil {
			return nil, err
		}
	}
	if r.idle != "" || r.observes() {
		r.InForce = new(bool)
	}
	_ = p.lookForState(nil, nil) // the configuration is reported on its own
	if w, status := p.runningWatcher(); w != nil {
		w.Close()
		r.Watcher = watcherReport{true, &status}
	}
	conf, _, err := p.loadConfig()
	var interfaces []string
	if conf != nil {
		interfaces = conf.Spec.Interfaces
	}
	var fault error
	if r.You, fault = p.you(h, interfaces); fault != nil {
		return nil, fault
	}
	if t, err := lastgood.ReadTrial(p.state); err == nil {
		left, _ := t.Left()
		r.TrialSeconds = seconds(left)
	}
	r.LastGood = p.lastGood(func(spec ruleset.Spec) (*ruleset.Plan, error) { return ruleset.Prepare(c, spec) })
	if err != nil {
		return r, err
	}
	if err := mode.choose(&conf.Spec); err != nil {
		return r, err
	}
	r.Config = conf.Source
	return r, r.compare(c, conf)
}

// read fills in what the table holds.
func (r *report) read(p *cli, h *ruleset.Handle) error {
	fill, err := h.Fill()
	if err != nil {
		return err
	}
	for _, f := range fill {
		s := setReport{Name: f.Set, Count: f.Count, Size: f.Size, Full: f.Full()}
		_, s.Tier = ruleset.RoleOf(f.Set)
		if set := h.Set(f.Set); set != nil {
			s.TimeoutSeconds = seconds(set.Timeout)
		}
		r.Sets = append(r.Sets, s)
	}
	for name, counter := range h.Counters {
		r.Counters[name] = traffic(counter)
	}
	if r.trapReport, err = readTraps(h); err != nil {
		return err
	}
	r.Listeners = p.listenersOn(r.traps)
	return nil
}

// compare fills in how far the table is what the configuration says.
func (r *report) compare(c *nftset.Conn, conf *config.Config) error {
	plan, err := ruleset.Prepare(c, conf.Spec)
	var conflict *ruleset.ConflictError
	current := false
	switch {
	case errors.As(err, &conflict):
		r.Differences = append(r.Differences, conflict.Error())
		r.idle = "" // that is the lesser trouble
	case err != nil:
		return err
	default:
		r.Stuck = stuckTexts(plan.Stuck)
		if current = plan.Current(); r.Present && !current {
			r.Differences = append(r.Differences, plan.Summary()...)
		}
	}
	inForce := r.idle == "" && current && !r.observes()
	r.Current, r.InForce = &current, &inForce
	return nil
}

func (r *report) observes() bool { return r.Mode == ruleset.Mode(true) }

// asConfigured reports whether the kernel does what the configuration says.
func (r *report) asConfigured() bool { return r.idle == "" && r.Current != nil && *r.Current }
