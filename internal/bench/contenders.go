package main

import (
	_ "embed"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/portmon/portmon/netnstest"
	"github.com/portmon/portmon/nftset"
	"github.com/portmon/portmon/ruleset"
)

// contender is one of those that are measured beside each other: a name, and
// what puts its ruleset into a host.
type contender struct {
	name    string
	install func(*netnstest.Host) error
}

// seed is the table as people write it by hand, and seed6 the same table with
// bans of IPv6 too, which is what portmon is fairly compared to.
var (
	//go:embed seed.nft
	seed string
	//go:embed seed6.nft
	seed6 string
)

// tracked turns conntrack on, as nearly every host has it, by a rule that any
// firewall begins with.
const tracked = `table inet filter {
	chain input {
		type filter hook input priority filter; policy accept;
		ct state invalid counter
	}
}
`

// withText is the contender whose table nft loads.
func withText(name, text string) contender {
	return contender{name, func(h *netnstest.Host) error { return loadNFT(h, tracked+text) }}
}

var (
	noTable    = withText("no table", "")
	seedTable  = withText("hand-written table", seed)
	seed6Table = withText("the same with IPv6 bans", seed6)
	// portmonTable is what portmon installs when it has no configuration.
	portmonTable = contender{"portmon", func(h *netnstest.Host) error {
		if err := loadNFT(h, tracked); err != nil {
			return err
		}
		return apply(h, measured())
	}}
)

// contenders are those that packets are measured with: these, and the tables
// that the program was given.
func (b *bench) contenders() ([]contender, error) {
	all := []contender{noTable, seedTable, seed6Table, portmonTable}
	for _, name := range b.tables {
		text, err := os.ReadFile(name)
		if err != nil {
			return nil, err
		}
		all = append(all, withText(filepath.Base(name), string(text)))
	}
	return all, nil
}

// apply installs the table of a Spec as portmon does.
func apply(h *netnstest.Host, spec ruleset.Spec) error {
	c, err := nftset.Dial(&nftset.Config{NetNS: h.FD()})
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = ruleset.Apply(c, spec)
	return err
}

// loadNFT has nft load a ruleset into a host.
func loadNFT(h *netnstest.Host, text string) (err error) {
	h.Do(func() {
		cmd := exec.Command("nft", "-f", "-")
		cmd.Stdin = strings.NewReader(text)
		if out, e := cmd.CombinedOutput(); e != nil {
			err = fmt.Errorf("nft -f: %w: %.500s", e, out)
		}
	})
	return err
}
