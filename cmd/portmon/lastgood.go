package main

import (
	"cmp"
	"errors"
	"io/fs"
	"time"

	"github.com/portmon/portmon/internal/config"
	"github.com/portmon/portmon/internal/lastgood"
	"github.com/portmon/portmon/internal/route"
	"github.com/portmon/portmon/ruleset"
)

// loadAtBoot is loadConfig for what must be there after a boot whatever the
// file says: in the place of a faulty one it returns the last good
// configuration, or without one the built-in default. What is wrong with the
// file is reported and returned besides.
func (p *cli) loadAtBoot() (*config.Config, route.Facts, error) {
	conf, facts, fault := p.loadConfig()
	if fault == nil {
		return conf, facts, nil
	}
	p.fail(fault)
	conf = p.standIn()
	return conf, p.take(conf), fault
}

// standIn returns what is to be in force in the place of what the file says,
// and warns of that. What can be read of the file about the watcher counts.
func (p *cli) standIn() *config.Config {
	conf := config.Salvage(p.configFile)
	conf.Warnings, conf.Spec = nil, ruleset.Default()
	file := conf.Source
	good, err := lastgood.Good(conf.Watch.State)
	switch {
	case err != nil:
		p.warn("%s does not count, and the last good configuration cannot be read, so the built-in default does: %v", file, err)
	case good == nil:
		p.warn("%s does not count, and nothing was applied before, so the built-in default does", file)
	default:
		conf.Spec = good.Spec
		p.warn("%s does not count: the last good configuration does, %s", file, p.origin(good))
	}
	return conf
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
	good, err := lastgood.Good(cmp.Or(p.state, config.Salvage(p.configFile).Watch.State))
	if err != nil && !errors.Is(err, fs.ErrPermission) {
		p.warn("%v", err)
	}
	if good == nil {
		return nil
	}
	spec := good.Spec
	_, _ = p.hostFacts(&spec) // reported on its own
	plan, err := prepare(spec)
	return &lastGoodReport{good.At, good.File, err == nil && plan.Current(), p.origin(good)}
}
