package ruleset

import (
	"slices"

	"golang.org/x/sys/unix"
)

// compiler makes the chains of a Spec.
type compiler struct {
	Spec
	Features
}

func rule(statements ...statement) Rule { return Rule{statements: statements} }

// chains returns all chains of the table, the base chains first.
func chains(s Spec, f Features, asked Asked) []Chain {
	c := compiler{s, f}
	prerouting := func(priority int32) *Hook { return &Hook{"prerouting", unix.NF_INET_PRE_ROUTING, priority} }
	out := []Chain{
		{Name: chainEarly, Hook: prerouting(earlyPriority), Rules: []Rule{rule(isOpening(), goTo(chainEarlyOpening))}},
		{Name: chainEarlyOpening, Rules: c.earlyRules()},
		{Name: chainGuard, Hook: prerouting(guardPriority), Rules: c.guardRules()},
		{Name: chainBanned, Rules: c.bannedRules()},
	}
	out = append(out, c.offenceChains()...)
	for _, f := range families {
		if !asked.net(f) {
			continue
		}
		for _, r := range netRules(f) {
			for i := range out {
				if ch := &out[i]; ch.Name == r.chain {
					ch.Rules = slices.Insert(ch.Rules, 0, r.Rule)
				}
			}
		}
	}
	return out
}

// isOpening matches TCP packets that bear neither ACK nor RST: SYNs, and the
// FIN, NULL and Xmas packets that scanners send instead. Such a packet is never
// an answer to this host, so there is no need to wait for conntrack; a packet
// with ACK or RST may be the answer of a server that was sent packets with our
// address forged.
func isOpening() statement {
	return tcpFlags("tcp flags & (rst | ack) == 0", tcpRST|tcpACK, 0)
}

// earlyRules drop what opens a connection from a banned source before conntrack
// spends anything on it. The innocent leave by the first rule of their family.
func (c compiler) earlyRules() []Rule {
	var rules []Rule
	innocent := c.innocent()
	for i, f := range families {
		rules = append(rules, innocent[i], dropUnlessExempt(f))
	}
	return rules
}

// dropUnlessExempt drops packets of a banned source that may open no
// connection.
func dropUnlessExempt(f family) Rule {
	return rule(f.whole().notIn(f.whitelist()), notFromLoopback(), count(CounterDropped), drop())
}

// guardRules ask for every other packet whether its source is banned; of what
// opens connections the early chain has asked.
func (c compiler) guardRules() []Rule {
	var rules []Rule
	if c.offends(unix.IPPROTO_TCP) {
		rules = append(rules, rule(isOpening(), goTo(chainOpening)))
	}
	if c.offends(unix.IPPROTO_UDP) {
		rules = append(rules, rule(dportIn(unix.IPPROTO_UDP, setTrapUDP), goTo(chainTrapUDP)))
	}
	return append(append(rules, c.innocent()...), rule(goTo(chainBanned)))
}

// innocent are rules that accept a source which no set holds: one for each
// family, because each rule, and each time that the source is loaded, costs a
// packet as much as half a lookup.
func (c compiler) innocent() []Rule {
	var rules []Rule
	for _, f := range families {
		rules = append(rules, rule(c.inNoBan(f), accept()))
	}
	return rules
}

// inNoBan matches sources of a family that are not banned, prefixes by hand
// left out of account.
func (c compiler) inNoBan(f family) statement {
	var questions []question
	if f.is6() && c.singles() {
		questions = append(questions, question{f.whole().bits, f.ban()})
	}
	questions = append(questions, question{f.network(c.Prefix6).bits, f.ban()})
	if c.subnetOf(f) > 0 {
		questions = append(questions, question{f.subnetLen, f.subnet()})
	}
	return f.inNone(questions)
}

// bannedRules are asked only once a ban matched: the innocent do not pay for
// them.
func (c compiler) bannedRules() []Rule {
	var rules []Rule
	for _, f := range families {
		// An error about another host's connection: without "packet too big"
		// from a banned router, an innocent visitor behind it would get
		// nothing.
		rules = append(rules, rule(isICMP(f), ctState("related", ctRelated), accept()))
	}
	rules = append(rules, rule(isNeighbourDiscovery(), accept()), rule(fromLoopback(), accept()))
	for _, f := range families {
		rules = append(rules, rule(f.whole().in(f.whitelist()), accept()))
	}
	for _, f := range families {
		rules = append(rules, rule(f.cutKey().is(f.cut()), count(CounterDropped), drop()))
	}
	rules = append(rules,
		rule(isReply(), accept()),
		// Where conntrack does not track, replies cannot be recognised. A
		// connected socket, on a port that the kernel has chosen, is one that
		// this host has opened.
		rule(ctState("untracked", ctUntracked), dportWithin(c.LocalPorts), toBoundSocket(), accept()),
	)
	for _, f := range families {
		// A service that the source was connected to. conntrack sees the resets
		// that we drop, and forgets the connection for them. What the service
		// sends then begins another one, by which the source would answer.
		e := element{key: f.cutKey(), set: f.cut(), timeout: c.BanTime[len(c.BanTime)-1], renew: true}
		rules = append(rules, rule(ctState("established", ctEstablished), e.statement(), count(CounterDropped), drop()))
	}
	return append(rules, rule(count(CounterDropped), drop()))
}

// cutKey loads the source and the TCP port that it sends to.
func (f family) cutKey() statement {
	return f.whole().pair("saddr", f.saddrAt, unix.IPPROTO_TCP)
}
