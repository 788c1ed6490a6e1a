package ruleset

import (
	"crypto/sha256"
	"encoding/hex"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/nftset"
)

// alwaysWhitelisted are loopback and link-local. Link-local sources have no route that a /64 of theirs would mean anything to, and
// neighbour discovery and DHCP come from them.
var alwaysWhitelisted = []netip.Prefix{
	netip.MustParsePrefix("127.0.0.0/8"),
	netip.MustParsePrefix("169.254.0.0/16"),
	netip.MustParsePrefix("::1/128"),
	netip.MustParsePrefix("fe80::/10"),
}

// Priorities of the base chains.
const (
	// earlyPriority is that of nft's "raw": before conntrack (-200), whose work for the SYN of a banned source is saved.
	earlyPriority = -300
	// guardPriority is after conntrack, which tells replies from requests, and before mangle (-150) and dstnat (-100): it sees
	// local and forwarded packets alike.
	guardPriority = -190
	// trapPriority is before the filter chains (0) of everybody else, so that they need not let trap packets in.
	trapPriority = -10
)

// Compile makes the table of a valid Spec for a kernel with these features. retired are the ban sets of tiers that the Spec no longer
// has and that still hold bans: they stay, and are still asked.
func Compile(s Spec, f Features, retired []nftset.Set) *Table {
	t := &Table{
		Table:    nftset.Table{Family: nftset.FamilyINet, Name: s.Table},
		Counters: []string{counterTrapped, counterBanned, counterFull, counterDropped},
		Prefix6:  s.Prefix6,
	}
	t.compileSets(s, retired)
	t.Chains = []Chain{
		{Name: chainSources, Rules: t.sourceRules(s)},
		{Name: chainEarly, Hook: &Hook{"prerouting", unix.NF_INET_PRE_ROUTING, earlyPriority}, Rules: []Rule{
			// A SYN is never the reply to anything of ours, so that there is no need to wait for conntrack's opinion.
			{statements: []statement{tcpFlags("tcp flags & (fin | syn | rst | ack) == syn", tcpFIN|tcpSYN|tcpRST|tcpACK, tcpSYN), goTo(chainSources)}},
		}},
		{Name: chainGuard, Hook: &Hook{"prerouting", unix.NF_INET_PRE_ROUTING, guardPriority}, Rules: []Rule{
			{statements: []statement{goTo(chainSources)}},
		}},
		{Name: chainBanned, Rules: bannedRules()},
		{Name: chainTrap, Hook: &Hook{"input", unix.NF_INET_LOCAL_IN, trapPriority}, Rules: trapRules(s)},
		{Name: chainOffence, Rules: offenceRules(s, f)},
		{Name: chainBan, Rules: banRules(s, f)},
	}
	t.seal()
	return t
}

func (t *Table) compileSets(s Spec, retired []nftset.Set) {
	whitelist := make(map[nftset.KeyType][]nftset.Interval)
	for _, p := range append(alwaysWhitelisted[:len(alwaysWhitelisted):len(alwaysWhitelisted)], s.Whitelist...) {
		iv := nftset.FromPrefix(p)
		whitelist[iv.From.Type()] = append(whitelist[iv.From.Type()], iv)
	}
	for _, f := range families {
		t.static(f.whitelist(), f.key, whitelist[f.key])
	}
	for _, f := range families {
		for i, timeout := range s.BanTime {
			flags := nftset.FlagTimeout
			if i == 0 {
				flags |= nftset.FlagDynamic // the packet path bans for the first time; the watcher does the rest
			}
			t.add(nftset.Set{Name: f.ban(i + 1), Type: f.key, Flags: flags, Timeout: timeout, Size: s.Size})
		}
		for _, r := range retired {
			if r.Type == f.key {
				t.add(nftset.Set{Name: r.Name, Type: r.Type, Flags: r.Flags, Timeout: r.Timeout, Size: r.Size})
			}
		}
	}
	for _, f := range families {
		t.add(nftset.Set{Name: f.net(), Type: f.key, Flags: nftset.FlagInterval | nftset.FlagTimeout})
	}
	for _, trap := range []struct {
		name  string
		ports []Ports
	}{{setTrapTCP, s.TrapTCP}, {setTrapUDP, s.TrapUDP}} {
		var ivs []nftset.Interval
		for _, p := range trap.ports {
			ivs = append(ivs, nftset.FromPorts(p.From, p.To))
		}
		t.static(trap.name, nftset.InetService, ivs)
	}
	for _, f := range families {
		if s.MaxRetry > 1 {
			t.add(nftset.Set{Name: f.hits(), Type: f.key, Flags: nftset.FlagTimeout | nftset.FlagDynamic, Timeout: s.FindTime, Size: s.Size})
		}
	}
}

func (t *Table) add(s nftset.Set) {
	s.Table = t.Table
	t.Sets = append(t.Sets, Set{Set: s})
}

func (t *Table) static(name string, key nftset.KeyType, ivs []nftset.Interval) {
	t.Sets = append(t.Sets, Set{
		Set:    nftset.Set{Table: t.Table, Name: name, Type: key, Flags: nftset.FlagInterval},
		Static: true, Elements: nftset.Merge(ivs),
	})
}

func rule(statements ...statement) Rule { return Rule{statements: statements} }

// sourceRules let everybody pass whose source no set holds: one rule for each family, because each rule, and each time that the
// source is loaded, costs an innocent packet as much as half a lookup.
func (t *Table) sourceRules(s Spec) []Rule {
	var rules []Rule
	for _, f := range families {
		var tiers []string
		for tier := MaxSteps; tier >= 1; tier-- {
			if t.set(f.ban(tier)) != nil {
				tiers = append(tiers, f.ban(tier))
			}
		}
		rules = append(rules, rule(f.inNone(tiers, f.net(), s.Prefix6), accept()))
	}
	return append(rules, rule(goTo(chainBanned)))
}

// bannedRules are asked only once a ban matched: the innocent do not pay for them.
func bannedRules() []Rule {
	rules := []Rule{
		rule(fromLoopback(), accept()),
		rule(isReply(), accept()),
		rule(isNeighbourDiscovery(), accept()),
	}
	for _, f := range families {
		rules = append(rules, rule(f.in(f.whitelist(), 128), accept()))
	}
	return append(rules, rule(count(counterDropped), drop()))
}

// trapRules send trap packets to judgement. Of TCP those are SYN, FIN, NULL and Xmas probes; what bears an ACK or RST may be the
// answer of a server to whom somebody sent packets in our name.
func trapRules(s Spec) []Rule {
	var rules []Rule
	if len(s.TrapTCP) > 0 {
		probe := tcpFlags("tcp flags & (rst | ack) == 0", tcpRST|tcpACK, 0)
		rules = append(rules, rule(probe.and(dportIn(unix.IPPROTO_TCP, setTrapTCP), 2), goTo(chainOffence)))
	}
	if len(s.TrapUDP) > 0 {
		rules = append(rules, rule(dportIn(unix.IPPROTO_UDP, setTrapUDP), goTo(chainOffence)))
	}
	return rules
}

// offenceRules let go whom we must not ban. What is left is a trap packet and is dropped in any case.
func offenceRules(s Spec, f Features) []Rule {
	rules := []Rule{
		rule(fromLoopback(), back()),
		rule(isReply(), back()),
	}
	for _, fam := range families {
		rules = append(rules, rule(fam.in(fam.whitelist(), 128), back()))
	}
	rules = append(rules,
		rule(fromOwnAddress(), back()),
		rule(toSocket(0), back()), // somebody listens: not a trap
		rule(toSocket(1), back()),
	)
	if f.ReversePath {
		rules = append(rules, rule(unroutable(), drop())) // surely spoofed
	}
	rules = append(rules, rule(count(counterTrapped)))
	if s.MaxRetry == 1 {
		return append(rules, rule(goTo(chainBan)))
	}
	for _, fam := range families {
		rules = append(rules, rule(fam.add(fam.hits(), s.Prefix6, s.FindTime, s.MaxRetry-1), goTo(chainBan)))
	}
	for _, fam := range families {
		rules = append(rules, rule(fam.notIn(fam.hits(), s.Prefix6), count(counterFull), drop()))
	}
	return append(rules, rule(drop())) // not often enough yet
}

// banRules ban. The drop that ends the chain is on its own: a full set ends the rule that adds to it.
func banRules(s Spec, f Features) []Rule {
	var rules []Rule
	for _, fam := range families {
		r := rule(fam.add(fam.ban(1), s.Prefix6, s.BanTime[0], 0), count(counterBanned))
		if f.Log {
			r.statements = append(r.statements, logTo(s.LogGroup, s.LogThreshold))
		}
		r.statements = append(r.statements, drop())
		rules = append(rules, r)
	}
	return append(rules, rule(count(counterFull), drop()))
}

// seal computes the digest and puts it into the comment of the guard's only rule: of all comments in a table only those of
// rules can change later.
func (t *Table) seal() {
	h := sha256.New()
	t.Write(h) // a hash never fails to write
	t.Digest = hex.EncodeToString(h.Sum(nil)[:8])
	for i := range t.Chains {
		if c := &t.Chains[i]; c.Name == chainGuard {
			c.Rules[0].comment = sealComment(t.Digest, t.Prefix6)
		}
	}
}
