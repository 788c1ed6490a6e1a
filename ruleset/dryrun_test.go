package ruleset

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"maps"

	"github.com/portmon/portmon/internal/lab"
)

// TestNftChecksTables has nft check what Prepare writes, as an
// administrator does who wants to see it first, whatever is in force.
func TestNftChecksTables(t *testing.T) {
	t.Parallel()
	first, err := os.ReadFile(filepath.Join("testdata", "first-edition.nft"))
	if err != nil {
		t.Fatal(err)
	}
	large := Default()
	large.TrapTCP, large.TrapUDP = []Ports{{1, 65535}}, []Ports{{161, 161}, {1000, 9999}}
	other := Default()
	other.Prefix6, other.Subnet6, other.MaxRetry, other.BanTime = 56, 0, 3, other.BanTime[:1]
	other.Whitelist = append(slices.Clone(other.Whitelist), prefix("198.51.100.0/24"))
	bans := func(l *fixture) {
		l.apply(Default())
		l.put(someBans()...)
		l.put(Record{Source: prefix("2001:db8:77::/48"), Banned: true, Timeout: time.Hour, Remaining: time.Hour, Cause: CauseSubnet})
		for step, p := range []string{"198.51.100.2/32", "198.51.102.2/32", "2001:db8:9:9::/64"} {
			l.put(Record{Source: prefix(p), Step: step + 1, StepRemaining: time.Hour})
		}
	}
	inForce := map[string]func(l *fixture){
		"nothing":           func(*fixture) {},
		"tables of others":  func(l *fixture) { l.NFT(foreign) },
		"an empty table":    func(l *fixture) { l.NFT("add table inet portmon") },
		"the first edition": func(l *fixture) { l.NFT(string(first)) },
		"bans and steps":    bans,
		"large port sets":   func(l *fixture) { l.apply(large) },
		"no chains":         func(l *fixture) { bans(l); l.deleteChains() },
		"flushed chains": func(l *fixture) {
			bans(l)
			l.NFT("flush chain inet portmon guard; flush chain inet portmon early_opening; flush chain inet portmon exempt")
		},
		"a dormant table": func(l *fixture) { bans(l); l.NFT("add table inet portmon { flags dormant; }") },
		"somebody's chain": func(l *fixture) {
			bans(l)
			l.NFT("add chain inet portmon mine; add rule inet portmon mine accept; insert rule inet portmon guard jump mine")
		},
		"a set of other flags": func(l *fixture) {
			bans(l)
			l.deleteChains()
			l.NFT("delete set inet portmon whitelist6; add set inet portmon whitelist6 { type ipv6_addr; flags timeout; }; delete set inet portmon trap_tcp; add set inet portmon trap_tcp { type inet_service; flags interval; }")
		},
	}
	for name, spec := range specs() {
		inForce[name] = func(l *fixture) { l.apply(spec) }
	}
	for _, name := range slices.Sorted(maps.Keys(inForce)) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newBareLab(t)
			inForce[name](l)
			before, generation := l.rules("-a"), l.generation()
			for to, spec := range map[string]Spec{"default": Default(), "large": large, "other": other} {
				var b strings.Builder
				if err := l.prepare(spec).Write(&b); err != nil {
					t.Fatal(err)
				}
				plan := b.String()
				if out, err := lab.TryNFT(t, l.Host, plan, "--check", "-f", "-"); err != nil {
					t.Errorf("to %s: %v\n%s\nof\n%s", to, err, out, plan)
				}
			}
			if after := l.rules("-a"); after != before || l.generation() != generation {
				t.Errorf("the ruleset changed:\n%s", difference(after, before))
			}
		})
	}
}

// TestFromTheFirstEdition applies to a table of the first edition: its bans of
// the first step stay in force.
func TestFromTheFirstEdition(t *testing.T) {
	t.Parallel()
	first, err := os.ReadFile(filepath.Join("testdata", "first-edition.nft"))
	if err != nil {
		t.Fatal(err)
	}
	l := newLab(t)
	l.NFT(string(first))
	l.Offend(addr("198.51.100.1"), addr("2001:db8:1:1::1"))
	l.NFT(`
add element inet portmon net4 { 203.0.113.0/24 timeout 1h }
add element inet portmon net6 { 2001:db8:2::/48 timeout 1h }`)
	l.apply(trapSpec())
	l.wantBans("198.51.100.1", "2001:db8:1:1::/64", "203.0.113.0/24", "2001:db8:2::/48")
	l.Cut(addr("198.51.100.1"), addr("2001:db8:1:1::9"), addr("203.0.113.9"), addr("2001:db8:2:2::2"))
	l.families((*fixture).offendAndCut)
	if p := l.prepare(trapSpec()); !p.Empty() {
		t.Errorf("there is more to do:\n%s", p)
	}
	fresh := newLab(t)
	fresh.apply(trapSpec())
	for _, ch := range l.open().Chains {
		if fresh.open().chain(ch.Name) == nil {
			t.Errorf("chain %s is left of it", ch.Name)
		}
	}
}
