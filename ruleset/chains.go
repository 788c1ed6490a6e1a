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
		{Name: chainEarly, Hook: prerouting(earlyPriority), Rules: []Rule{
			// A SYN is never the reply to anything of ours, so there is no need
			// to wait for what conntrack says of it.
			rule(isSYN(), goTo(chainSYN)),
		}},
		{Name: chainGuard, Hook: prerouting(guardPriority), Rules: c.guardRules()},
		{Name: chainSYN, Rules: append(c.innocent(accept()), rule(goTo(chainBannedSYN)))},
		{Name: chainBannedSYN, Rules: append(c.letThrough(), rule(count(CounterDropped), drop()))},
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

func isSYN() statement {
	return tcpFlags("tcp flags & (fin | syn | rst | ack) == syn", tcpFIN|tcpSYN|tcpRST|tcpACK, tcpSYN)
}

// guardRules ask once for every packet whether its source is banned. SYNs were
// asked by the early chain, and go on to see whether they are an offence.
func (c compiler) guardRules() []Rule {
	var rules []Rule
	if c.offends(unix.IPPROTO_TCP) {
		// What bears an ACK or RST may be the answer of a server to whom
		// somebody sent packets in our name.
		rules = append(rules, rule(tcpFlags("tcp flags & (rst | ack) == 0", tcpRST|tcpACK, 0), goTo(chainOpening)))
	}
	if c.offends(unix.IPPROTO_UDP) {
		rules = append(rules, rule(dportIn(unix.IPPROTO_UDP, setTrapUDP), goTo(chainTrapUDP)))
	}
	return append(append(rules, c.innocent(accept())...), rule(goTo(chainBanned)))
}

// innocent are rules for a source that no set holds: one for each family,
// because each rule, and each time that the source is loaded, costs a packet as
// much as half a lookup.
func (c compiler) innocent(verdict statement) []Rule {
	var rules []Rule
	for _, f := range families {
		whole := f.whole().bits
		var questions []question
		if f.is6() && c.singles() {
			questions = append(questions, question{whole, f.ban()})
		}
		questions = append(questions, question{f.network(c.Prefix6).bits, f.ban()})
		if c.subnetOf(f) > 0 {
			questions = append(questions, question{f.subnetLen, f.subnet()})
		}
		rules = append(rules, rule(f.inNone(questions), verdict))
	}
	return rules
}

// letThrough are rules for packets that pass although their source is banned.
func (c compiler) letThrough() []Rule {
	rules := []Rule{rule(fromLoopback(), accept())}
	for _, f := range families {
		rules = append(rules, rule(f.whole().in(f.whitelist()), accept()))
	}
	return rules
}

// bannedRules are asked only once a ban matched: the innocent do not pay for
// them.
func (c compiler) bannedRules() []Rule {
	rules := []Rule{rule(isReply(), accept())}
	for _, f := range families {
		// An error about somebody else's connection: without "packet too big"
		// from a banned router, an innocent visitor behind it would get nothing.
		rules = append(rules, rule(isICMP(f), ctState("related", ctRelated), accept()))
	}
	rules = append(rules, rule(isNeighbourDiscovery(), accept()))
	rules = append(rules, c.letThrough()...)
	return append(rules,
		// Where conntrack was told not to track, nobody knows what is a reply.
		// A connected socket, on a port that the kernel has chosen, is one that
		// this host has opened.
		rule(ctState("untracked", ctUntracked), dportWithin(c.LocalPorts), toBoundSocket(), accept()),
		rule(count(CounterDropped), drop()),
	)
}
