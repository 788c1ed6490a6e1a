package main

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/portmon/portmon/internal/config"
	"github.com/portmon/portmon/internal/lastgood"
	"github.com/portmon/portmon/internal/route"
	"github.com/portmon/portmon/ruleset"
)

// loadAtBoot is loadConfig for what must be there after a boot whatever the
// file says: in the place of a faulty one, or one that has failed a trial, it
// returns the last good configuration, or without one the built-in default. What
// is wrong with the file is reported and returned besides. apply ends a trial
// that goes on, and a watcher goes along with it.
func (p *cli) loadAtBoot(ends bool) (*config.Config, route.Facts, error) {
	conf, facts, fault := p.loadConfig()
	if fault == nil {
		fault = failedTrial(conf, &p.written, ends)
	}
	if fault == nil {
		return conf, facts, nil
	}
	p.fail(fault)
	conf = p.standIn()
	return conf, p.take(conf), fault
}

// failedTrial returns an error if a configuration, with the table as it says it,
// was tried, but not confirmed.
func failedTrial(conf *config.Config, written *ruleset.Spec, ends bool) error {
	t, err := lastgood.ReadTrial(conf.Watch.State)
	if err != nil || t == nil || !t.Config.Says(written, conf.Names) {
		return nil // one that cannot be read says nothing about this configuration
	}
	if _, on := t.Left(); on && !ends {
		return nil
	}
	return &hinted{
		fmt.Errorf("%s: it was tried, and was not confirmed", cmp.Or(t.Config.File, "built-in default")),
		"`portmon apply --confirm` tries it again",
	}
}

// standIn returns what is to be in force in the place of what the file says, and
// a warning of that. What can be read of the file about the watcher counts. If it
// does not tell where its state is, nothing is remembered.
func (p *cli) standIn() *config.Config {
	conf := config.Salvage(p.configFile)
	conf.Spec = ruleset.Default()
	if conf.Watch.State == "" {
		conf.Watch.State = usualState(conf.Source)
	}
	good, err := lastgood.Good(conf.Watch.State)
	const instead = "not used; in its place the built-in default"
	var what error
	switch {
	case conf.Watch.State == "":
		what = fmt.Errorf("%s: where its last good configuration is kept is not known, and none of it is beside %s; "+
			"until it is corrected, nothing is remembered", instead, config.Default().Watch.State)
	case err != nil:
		what = fmt.Errorf("%s, as the last good configuration cannot be read: %w", instead, err)
	case good == nil:
		what = errors.New(instead + ", as nothing was applied before")
	default:
		conf.Spec, conf.Names = good.Spec, good.Names
		what = fmt.Errorf("not used; in its place the last good configuration, %s", p.origin(good))
	}
	conf.Warnings = []*config.Error{{File: cmp.Or(conf.Source, config.DefaultPath), Err: what}}
	return conf
}

// usualState returns the default place of the state if the last good
// configuration there is from a file, which does not tell any more where its
// state is; else "": that of another one is not to be mixed up with it.
func usualState(file string) string {
	usual := config.Default().Watch.State
	if good, err := lastgood.Good(usual); err != nil || good == nil || cmp.Or(good.File, config.DefaultPath) != file {
		return ""
	}
	return usual
}

// origin says where and since when there is a configuration: "applied
// 2026-05-01 12:00:00 from /etc/portmon/portmon.toml".
func (p *cli) origin(c *lastgood.Config) string {
	at := c.At.In(p.now().Location())
	return "applied " + at.Format(clockLayout) + " from " + cmp.Or(c.File, "the built-in default")
}

// lastGoodReport is the last good configuration, in a report.
type lastGoodReport struct {
	At     time.Time `json:"at"`
	Config string    `json:"config"`
	// Matches reports that the table is what it says.
	Matches bool `json:"matches"`

	text string
}

// lastGood returns the last good configuration, nil if there is none that can be
// read.
func (p *cli) lastGood(prepare func(ruleset.Spec) (*ruleset.Plan, error)) *lastGoodReport {
	good, err := lastgood.Good(p.state)
	if err != nil && !errors.Is(err, fs.ErrPermission) {
		p.warn("%v", err)
	}
	if good == nil {
		return nil
	}
	spec := good.Spec
	_, _ = p.hostFacts(&spec) // reported on its own
	plan, err := prepare(spec)
	return &lastGoodReport{good.At.Truncate(time.Second), good.File, err == nil && plan.Current(), p.origin(good)}
}
