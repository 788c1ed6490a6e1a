package ruleset

import (
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Statements that several rules have.
const (
	accept = "accept"
	drop   = "drop"

	fromLoopback    = `iif "lo"`
	notFromLoopback = `iif != "lo"`

	// isOpening matches TCP packets that bear neither ACK nor RST: SYNs, and the
	// FIN, NULL and Xmas packets that scanners send instead. Such a packet is
	// never an answer to this host, so there is no need to wait for conntrack; a
	// packet with ACK or RST may be the answer of a server that was sent packets
	// with our address forged.
	isOpening = "tcp flags & (rst | ack) == 0"
	// isReply matches the packets of the far end of a connection that was opened
	// from here, ICMP errors about it among them. A packet that conntrack does
	// not know ends the rule.
	isReply = "ct direction reply"
)

func count(counter string) string { return `counter name "` + counter + `"` }
func cameInBy(name string) string { return `iifname "` + name + `"` }
func goTo(chain string) string    { return "goto " + chain }

func dportIn(proto byte, set string) string { return protoName(proto) + " dport @" + set }

// wouldDrop is the comment of a rule that drops unless the table observes.
const wouldDrop = "would drop"

// compiler writes the chains of a table, one rule after the other.
type compiler struct {
	Spec
	chains []Chain
}

// chain begins a chain, and base one that packets come to at prerouting.
func (c *compiler) chain(name string) { c.chains = append(c.chains, Chain{Name: name}) }
func (c *compiler) base(name string, priority int32) {
	hook := &Hook{Number: unix.NF_INET_PRE_ROUTING, Priority: priority, Plain: true}
	c.chains = append(c.chains, Chain{Name: name, Hook: hook})
}

// rule adds a rule to the last chain.
func (c *compiler) rule(statements ...string) {
	r := rule(statements...)
	if text, drops := strings.CutSuffix(r.Text, drop); drops && c.Observe {
		r = rule(text + accept)
		r.Comment = wouldDrop
	}
	last := &c.chains[len(c.chains)-1]
	last.Rules = append(last.Rules, r)
}

// chains returns all chains of the table, the base chains first.
func chains(s Spec, asked askedNets) []Chain {
	c := compiler{Spec: s}
	c.early()
	c.guard()
	c.banned()
	c.offenceChains()
	for i, f := range families {
		if !asked[i] {
			continue
		}
		for _, r := range netRules(f) {
			for i := range c.chains {
				if ch := &c.chains[i]; ch.Name == r.chain {
					ch.Rules = slices.Insert(ch.Rules, 0, r.Rule)
				}
			}
		}
	}
	return c.chains
}

// early drops what opens a connection from a banned source before conntrack
// spends anything on it. The innocent leave by the rule of their family.
func (c *compiler) early() {
	c.base(chainEarly, earlyPriority)
	if c.knocks() {
		c.rule(isOpening, goTo(chainKnock))
		c.knock()
	} else {
		c.rule(isOpening, goTo(chainEarlyOpening))
	}
	c.chain(chainEarlyOpening)
	for _, f := range families {
		c.rule(c.inNoBan(f), accept)
	}
	c.rule(goTo(chainEarlyBanned))
	// A chain of its own, as rules for prefixes that are banned by hand lead to
	// it, and are added by those who do not know the Spec.
	c.chain(chainEarlyBanned)
	c.acceptInterfaces()
	for _, s := range c.fleet() {
		c.rule(s.in(s.family.fleet()), c.notExempt(s.family), notFromLoopback, count(CounterFleet), count(CounterDropped), drop)
	}
	for _, f := range families {
		c.rule(c.notExempt(f), notFromLoopback, count(CounterDropped), drop)
	}
}

// guard asks for every other packet whether its source is banned; of what opens
// connections the early chain has asked.
func (c *compiler) guard() {
	c.base(chainGuard, guardPriority)
	if c.offends(unix.IPPROTO_TCP) {
		c.rule(isOpening, goTo(chainOpening))
	}
	if c.offends(unix.IPPROTO_UDP) {
		c.rule(dportIn(unix.IPPROTO_UDP, setTrapUDP), goTo(chainTrapUDP))
	}
	for _, f := range families {
		c.rule(c.inNoBan(f), accept)
	}
	c.rule(goTo(chainBanned))
}

// inNoBan matches sources of a family that are not banned, prefixes by hand
// left out of account. It is one rule for each family, because each rule, and
// each time that the source is loaded, costs a packet as much as half a lookup.
//
// A packet may ask one set before a transaction and the next one after it, and
// not all sets change at the same instant. So a ban that moves must be in both
// for a while, whatever the order: [Apply] adds to the set of prefixes before
// it deletes from the other.
func (c *compiler) inNoBan(f family) string {
	questions := c.sourceOf(f).notIn(f.ban())
	if f.is6() && c.singles() {
		questions = f.whole().notIn(f.ban()) + " " + questions
	}
	if c.Fleet > 0 {
		switch question := f.fleetSource().notIn(f.fleet()); { // a source that is cut cannot become longer again
		case c.sourceOf(f).prefixLen >= f.fleetSource().prefixLen:
			questions += " " + question
		default:
			questions = question + " " + questions
		}
	}
	if c.subnetOf(f) > 0 {
		questions += " " + source{f, f.subnetLen}.notIn(f.subnet())
	}
	return questions
}

// fleet returns how the sources are read that the fleet bans, if there is one.
func (c *compiler) fleet() (out []source) {
	for _, f := range families {
		if c.Fleet > 0 {
			out = append(out, f.fleetSource())
		}
	}
	return out
}

// exempting are the sets of a family whose sources are never banned and never
// dropped. Being of intervals they cost some 40 ns each even while they are
// empty, so only offenders and what comes to closed ports ask them.
func (c *compiler) exempting(f family) []string {
	if c.knocks() {
		return []string{f.whitelist(), f.allow(), f.knocked()}
	}
	return []string{f.whitelist(), f.allow()}
}

// notExempt matches sources that are in none of these sets.
func (c *compiler) notExempt(f family) string {
	var questions []string
	for _, set := range c.exempting(f) {
		questions = append(questions, f.whole().notIn(set))
	}
	return strings.Join(questions, " ")
}

// acceptExempt accepts packets of sources that are in one of them, and those that
// come in by interfaces that are whitelisted.
func (c *compiler) acceptExempt() {
	c.acceptInterfaces()
	for _, f := range families {
		for _, set := range c.exempting(f) {
			c.rule(f.whole().in(set), accept)
		}
	}
}

func (c *compiler) acceptInterfaces() {
	for _, name := range slices.Sorted(slices.Values(c.Interfaces)) {
		c.rule(cameInBy(name), accept)
	}
}

// banned is asked only once a ban matched: the innocent do not pay for it.
func (c *compiler) banned() {
	c.chain(chainBanned)
	// An error about another host's connection: without "packet too big" from a
	// banned router, an innocent visitor behind it would get nothing.
	c.rule("meta l4proto icmp ct state related", accept)
	c.rule("meta l4proto icmpv6 ct state related", accept)
	// Router and neighbour solicitations and advertisements. Those of a neighbour
	// have a hop limit of 255, which no router has lowered; receivers of others
	// ignore them.
	c.rule("ip6 hoplimit 255 icmpv6 type 133-136", accept)
	c.rule(fromLoopback, accept)
	c.acceptExempt()
	if c.Observe {
		c.rule(isOpening, accept) // the early chain has counted it
	}
	for _, s := range c.fleet() { // each goes on to a rule that drops
		c.rule(s.in(s.family.fleet()), s.cutKey(), "@"+s.cut(), count(CounterFleet))
	}
	for _, f := range families {
		c.rule(f.cutKey(), "@"+f.cut(), count(CounterDropped), drop)
	}
	c.rule(isReply, accept)
	// Where conntrack does not track, replies cannot be recognised. A connected
	// socket, which is always bound to one address, on a port that the kernel has
	// chosen, is one that this host has opened.
	c.rule("ct state untracked th dport", c.LocalPorts.String(), "socket wildcard 0", accept)
	for _, s := range c.fleet() {
		c.rule(s.in(s.family.fleet()), count(CounterFleet))
	}
	for _, f := range families {
		// A service that the source was connected to. conntrack sees the resets
		// that we drop, and forgets the connection for them. What the service
		// sends then begins another one, by which the source would answer.
		c.rule("ct state established", element("update", f.cut(), f.cutKey(), c.lastBan()), count(CounterDropped), drop)
	}
	c.rule(count(CounterDropped), drop)
}
