package main

import (
	"bufio"
	"fmt"
	"net/netip"
	"os"
	"strings"

	"github.com/portmon/portmon/netnstest"
	"github.com/portmon/portmon/nftset"
	"github.com/portmon/portmon/ruleset"
)

// manyBans is how many bans are added: as many as the sets of the default take.
const manyBans = 65536

// ban measures how long it takes to add bans that are in a file. Of portmon it is what restores bans that is measured, by itself.
func ban(b *bench, t *scope) (*table, error) {
	tab := newContest("Add bans with timeouts", "`nft -f`")
	addrs := randomAddrs(manyBans)
	nft, err := b.file("bans.nft", elementsText(addrs))
	if err != nil {
		return nil, err
	}
	var lines strings.Builder
	for _, a := range addrs {
		fmt.Fprintln(&lines, a)
	}
	plain, err := b.file("bans.txt", lines.String())
	if err != nil {
		return nil, err
	}
	h := netnstest.NewHost(t, "host")
	c, err := open(t, h)
	if err != nil {
		return nil, err
	}
	fresh := func() error {
		if _, err := ruleset.Remove(c, "portmon"); err != nil {
			return err
		}
		_, err := ruleset.Apply(c, ruleset.Default())
		return err
	}
	return tab, tab.contest("65,536 bans", b.count, []runner{
		{"`nft -f`", h, fresh, pipeline("nft", "-f", nft)},
		{"`nftset`", h, fresh, pipeline("/proc/self/exe", "add", plain)},
	})
}

// add reads addresses from a file, one a line, and bans them.
func add(args []string) error {
	file, err := os.Open(args[0])
	if err != nil {
		return err
	}
	defer file.Close()
	c, err := nftset.Dial(nil)
	if err != nil {
		return err
	}
	defer c.Close()
	lines := bufio.NewScanner(file)
	var bad error
	err = c.Add(firstTier, func(yield func(nftset.Element) bool) {
		for lines.Scan() {
			a, err := netip.ParseAddr(lines.Text())
			if err != nil {
				bad = err
				return
			}
			if !yield(element(a)) {
				return
			}
		}
		bad = lines.Err()
	})
	if bad != nil {
		return bad
	}
	return err
}
