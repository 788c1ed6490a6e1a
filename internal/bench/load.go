package main

import (
	"fmt"
	"strings"

	"github.com/portmon/portmon/netnstest"
	"github.com/portmon/portmon/ruleset"
)

// configuration is the default with more prefixes whitelisted, as portmon and
// as nft read it.
type configuration struct {
	toml string // names of files
	nft  string
}

// reloading begins a file that nft can load again and again: it replaces the
// rules, and leaves the sets.
const reloading = "add table inet portmon\nflush table inet portmon\n"

func (b *bench) configuration(whitelist int) (c configuration, err error) {
	prefixes := randomPrefixes(whitelist)
	spec := measured()
	spec.Whitelist = append(spec.Whitelist, prefixes...)
	if c.nft, err = b.file("table.nft", reloading+compile(spec).String()); err != nil {
		return c, err
	}
	var list strings.Builder
	for _, p := range prefixes {
		fmt.Fprintln(&list, p)
	}
	file, err := b.file("whitelist.txt", list.String())
	if err != nil {
		return c, err
	}
	c.toml, err = b.file("portmon.toml", fmt.Sprintf("whitelist_files = [%q]\n", file))
	return c, err
}

// loads are what is installed: what a host has that has no configuration, and
// one with a long whitelist.
var loads = []struct {
	name      string
	whitelist int
}{
	{"default", 0},
	{"100,000 prefixes whitelisted", 100_000},
}

// load measures how long it takes to install the table where there was none.
func load(b *bench, t *scope) (*table, error) {
	tab := newContest("Install the table", "`nft -f`")
	for _, l := range loads {
		c, err := b.configuration(l.whitelist)
		if err != nil {
			return nil, err
		}
		h := netnstest.NewHost(t, "host")
		conn, err := open(t, h)
		if err != nil {
			return nil, err
		}
		remove := func() error { _, err := ruleset.Remove(conn, "portmon"); return err }
		err = tab.contest(l.name, b.count, []runner{
			{"`nft -f`", h, remove, pipeline("nft", "-f", c.nft), nil},
			{"`portmon apply`", h, remove, pipeline(b.portmon, "apply", "--config", c.toml), nil},
		})
		if err != nil {
			return nil, err
		}
	}
	return tab, nil
}

// unchanged measures how long it takes to find out that there is nothing to do,
// beside what nft does with the same file.
func unchanged(b *bench, t *scope) (*table, error) {
	tab := newContest("Apply what is in force already", "`nft -f`", "`nft list`")
	for _, l := range loads {
		c, err := b.configuration(l.whitelist)
		if err != nil {
			return nil, err
		}
		// On hosts of their own: to portmon, what nft loaded is not what
		// portmon would have.
		h, other := netnstest.NewHost(t, "portmon"), netnstest.NewHost(t, "nft")
		runners := []runner{
			{"`nft -f`", other, nil, pipeline("nft", "-f", c.nft), nil},
			{"`nft list table`", other, nil, pipeline("nft", "list", "table", "inet", "portmon"), nil},
			{"`portmon apply`", h, nil, pipeline(b.portmon, "apply", "--config", c.toml), nil},
		}
		for _, r := range runners {
			if _, err := measure(r.host, r.pipeline...); err != nil {
				return nil, fmt.Errorf("%s: %w", r.name, err)
			}
		}
		if err := tab.contest(l.name, b.count, runners); err != nil {
			return nil, err
		}
	}
	return tab, nil
}
