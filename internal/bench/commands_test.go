package bench

import (
	"fmt"
	"strconv"
	"testing"

	"github.com/portmon/portmon/ruleset"
)

// loads are what is installed, by how many prefixes are whitelisted.
var loads = []int{0, 100_000}

// newLoad makes a host whose configuration whitelists that many prefixes, and a
// file for nft that replaces the rules of the same table and leaves its sets.
func newLoad(b *testing.B, whitelist int) (s *site, nft string) {
	v4, v6 := randomPrefixes(whitelist / *shrink / 2)
	spec := ruleset.Default()
	spec.Whitelist = append(append(spec.Whitelist, v4...), v6...)
	s = newSite(b, standard, fmt.Sprintf("whitelist_files = [%q]", file(b, lines(append(v4, v6...), ""))))
	return s, file(b, "add table inet portmon\nflush table inet portmon\n"+compile(spec))
}

// compile returns the table of a Spec on a kernel that can do everything.
func compile(spec ruleset.Spec) string {
	return ruleset.Compile(spec).String()
}

// BenchmarkLoad installs the table where there is none.
func BenchmarkLoad(b *testing.B) {
	t := newContest("Install the table", "`nft -f`")
	for _, whitelist := range loads {
		s, nft := newLoad(b, whitelist)
		t.contest(b, thousands(whitelist)+" prefixes whitelisted", *rounds,
			runner{"`nft -f`", s.remove, command(b, s.host, "nft", "-f", nft)},
			runner{"`portmon apply`", s.remove, s.portmon("apply")})
	}
	t.write()
}

// BenchmarkUnchanged finds out that there is nothing to do.
func BenchmarkUnchanged(b *testing.B) {
	t := newContest("Apply what is in force already", "`nft -f`")
	for _, whitelist := range loads {
		s, _ := newLoad(b, whitelist)
		other, nft := newLoad(b, whitelist) // what nft has loaded is not what portmon would have
		s.portmon("apply")()
		command(b, other.host, "nft", "-f", nft)()
		t.contest(b, thousands(whitelist)+" prefixes whitelisted", *rounds,
			runner{"`nft -f`", nil, command(b, other.host, "nft", "-f", nft)},
			runner{"`nft list table`", nil, command(b, other.host, "nft", "list", "table", "inet", "portmon")},
			runner{"`portmon apply`", nil, s.portmon("apply")})
	}
	t.write()
}

// BenchmarkBan adds bans.
func BenchmarkBan(b *testing.B) {
	t := newContest("Add bans with timeouts", "`nft -f`")
	s := newSite(b, 2*standard, "")
	bans := func(work string, n int, nft, list string) {
		t.contest(b, thousands(n)+work, *rounds,
			runner{"`nft -f`", s.renew, s.whole(n, command(b, s.host, "nft", "-f", file(b, nft)))},
			runner{"`portmon ban --file`", s.renew, s.whole(n, s.portmon("ban", "--for", "100h", "--file", file(b, list)))})
	}
	addrs := randomAddrs(size(standard))
	bans(" addresses", len(addrs), elementsText("ban4", addrs), lines(addrs, ""))
	v4, v6 := randomPrefixes(size(100_000) / 2)
	bans(" prefixes", 2*len(v4), elementsText("net4", v4)+elementsText("net6", v6), lines(append(v4, v6...), ""))
	t.write()
}

// BenchmarkList lists who is banned. The bare loop receives what the kernel
// sends and drops it.
func BenchmarkList(b *testing.B) {
	t := newContest("List bans", "bare receive loop")
	for i, n := range []int{10_000, 100_000, 500_000, 1_000_000} {
		if n == 1_000_000 && !*long {
			continue
		}
		s := newBanned(b, size(n))
		nft := []string{"nft", "-j", "list", "set", "inet", "portmon", "ban4", "|", "jq", "-r", ".nftables[]|.set?|.elem?[]?.elem.val"}
		t.contest(b, thousands(size(n))+" bans", []int{*rounds, *rounds, min(*rounds, 2), 1}[i],
			runner{"bare receive loop", nil, self(b, s.host, "dump")},
			runner{"`nft -j list set`, `jq`", nil, command(b, s.host, nft...)},
			runner{"`portmon list`", nil, s.portmon("list")},
			runner{"`portmon list --json`", nil, s.portmon("list", "--json")},
			runner{"`portmon list --count`", nil, s.portmon("list", "--count")})
	}
	t.write()
}

// BenchmarkAsk asks for one source of 500,000 that are banned.
func BenchmarkAsk(b *testing.B) {
	t := newContest("Ask for one source", "`nft`")
	s := newBanned(b, size(500_000))
	addr := randomAddrs(size(500_000))[size(500_000)/2].String()
	for _, watcher := range []string{"no watcher", "with a watcher"} {
		if watcher == "with a watcher" {
			s.watch()
		}
		t.contest(b, thousands(size(500_000))+" bans, "+watcher, *rounds,
			runner{"`nft get element`", nil, command(b, s.host, "nft", "get", "element", "inet", "portmon", "ban4", "{ "+addr+" }")},
			runner{"`portmon why`", nil, s.portmon("why", addr)},
			runner{"`portmon list ADDR`", nil, s.portmon("list", addr)})
	}
	t.write()
}

// BenchmarkRestore puts bans back into a new table. nft loads a file with the
// table and the bans.
func BenchmarkRestore(b *testing.B) {
	t := newContest("Restore bans", "`nft -f`")
	n := size(standard)
	s := newBanned(b, n)
	nft := file(b, compile(ruleset.Default())+elementsText("ban4", randomAddrs(n)))
	t.contest(b, thousands(n)+" bans", *rounds,
		runner{"`nft -f`", s.remove, s.whole(n, command(b, s.host, "nft", "-f", nft))},
		runner{"`portmon apply`", s.remove, s.whole(n, s.portmon("apply"))})
	t.write()
}

// BenchmarkKnown reads a million bans whose addresses are known.
func BenchmarkKnown(b *testing.B) {
	t := newContest("Read bans whose addresses are known", "a dump")
	n := size(1_000_000)
	s := newBanned(b, n)
	t.contest(b, thousands(n)+" bans", min(*rounds, 2),
		runner{"`nftset`, Elements", nil, self(b, s.host, "read", strconv.Itoa(n))},
		runner{"`nftset`, GetMany", nil, self(b, s.host, "getmany", strconv.Itoa(n))})
	t.write()
}
