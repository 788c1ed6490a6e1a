package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/portmon/portmon/netnstest"
	"github.com/portmon/portmon/ruleset"
)

// parts measures what each part of portmon's table costs: the table without it, or with something else in its place. Files that the
// program was given are measured with them.
func parts(b *bench, _ *scope) (*table, error) {
	all := slices.Concat([]contender{noTable, seedTable, portmonTable}, variants())
	for _, name := range b.tables {
		text, err := os.ReadFile(name)
		if err != nil {
			return nil, err
		}
		all = append(all, withText(filepath.Base(name), string(text)))
	}
	t, err := comparePackets(b, "What the parts of the table cost", all)
	if err != nil {
		return nil, err
	}
	t.note += " The last ones are loaded by nft, which makes a rule load the source anew for each set that it asks: compare them to " +
		"portmon's table as loaded by nft."
	return t, nil
}

// ladder returns the default with the first n tiers.
func ladder(n int) ruleset.Spec {
	s := ruleset.Default()
	s.BanTime = s.BanTime[:n]
	return s
}

func variants() []contender {
	text := compile(ruleset.Default()).String()
	return []contender{
		{"hand-written table, connection tracking off", true, func(h *netnstest.Host) error { return loadNFT(h, seed) }},
		withText("portmon, loaded by nft", text),
		withText("two tiers", compile(ladder(2)).String()),
		withText("one tier", compile(ladder(1)).String()),
		withText("without chain early", without(text, "early")),
		withText("without chain trap", without(text, "trap")),
		withText("trap ports without ranges", hashed(text)),
	}
}

// without takes a chain out of a table that nothing else leads to.
func without(table, chain string) string {
	return regexp.MustCompile(`(?ms)^\tchain `+chain+` \{$.*?^\t\}$`).ReplaceAllString(table, "")
}

// hashed makes the set of trap ports one of single ports, which the kernel keeps in another structure.
func hashed(table string) string {
	set := regexp.MustCompile(`(?ms)^\tset trap_tcp \{$.*?^\t\}$`)
	return set.ReplaceAllStringFunc(table, func(s string) string {
		s = strings.Replace(s, "\t\tflags interval\n", "", 1)
		return regexp.MustCompile(`\d+-\d+`).ReplaceAllStringFunc(s, func(r string) string {
			var from, to int
			fmt.Sscanf(r, "%d-%d", &from, &to)
			var ports []string
			for p := from; p <= to; p++ {
				ports = append(ports, fmt.Sprint(p))
			}
			return strings.Join(ports, ", ")
		})
	})
}
