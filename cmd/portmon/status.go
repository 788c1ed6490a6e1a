package main

import (
	"errors"
	"time"

	"github.com/spf13/cobra"

	"github.com/portmon/portmon/internal/config"
	"github.com/portmon/portmon/internal/control"
	"github.com/portmon/portmon/nftset"
	"github.com/portmon/portmon/ruleset"
)

func statusCommand(p *cli) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "status",
		Short: "tell whether the table is in force, how full it is and what it did",
		Long: `Status tells whether the table inet portmon is there and is what the
configuration says; how full its sets are; how many packets met a trap, made a
ban or were dropped; and which trap ports are none at the moment because a
program listens; and whether a watcher runs.

The exit code is 0 if the table is in force as configured, 3 if it is not there
or differs, 2 if the configuration is wrong, so that nobody can tell.`,
		Example: `  # for monitoring: how full is the set of first bans, in percent?
  portmon status --json | jq '.sets[] | select(.name == "ban4") | 100 * .count / .size'`,
		ValidArgsFunction: cobra.NoFileCompletions,
		Args:              noArgs,
		RunE: func(*cobra.Command, []string) error {
			r, wrong := p.report()
			if r == nil {
				return wrong
			}
			if asJSON {
				wrong = errors.Join(wrong, p.json(r))
			} else {
				r.print(&p.ui)
			}
			if wrong != nil || *r.Current {
				return wrong
			}
			if !asJSON {
				p.hint("run `portmon apply`")
			}
			return said(exitNotInForce)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "write JSON, version 1")
	return cmd
}

// report is what status has to say.
type report struct {
	Version int    `json:"version"`
	Table   string `json:"table"`
	InForce bool   `json:"in_force"`
	// Current tells that the kernel holds what the configuration says, Differences where it does not. It is nil if nobody can tell.
	Current     *bool    `json:"current,omitempty"`
	Differences []string `json:"differences"`
	// Config is the file; empty if it is the built-in default.
	Config          string             `json:"config"`
	FeaturesMissing []string           `json:"features_missing"`
	Sets            []setReport        `json:"sets"`
	Counters        map[string]traffic `json:"counters"`
	TrapTCP         []string           `json:"trap_tcp"`
	TrapUDP         []string           `json:"trap_udp"`
	Listeners       []listenerReport   `json:"listeners"`
	Watcher         watcherReport      `json:"watcher"`
	traps           traps
	hearing         []string
	zone            *time.Location
}

type setReport struct {
	Name           string  `json:"name"`
	Tier           int     `json:"tier,omitempty"`
	Count          int     `json:"count"`
	Size           uint32  `json:"size,omitempty"`
	Full           bool    `json:"full"`
	TimeoutSeconds float64 `json:"timeout_seconds,omitempty"`
	timeout        string
}

type traffic struct {
	Packets uint64 `json:"packets"`
	Bytes   uint64 `json:"bytes"`
}

// watcherReport is what a watcher says of itself, if one runs.
type watcherReport struct {
	Running bool `json:"running"`
	*control.Status
}

// listenerReport is a program that listens where a trap is configured.
type listenerReport struct {
	Protocol string `json:"protocol"`
	Port     uint16 `json:"port"`
	Address  string `json:"address"`
}

// report asks the kernel. With a wrong configuration there is both a report, of what is in force, and an error.
func (p *cli) report() (*report, error) {
	c, err := p.dial()
	if err != nil {
		return nil, err
	}
	defer c.Close()
	s, err := ruleset.Read(c, tableName)
	if err != nil {
		return nil, err
	}
	r := &report{
		Version: 1, Table: s.Table.String(), InForce: s.Exists,
		Differences: []string{}, FeaturesMissing: []string{}, Sets: []setReport{}, Counters: map[string]traffic{},
		TrapTCP: []string{}, TrapUDP: []string{}, Listeners: []listenerReport{}, zone: p.now().Location(),
	}
	if s.Exists {
		if err := r.read(p, c, s); err != nil {
			return nil, err
		}
	}
	r.askWatcher(p)
	conf, err := p.loadConfig()
	if err != nil {
		return r, err
	}
	r.Config = conf.Source
	return r, r.compare(c, conf)
}

// read fills in what is in force.
func (r *report) read(p *cli, c *nftset.Conn, s *ruleset.State) (err error) {
	banSets(s, func(set *nftset.Set, tier int) {
		n, e := countSet(c, set)
		err = errors.Join(err, e)
		row := setReport{
			Name: set.Name, Tier: tier, Count: n, Size: set.Size, Full: set.Size > 0 && n >= int(set.Size),
			TimeoutSeconds: set.Timeout.Seconds(), timeout: "-",
		}
		if set.Timeout > 0 {
			row.timeout = config.FormatDuration(set.Timeout)
		}
		r.Sets = append(r.Sets, row)
	})
	if err != nil {
		return err
	}
	for name, counter := range s.Counters {
		r.Counters[name] = traffic(counter)
	}
	if r.traps, err = readTraps(c, s); err != nil {
		return err
	}
	r.TrapTCP, r.TrapUDP = portTexts(r.traps.tcp), portTexts(r.traps.udp)
	sockets, err := p.listeners()
	if err != nil {
		p.warn("look for listeners on trap ports: %v", err)
	}
	heard := r.traps.heard(sockets)
	r.hearing = hearing(heard)
	for _, l := range heard {
		r.Listeners = append(r.Listeners, listenerReport{l.Proto, l.Addr.Port(), l.Addr.Addr().String()})
	}
	return nil
}

// askWatcher fills in what a watcher says of itself.
func (r *report) askWatcher(p *cli) {
	w, err := p.watcher(p.statePath())
	if errors.Is(err, control.ErrNone) {
		return
	}
	if err == nil {
		defer w.Close()
		var s control.Status
		if s, err = w.Status(); err == nil {
			r.Watcher = watcherReport{true, &s}
			return
		}
	}
	p.warn("look for a watcher: %v", err)
}

// compare fills in how far that is what the configuration says.
func (r *report) compare(c *nftset.Conn, conf *config.Config) error {
	plan, err := ruleset.Prepare(c, conf.Spec)
	if conflicts := allOf[*ruleset.ConflictError](err); conflicts != nil {
		for _, conflict := range conflicts {
			r.Differences = append(r.Differences, conflict.Error())
		}
		r.Current = new(false)
		return nil
	}
	if err != nil {
		return err
	}
	r.FeaturesMissing = append(r.FeaturesMissing, plan.Features.Missing()...)
	r.Current = new(plan.Empty())
	if r.InForce {
		r.Differences = append(r.Differences, plan.Summary()...)
	}
	return nil
}
