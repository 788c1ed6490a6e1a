package main

import (
	"github.com/portmon/portmon/internal/config"
	"github.com/portmon/portmon/internal/route"
	"github.com/portmon/portmon/nftset"
	"github.com/portmon/portmon/ruleset"
)

// adviseOn warns of what the user may not expect of a table that is, or is to
// be, in force.
func (p *cli) adviseOn(r ruleset.Result, conf *config.Config, facts route.Facts) {
	for _, missing := range r.Features.Missing() {
		p.warn("%s", missing)
	}
	for _, doubt := range facts.Doubts() {
		p.warn("%s", doubt)
	}
	sockets, err := p.listeners()
	if err != nil {
		p.warn("look for listeners on trap ports: %v", err)
	}
	for _, l := range listenersOn(r.Table.Traps(), sockets) {
		p.warn("%s", l)
	}
	peer, ok := p.sshPeer()
	if !ok || r.Table.Whitelists(nftset.Addr(peer).Interval) {
		return
	}
	p.warn("you are connected by SSH from %s, which is not whitelisted: one packet from there to a trap port locks you out", peer)
	if conf.Source == "" {
		p.hint("`portmon config init`, then add %q to whitelist in %s", peer, config.DefaultPath)
	} else {
		p.hint("add %q to whitelist in %s", peer, conf.Source)
	}
}
