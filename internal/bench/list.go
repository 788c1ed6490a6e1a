package main

import (
	"fmt"

	"github.com/portmon/portmon/netnstest"
	"github.com/portmon/portmon/ruleset"
)

// jq picks out of nft's JSON the addresses that are banned, as people do.
const jq = `.nftables[]|.set?|.elem?[]?.elem.val`

// list measures how long it takes to learn who is banned.
func list(b *bench, t *scope) (*table, error) {
	tab := newContest("List bans", "`nft`")
	for _, n := range []int{10_000, 100_000, 1_000_000} {
		count := b.count
		if n == 1_000_000 {
			if !b.long {
				continue
			}
			count = min(count, 2) // the kernel alone takes half a minute
		}
		h, err := withBans(t, n)
		if err != nil {
			return nil, err
		}
		err = tab.contest(thousands(n)+" bans", count, []runner{
			{"`nft -j list set \\| jq`", h, nil, [][]string{{"nft", "-j", "list", "set", "inet", "portmon", "ban4"}, {"jq", "-r", jq}}, nil},
			{"`portmon list`", h, nil, pipeline(b.portmon, "list"), nil},
			{"`portmon list --json`", h, nil, pipeline(b.portmon, "list", "--json"), nil},
			{"`portmon list --json --unsorted`", h, nil, pipeline(b.portmon, "list", "--json", "--unsorted"), nil},
			{"`portmon list --count`", h, nil, pipeline(b.portmon, "list", "--count"), nil},
		})
		if err != nil {
			return nil, err
		}
	}
	return tab, nil
}

// thousands writes a number of thousands as people do.
func thousands(n int) string {
	if n >= 1e6 {
		return thousands(n/1000) + ",000"
	}
	return fmt.Sprintf("%d,%03d", n/1000, n%1000)
}

// withBans makes a host whose table has n bans, in sets that are large enough.
func withBans(t *scope, n int) (*netnstest.Host, error) {
	h := netnstest.NewHost(t, "host")
	c, err := open(t, h)
	if err != nil {
		return nil, err
	}
	spec := measured()
	spec.Size = uint32(2 * n)
	if _, err := ruleset.Apply(c, spec); err != nil {
		return nil, err
	}
	return h, c.AddSeq(banSet(false), elements(randomAddrs(n)))
}
