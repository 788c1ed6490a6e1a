package main

import (
	"github.com/portmon/portmon/ruleset"
)

// restore measures how long it takes to put bans back into a new table, and to
// save them.
func restore(b *bench, t *scope) (*table, error) {
	tab := newContest("Restore and save bans", "`nft`")
	tab.note = "Restoring begins with no table and ends with all bans in it. nft loads a file with the table and the bans."
	rounds := min(b.count, 5) // it takes a while
	addrs := randomAddrs(manyBans)
	file, err := b.file("restore.nft", compile(measured()).String()+elementsText(addrs))
	if err != nil {
		return nil, err
	}
	toml, err := b.watchConfig("")
	if err != nil {
		return nil, err
	}
	g, err := newTarget(t, portmonTable)
	if err != nil {
		return nil, err
	}
	if err := g.fill(banSet(false), addrs); err != nil {
		return nil, err
	}
	if _, err := measure(g.host(), []string{b.portmon, "save", "--config", toml}); err != nil {
		return nil, err
	}
	remove := func() error { _, err := ruleset.Remove(g.conn, "portmon"); return err }
	// whole is a command after which all bans must be there.
	whole := func(command ...string) func() (usage, error) {
		return func() (usage, error) {
			u, err := measure(g.host(), command)
			if err == nil {
				err = wantCount(g.conn, banSet(false).Name, manyBans)
			}
			return u, err
		}
	}
	work := thousands(manyBans) + " bans"
	err = tab.contest("restore "+work, rounds, []runner{
		{"`nft -f`", g.host(), remove, nil, whole("nft", "-f", file)},
		{"`portmon apply`", g.host(), remove, nil, whole(b.portmon, "apply", "--config", toml)},
	})
	if err != nil {
		return nil, err
	}
	return tab, tab.contest("save "+work, rounds, []runner{
		{"`nft list table`", g.host(), nil, pipeline("nft", "list", "table", "inet", "portmon"), nil},
		{"`portmon save`", g.host(), nil, pipeline(b.portmon, "save", "--config", toml), nil},
	})
}
