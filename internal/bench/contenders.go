package main

import (
	_ "embed"

	"github.com/portmon/portmon/netnstest"
	"github.com/portmon/portmon/ruleset"
)

// seed is the table as people write it by hand.
//
//go:embed seed.nft
var seed string

// tracked turns conntrack on, as nearly every host has it, by a rule that any firewall begins with.
const tracked = `table inet filter {
	chain input {
		type filter hook input priority filter; policy accept;
		ct state invalid counter
	}
}
`

// withText is the contender whose table nft loads.
func withText(name, text string) contender {
	return contender{name, true, func(h *netnstest.Host) error { return loadNFT(h, tracked+text) }}
}

var (
	noTable   = contender{"no table", false, func(h *netnstest.Host) error { return loadNFT(h, tracked) }}
	seedTable = withText("hand-written table", seed)
	// portmonTable is what portmon installs when it has no configuration.
	portmonTable = contender{"portmon", true, func(h *netnstest.Host) error {
		if err := loadNFT(h, tracked); err != nil {
			return err
		}
		return apply(h, ruleset.Default())
	}}
)
