package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/portmon/portmon/internal/config"
	"github.com/portmon/portmon/internal/route"
	"github.com/portmon/portmon/ruleset"
)

// loadConfig reads the configuration, prints its warnings, and adds what only
// the host knows.
func (p *cli) loadConfig() (*config.Config, route.Facts, error) {
	conf, err := config.Load(p.configFile)
	if err != nil {
		return nil, route.Facts{}, err
	}
	return conf, p.take(conf), nil
}

// take goes on with a configuration that was read.
func (p *cli) take(conf *config.Config) route.Facts {
	p.state, p.written = conf.Watch.State, conf.Spec
	if p.state == "" {
		p.stateErr = errors.New("where its state is kept is not known")
	}
	for _, w := range conf.Warnings {
		p.warn("%v", w)
	}
	facts, err := p.hostFacts(&conf.Spec)
	if err != nil {
		p.warn("%v", err)
	}
	return facts
}

// hostFacts fills in what the table depends on and no file says: from which
// ports this host opens connections, in which networks it has addresses,
// whether its routes can tell where a source is, and whether it belongs to a
// fleet. What cannot be read stays as it was; the error says why. Every command
// that makes a Spec calls it: they would undo each other's work if they
// disagreed.
func (p *cli) hostFacts(spec *ruleset.Spec) (route.Facts, error) {
	facts, err := p.routes()
	if err != nil {
		err = fmt.Errorf("read routes: %w", err)
	}
	var fleetErr error
	spec.Fleet, fleetErr = p.fleetSize()
	spec.Own6 = facts.OnLink6
	spec.NoReversePath4, spec.NoReversePath6 = facts.NoReversePath4, facts.NoReversePath6
	for _, p := range facts.OnLink6 {
		if p.Bits() < 64 { // of which own6 would have to hold thousands
			spec.Single6 = append(spec.Single6, p)
		}
	}
	ports, portErr := localPorts("/proc/sys/net/ipv4/ip_local_port_range")
	if portErr == nil {
		spec.LocalPorts = ports
	}
	return facts, errors.Join(err, portErr, fleetErr)
}

// localPorts reads the range from which the kernel chooses the ports of
// outgoing connections. The file is that of the network namespace of the
// thread that opens it.
func localPorts(file string) (ports ruleset.Ports, err error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return ports, err
	}
	if _, err := fmt.Sscan(string(text), &ports.From, &ports.To); err != nil {
		return ports, fmt.Errorf("read %s: %q is not a range of ports", file, text)
	}
	return ports, nil
}

// adviseOn warns about what users may not expect of a table that is, or is to
// be, in force.
func (p *cli) adviseOn(h *ruleset.Handle, plan *ruleset.Plan, conf *config.Config, facts route.Facts) {
	p.warnStuck(stuckTexts(plan.Stuck))
	warnings := facts.Doubts()
	for _, l := range p.listenersOn(plan.Table.Traps()) {
		warnings = append(warnings, l.String())
	}
	for _, w := range warnings {
		p.warn("%s", w)
	}
	p.adviseAllowing(h, plan, conf, facts)
}
