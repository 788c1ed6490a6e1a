package main

import (
	"strings"

	"github.com/portmon/portmon/nftset"
	"github.com/portmon/portmon/ruleset"
)

// What is measured, and all that the measurements know of its table.

// measured is the Spec: that of a host that has no configuration.
func measured() ruleset.Spec { return ruleset.Default() }

const (
	// portTrap is one of its trap ports.
	portTrap = 23
	// portScanned is the first of 20 ports that are closed. None of them is a
	// trap, and none is ignored.
	portScanned = 10_000
)

// banSet returns the set that holds who is banned, in portmon's table and in
// those written by hand.
func banSet(v6 bool) *nftset.Set {
	s := nftset.Set{
		Table: nftset.Table{Family: nftset.FamilyINet, Name: "portmon"},
		Name:  "ban4", Type: nftset.IPv4Addr, Flags: nftset.FlagDynamic | nftset.FlagTimeout,
	}
	if v6 {
		s.Name, s.Type = "ban6", nftset.IPv6Addr
	}
	return &s
}

// stepSet returns the set that remembers the sources that have offended once.
func stepSet(v6 bool) *nftset.Set {
	s := banSet(v6)
	s.Name = strings.Replace(s.Name, "ban", "tier", 1) + "_1"
	return s
}
