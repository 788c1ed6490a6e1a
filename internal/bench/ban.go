package main

import (
	"iter"

	"github.com/portmon/portmon/nftset"
	"github.com/portmon/portmon/ruleset"
)

// manyBans is how many bans are added: as many as the sets of the default take.
const manyBans = 65536

// ban measures how long it takes to add bans. No command of portmon does just
// that; the library is measured, in the two ways in which it is used: Renew is
// for bans that may be there already, on kernels of any age, and does thrice
// the work.
func ban(b *bench, t *scope) (*table, error) {
	tab := newContest("Add bans with timeouts", "`nft -f`")
	addrs := randomAddrs(manyBans)
	nft, err := b.file("bans.nft", elementsText(addrs))
	if err != nil {
		return nil, err
	}
	g, err := newTarget(t, portmonTable)
	if err != nil {
		return nil, err
	}
	fresh := func() error {
		if _, err := ruleset.Remove(g.conn, "portmon"); err != nil {
			return err
		}
		return apply(g.host(), measured())
	}
	with := func(add func(*nftset.Conn, *nftset.Set, iter.Seq[nftset.Element]) error) func() (usage, error) {
		return func() (usage, error) {
			return measureSelf(func() error { return add(g.conn, banSet(false), elements(addrs)) })
		}
	}
	return tab, tab.contest("65,536 bans", b.count, []runner{
		{"`nft -f`", g.host(), fresh, pipeline("nft", "-f", nft), nil},
		{"`nftset`, Add", g.host(), fresh, nil, with((*nftset.Conn).AddSeq)},
		{"`nftset`, Renew", g.host(), fresh, nil, with((*nftset.Conn).RenewSeq)},
	})
}
