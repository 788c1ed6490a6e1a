package main

import (
	"bufio"
	"errors"
	"fmt"
	"iter"
	"net/netip"
	"os"
	"strings"

	"github.com/portmon/portmon/netnstest"
	"github.com/portmon/portmon/nftset"
	"github.com/portmon/portmon/ruleset"
)

// manyBans is how many bans are added: as many as the sets of the default take.
const manyBans = 65536

// ban measures how long it takes to add bans that are in a file. No command of portmon does just that; the library is measured, in
// the two ways in which it is used: Renew is for bans that may be there already, on kernels of any age, and does thrice the work.
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
		{"`nft -f`", h, fresh, pipeline("nft", "-f", nft), nil},
		{"`nftset`, Add", h, fresh, pipeline("/proc/self/exe", "add", plain), nil},
		{"`nftset`, Renew", h, fresh, pipeline("/proc/self/exe", "renew", plain), nil},
	})
}

func add(args []string) error   { return banFrom(args[0], (*nftset.Conn).Add) }
func renew(args []string) error { return banFrom(args[0], (*nftset.Conn).Renew) }

// banFrom reads addresses from a file, one a line, and bans them.
func banFrom(name string, ban func(*nftset.Conn, *nftset.Set, iter.Seq[nftset.Element]) error) error {
	file, err := os.Open(name)
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
	err = ban(c, firstTier, func(yield func(nftset.Element) bool) {
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
	return errors.Join(bad, err)
}
