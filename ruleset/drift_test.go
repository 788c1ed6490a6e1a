package ruleset

import (
	"fmt"
	"strings"
	"testing"

	"github.com/portmon/portmon/internal/lab"
	"github.com/portmon/portmon/netnstest"
)

// TestDriftIsRepaired has somebody edit the table.
func TestDriftIsRepaired(t *testing.T) {
	t.Parallel()
	handle := func(l *fixture, chain, rule string) string { // of the first rule with that text
		l.T.Helper()
		for line := range strings.Lines(l.NFT("", "-a", "list", "chain", "inet", "portmon", chain)) {
			if text, h, ok := strings.Cut(strings.TrimSpace(line), " # handle "); ok && strings.Contains(text, rule) {
				return h
			}
		}
		l.T.Fatalf("no rule of chain %s has %q", chain, rule)
		return ""
	}
	run := func(script string) func(*fixture) { return func(l *fixture) { l.NFT(script) } }
	deleteRule := func(chain, rule string) func(*fixture) {
		return func(l *fixture) {
			l.NFT(fmt.Sprintf("delete rule inet portmon %s handle %s", chain, handle(l, chain, rule)))
		}
	}
	replaceRule := func(chain, rule, by string) func(*fixture) {
		return func(l *fixture) {
			l.NFT(fmt.Sprintf("replace rule inet portmon %s handle %s %s", chain, handle(l, chain, rule), by))
		}
	}
	const full = `add @ban4 { ip saddr timeout 10m } counter` // the rule for when there is no room to remember
	for name, tt := range map[string]struct {
		drift  func(l *fixture)
		lost   bool // are bans lost with it?
		silent bool // is it nothing that Apply sees?
	}{
		"a rule is deleted":          {drift: deleteRule(chainExempt, "socket transparent 0")},
		"the last rule is deleted":   {drift: deleteRule(chainOffence, `counter name "full"`)},
		"the sealed rule is deleted": {drift: deleteRule(chainGuard, "goto banned")},
		"a rule is replaced":         {drift: replaceRule(chainBanned, "ct direction reply", "ct direction original accept")},
		"a lookup is inverted":       {drift: replaceRule(chainExempt, "ip saddr @whitelist4", "ip saddr != @whitelist4 accept")},
		"a lookup is not inverted":   {drift: replaceRule(chainEarlyOpening, "ip saddr != @ban4", "ip saddr @ban4 accept")},
		"a comparison is inverted":   {drift: replaceRule(chainExempt, "iif", `iif != "lo" accept`)},
		"another flag of fib":        {drift: replaceRule(chainExempt, "fib saddr type local", "fib daddr type local accept")},
		"a mask is another":          {drift: replaceRule(chainOffence+"6", `counter name "dropped"`, `ip6 saddr & ffff:ffff:ffff:: @ban6 counter name "dropped" drop`)},
		"another timeout":            {drift: replaceRule(chainOffence, full, `add @ban4 { ip saddr timeout 1m } counter name banned drop`)},
		"only another timeout":       {drift: replaceRule(chainOffence, full, `add @ban4 { ip saddr timeout 1m } counter name "banned" goto ban_1`)},
		"update instead of add":      {drift: replaceRule(chainOffence, full, `update @ban4 { ip saddr timeout 10m } counter name "banned" goto ban_1`)},
		"another rate":               {drift: replaceRule(chainOffence, "held_back", `limit rate over 80/second burst 8192 packets counter name "held_back" drop`)},
		"another burst":              {drift: replaceRule(chainOffence, "held_back", `limit rate over 81/second burst 8191 packets counter name "held_back" drop`)},
		"another threshold": {drift: replaceRule(chainScan, "add @score4",
			`add @probed4 { ip saddr . th dport timeout 1d } add @score4 { ip saddr timeout 1d limit rate over 1/week burst 5 packets } counter name "scanned" goto offence`)},
		"another pair of keys":          {drift: replaceRule(chainScan, "ip saddr . th dport @probed4", `ip daddr . th dport @probed4 accept`)},
		"another log group":             {drift: replaceRule(chainBan(1), "portmon trap 1", `tcp dport @trap_tcp log prefix "portmon trap 1" group 514 snaplen 64 queue-threshold 16 drop`)},
		"another log prefix":            {drift: replaceRule(chainBan(1), "portmon trap 1", `tcp dport @trap_tcp log prefix "portmon trap 2" group 513 snaplen 64 queue-threshold 16 drop`)},
		"another counter":               {drift: replaceRule(chainBanned, "counter name", "counter name full drop")},
		"another verdict":               {drift: replaceRule(chainBanned, "counter name", "counter name dropped accept")},
		"another chain to go to":        {drift: replaceRule(chainGuard, "udp dport", "udp dport @trap_udp goto banned")},
		"jump for goto":                 {drift: replaceRule(chainGuard, "udp dport", "udp dport @trap_udp jump trap_udp")},
		"a rule more, at the beginning": {drift: run("insert rule inet portmon guard accept")},
		"a rule more, at the end":       {drift: run("add rule inet portmon ban_1 accept")},
		"a comment":                     {drift: replaceRule(chainGuard, "goto banned", `goto banned comment "portmon 0123456789abcdef /64"`)},
		"rules in another order": {drift: func(l *fixture) {
			deleteRule(chainExempt, "iif")(l)
			l.NFT(fmt.Sprintf(`add rule inet portmon exempt handle %s iif "lo" accept`, handle(l, chainExempt, "ct direction")))
		}},
		"a question that nobody asked":     {drift: run("insert rule inet portmon guard ip saddr @net4 goto banned")},
		"a base chain is flushed":          {drift: run("flush chain inet portmon guard")},
		"a base chain is deleted":          {drift: run("flush chain inet portmon early; delete chain inet portmon early")},
		"all chains are deleted":           {drift: func(l *fixture) { l.deleteChains() }},
		"a base chain at another priority": {drift: run("flush chain inet portmon guard; delete chain inet portmon guard; add chain inet portmon guard { type filter hook prerouting priority 10; policy accept; }")},
		"a base chain at another hook":     {drift: run("flush chain inet portmon guard; delete chain inet portmon guard; add chain inet portmon guard { type filter hook forward priority -99; policy accept; }")},
		"a base chain of another type":     {drift: run("flush chain inet portmon guard; delete chain inet portmon guard; add chain inet portmon guard { type nat hook prerouting priority -99; policy accept; }")},
		"a base chain that is none":        {drift: run("flush chain inet portmon early; delete chain inet portmon early; add chain inet portmon early")},
		"another policy":                   {drift: run("add chain inet portmon guard { policy drop; }")},
		"a chain more":                     {drift: run("add chain inet portmon more { type filter hook prerouting priority -400; policy drop; }; add rule inet portmon more accept")},
		"a chain more that is used":        {drift: run("add chain inet portmon more; add rule inet portmon more accept; insert rule inet portmon guard jump more")},
		"chains more that lead to another": {drift: run("add chain inet portmon more; add chain inet portmon most; add rule inet portmon more jump most; add rule inet portmon most jump banned")},
		"the whitelist is flushed":         {drift: run("flush set inet portmon whitelist4")},
		"a whitelist entry is deleted":     {drift: run("delete element inet portmon whitelist6 { fc00::/7 }")},
		"a whitelist entry more":           {drift: run("add element inet portmon whitelist4 { 203.0.113.0/24 }")},
		"a trap port is deleted":           {drift: run("delete element inet portmon trap_tcp { 23 }")},
		"a trap port more":                 {drift: run("add element inet portmon trap_udp { 7, 8, 9 }")},
		"an ignored port more":             {drift: run("add element inet portmon ignore_tcp { 22 }")},
		"a prefix of single addresses":     {drift: run("add element inet portmon single6 { 2001:db8::/32 }")},
		"the trap ports are intervals": {drift: func(l *fixture) {
			l.deleteChains()
			l.NFT("delete set inet portmon trap_tcp; add set inet portmon trap_tcp { type inet_service; flags interval; elements = { 23, 5900-5910 }; }")
		}},
		"the whitelist has timeouts": {drift: func(l *fixture) {
			l.deleteChains()
			l.NFT("delete set inet portmon whitelist4; add set inet portmon whitelist4 { type ipv4_addr; flags timeout; elements = { 203.0.113.7 timeout 1h }; }")
		}},
		"the memory of a step is deleted": {drift: func(l *fixture) { l.deleteChains(); l.NFT("delete set inet portmon tier6_3") }},
		"the sets of prefixes are deleted": {drift: func(l *fixture) {
			l.deleteChains()
			l.NFT("delete set inet portmon net4; delete set inet portmon net6")
		}},
		"a counter is deleted":      {drift: func(l *fixture) { l.deleteChains(); l.NFT("delete counter inet portmon trapped") }},
		"all bans are deleted":      {drift: run("flush set inet portmon ban4; flush set inet portmon ban6"), lost: true, silent: true},
		"all memory is deleted":     {drift: run("flush set inet portmon tier4_1; flush set inet portmon tier6_1"), silent: true},
		"the table is made dormant": {drift: run("add table inet portmon { flags dormant; }")},
		"dormant, and without a chain": {drift: func(l *fixture) {
			l.NFT("flush chain inet portmon early; delete chain inet portmon early")
			l.NFT("add table inet portmon { flags dormant; }")
		}},
		"the table is deleted":           {drift: run("delete table inet portmon"), lost: true},
		"nft flush ruleset":              {drift: run("flush ruleset"), lost: true},
		"sets of hits from another time": {drift: run("add set inet portmon hits4 { type ipv4_addr; flags dynamic,timeout; timeout 1m; size 7; }")},
		"a step that the ladder has not": {drift: run("add set inet portmon tier4_7 { type ipv4_addr; flags dynamic,timeout; timeout 1m; size 7; }")},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newTrap(t, trapSpec())
			want := l.list("-t")
			l.families(func(l *fixture, f family) { l.Offend(l.source(f)) })
			bans := len(l.bans())
			tt.drift(l)

			if p := l.prepare(trapSpec()); p.Empty() != tt.silent {
				t.Errorf("Prepare finds this to do:\n%s", p)
			}
			l.apply(trapSpec())
			if d := difference(canonical(l.list("-t")), canonical(want)); d != "" {
				t.Errorf("the ruleset is another:\n%s", d)
			}
			if p := l.prepare(trapSpec()); !p.Empty() {
				t.Errorf("there is more to do:\n%s", p)
			}
			if tt.lost {
				bans = 0
			}
			if n := len(l.bans()); n != bans {
				t.Errorf("%d bans, want %d", n, bans)
			}
			l.families(func(l *fixture, f family) { l.offendAndCut(f) })
			l.Want(l.SYN(addr("172.17.0.9"), lab.TrapTCP), netnstest.AnswerRST) // whitelisted
			generation := l.generation()
			l.apply(trapSpec())
			if g := l.generation(); g != generation {
				t.Errorf("a second Apply made generation %d of %d", g, generation)
			}
		})
	}
}

// deleteChains deletes all chains of the table, so that what they refer to can
// be deleted.
func (l *fixture) deleteChains() {
	l.T.Helper()
	var script strings.Builder
	for _, verb := range []string{"flush", "delete"} {
		for _, c := range l.open().Chains {
			fmt.Fprintf(&script, "%s chain inet portmon %s\n", verb, c.Name)
		}
	}
	l.NFT(script.String())
}

// TestWhatIsNotOursStays has sets, maps and objects of somebody in our table.
// Chains are ours.
func TestWhatIsNotOursStays(t *testing.T) {
	t.Parallel()
	l := newTrap(t, trapSpec())
	l.NFT(`
add set inet portmon mine { type ipv4_addr; flags timeout; elements = { 198.51.100.7 }; }
add set inet portmon ban4_2 { type ipv4_addr; flags timeout; elements = { 198.51.100.22 }; }
add set inet portmon tier4_9 { type ipv4_addr; flags timeout; elements = { 198.51.100.9 }; }
add map inet portmon ports { type inet_service : ipv4_addr; elements = { 80 : 198.51.100.8 }; }
add counter inet portmon mine { packets 7 bytes 8 }
add quota inet portmon theirs { over 100 bytes used 7 bytes }`)
	before := l.list("-a")
	if p := l.prepare(trapSpec()); !p.Empty() {
		t.Errorf("there is something to do:\n%s", p)
	}
	other := trapSpec()
	other.MaxRetry = 3
	l.apply(other)
	l.apply(trapSpec())
	for _, what := range []string{"set mine", "198.51.100.7", "set tier4_9", "198.51.100.9", "set ban4_2", "198.51.100.22", "map ports", "80 : 198.51.100.8", "counter mine", "packets 7 bytes 8", "quota theirs"} {
		if !strings.Contains(l.list(), what) {
			t.Errorf("%q is gone: the ruleset is\n%s\nand was\n%s", what, l.list(), before)
		}
	}
}

func TestApplyIsIdempotent(t *testing.T) {
	t.Parallel()
	for name, spec := range specs() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			first := l.apply(spec)
			if first.Empty() || !first.Created {
				t.Error("the first Apply did nothing, or did not create the table")
			}
			generation, list := l.generation(), l.rules("-a")
			for range 3 {
				r := l.apply(spec)
				if !r.Empty() || r.Created || len(r.Summary()) != 0 {
					t.Errorf("Apply again did something:\n%s", r)
				}
			}
			if g := l.generation(); g != generation {
				t.Errorf("generation %d, was %d", g, generation)
			}
			if got := l.rules("-a"); got != list {
				t.Errorf("the ruleset changed:\n%s", difference(got, list))
			}
		})
	}
}
