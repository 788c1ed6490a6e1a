package ruleset

import (
	"golang.org/x/sys/unix"
)

// offenceChains are those that only a packet comes to which may be an offence.
func (c compiler) offenceChains() []Chain {
	if len(c.protocols()) == 0 {
		return nil
	}
	var out []Chain
	add := func(name string, rules []Rule) { out = append(out, Chain{Name: name, Rules: rules}) }
	if c.offends(unix.IPPROTO_TCP) {
		add(chainOpening, c.openingRules())
	}
	if c.offends(unix.IPPROTO_UDP) {
		add(chainTrapUDP, c.trapUDPRules())
	}
	if len(c.TrapTCP) > 0 || len(c.TrapUDP) > 0 {
		add(chainTrap, c.trapRules())
	}
	if c.Scan.Ports > 0 {
		add(chainScan, c.scanRules())
		if c.counts() && c.singles() {
			add(chainScan+singleSuffix, append(c.countProbe(families[1].whole()), rule(accept())))
		}
	}
	if c.MaxRetry > 1 {
		add(chainRetry, c.retryRules())
		if c.singles() {
			add(chainRetry+singleSuffix, c.countRetry(families[1].whole()))
		}
	}
	add(chainExempt, c.exemptRules())
	add(chainListens, c.listensRules())
	for _, f := range families {
		add(f.offenceChain(), c.offenceRules(f))
	}
	if c.singles() {
		add(chainOffence6+singleSuffix, c.ladderRules(families[1].whole()))
	}
	for step := 1; step <= len(c.BanTime); step++ {
		add(chainBan(step), c.logRules(step))
	}
	if c.subnetOf(families[0]) > 0 || c.subnetOf(families[1]) > 0 {
		add(chainSubnet, []Rule{c.log(CauseSubnet, 0, drop())})
	}
	if c.Scan.Ports > 0 {
		add(chainScanner, c.scannerRules(true))
		if len(c.TrapTCP) > 0 || len(c.TrapUDP) > 0 {
			add(chainNoScanner, c.scannerRules(false))
		}
	}
	return out
}

// openingRules separate packets to trap ports from those that may be part of a
// scan. An open port is known by a set: its clients cost no more than that
// lookup. From here on the ports are read without asking again whether this is
// TCP.
func (c compiler) openingRules() []Rule {
	var rules []Rule
	if c.remembersServed() {
		rules = c.acceptServed(anyProtocol, family.served)
	}
	if len(c.TrapTCP) > 0 {
		rules = append(rules, rule(dportIn(anyProtocol, setTrapTCP), goTo(chainTrap)))
	}
	if c.Scan.Ports > 0 {
		return append(rules, rule(goTo(chainScan)))
	}
	return append(rules, rule(accept()))
}

// remembersServed reports whether there are sets of the open ports that are not
// traps.
func (s Spec) remembersServed() bool { return s.Grace > 0 && s.counts() }

// graceProtocols are those for which it is remembered where a program listened.
func (s Spec) graceProtocols() []byte {
	if s.Grace == 0 {
		return nil
	}
	return s.protocols()
}

// acceptServed accepts packets to services that are in a set of each family.
func (c compiler) acceptServed(proto byte, set func(family) string) []Rule {
	var rules []Rule
	for _, f := range families {
		rules = append(rules, rule(f.service(proto).is(set(f)), accept()))
	}
	return rules
}

// acceptGrace accepts packets to traps where a program listened a moment ago.
func (c compiler) acceptGrace(protocols ...byte) []Rule {
	var rules []Rule
	for _, proto := range protocols {
		rules = append(rules, c.acceptServed(proto, func(f family) string { return f.grace(proto) })...)
	}
	return rules
}

// trapUDPRules ask whether the source of a datagram to a trap port is banned.
func (c compiler) trapUDPRules() []Rule {
	var rules []Rule
	for _, f := range families {
		rules = append(rules, rule(c.inNoBan(f), goTo(chainTrap)))
	}
	return append(rules, rule(goTo(chainBanned)))
}

// trapRules hold a packet to a trap port against its source. Whether a program
// listens is asked before whether one did a moment ago, so that each client
// begins the grace anew.
func (c compiler) trapRules() []Rule {
	rules := append([]Rule{rule(jumpTo(chainExempt))}, c.acceptGrace(c.graceProtocols()...)...)
	next := chainOffence
	if c.MaxRetry > 1 {
		next = chainRetry
	}
	return append(rules, rule(count(CounterTrapped), goTo(next)))
}

// scanRules count distinct closed ports. A retry is known by a lookup, and is
// looked at no further.
func (c compiler) scanRules() []Rule {
	rules := []Rule{rule(dportIn(anyProtocol, setIgnoreTCP), accept())}
	if !c.counts() {
		// Every closed port is a trap.
		rules = append(rules, rule(jumpTo(chainExempt)))
		if c.Grace > 0 {
			rules = append(rules, c.acceptGrace(unix.IPPROTO_TCP)...)
		}
		return append(rules, rule(count(CounterScanned), goTo(chainOffence)))
	}
	for _, s := range c.sources() {
		rules = append(rules, rule(s.probe().is(s.probed()), accept()))
	}
	rules = append(rules,
		rule(jumpTo(chainExempt)),
		rule(rateToFill(4*c.Size, c.Scan.FindTime, c.Size).exceeded(), count(CounterUncounted), accept()),
	)
	rules = append(rules, c.countProbe(families[0].whole())...)
	rules = append(rules, c.toSingle(chainScan+singleSuffix)...)
	rules = append(rules, c.countProbe(families[1].network(c.Prefix6))...)
	return append(rules, rule(accept()))
}

// countProbe counts a closed port against a source. Both statements are in one
// rule, so that a full set of ports ends it instead of counting retries; both
// add, which renews nothing: the window runs from the first probe.
func (c compiler) countProbe(s source) []Rule {
	pair := element{key: s.probe(), set: s.probed(), timeout: c.Scan.FindTime}
	score := element{key: s.saddr(), set: s.score(), timeout: c.Scan.FindTime, threshold: c.Scan.Ports}
	return []Rule{
		rule(pair.statement(), score.statement(), count(CounterScanned), goTo(chainOffence)),
		rule(s.probe().isNot(s.probed()), count(CounterUncounted)), // that set is full
	}
}

// sources are the ways in which the sources of packets are counted and banned.
func (c compiler) sources() []source {
	out := []source{families[0].whole()}
	if c.singles() {
		out = append(out, families[1].whole())
	}
	return append(out, families[1].network(c.Prefix6))
}

// toSingle sends packets on whose source is one by its full address. The
// network of the address that it was sent to is one of this host's own: its
// sources are neighbours, and known not to be one host.
func (c compiler) toSingle(chain string) []Rule {
	if !c.singles() {
		return nil
	}
	f := families[1]
	own := source{f, ownLen}
	learn := element{key: own.load("daddr", f.daddrAt), set: setOwn6}.statement()
	return []Rule{
		rule(f.whole().in(setSingle6), goTo(chain)),
		rule(learn),
		rule(own.in(setOwn6), goTo(chain)),
	}
}

// retryRules count packets to trap ports.
func (c compiler) retryRules() []Rule {
	rules := c.countRetry(families[0].whole())[:1]
	rules = append(rules, c.toSingle(chainRetry+singleSuffix)...)
	rules = append(rules, c.countRetry(families[1].network(c.Prefix6))[0])
	for _, s := range []source{families[0].whole(), families[1].network(c.Prefix6)} {
		rules = append(rules, rule(s.notIn(s.hits()), count(CounterFull), drop()))
	}
	return append(rules, rule(drop())) // not often enough yet
}

// countRetry counts a packet against a source, and drops it if the source has
// not come often enough.
func (c compiler) countRetry(s source) []Rule {
	hit := element{set: s.hits(), timeout: c.FindTime, threshold: c.MaxRetry}
	return []Rule{
		rule(s.add(hit), goTo(chainOffence)),
		rule(s.notIn(s.hits()), count(CounterFull), drop()),
		rule(drop()),
	}
}

// exemptRules accept what is not an offence.
func (c compiler) exemptRules() []Rule {
	rules := []Rule{
		rule(toElsewhere(), accept()), // to be forwarded, broadcast, multicast
		rule(fromLoopback(), accept()),
		rule(isReply(), accept()),
		rule(isTranslated(), accept()), // a published port, or a redirected one
	}
	for _, f := range families {
		rules = append(rules, rule(f.whole().in(f.whitelist()), accept()))
	}
	rules = append(rules,
		rule(fromOwnAddress(), accept()),
		rule(toSocket(0), goTo(chainListens)),
		rule(toSocket(1), goTo(chainListens)),
	)
	switch {
	case c.NoReversePath4 && c.NoReversePath6:
	case c.NoReversePath4:
		rules = append(rules, rule(families[1].isFamily(), unroutable(), count(CounterUnroutable), drop()))
	case c.NoReversePath6:
		rules = append(rules, rule(families[0].isFamily(), unroutable(), count(CounterUnroutable), drop()))
	default:
		rules = append(rules, rule(unroutable(), count(CounterUnroutable), drop())) // surely forged
	}
	if c.Grace > 0 {
		rules = append(rules, rule(protocolIn(setStarting), accept())) // services may still be starting
	}
	return rules
}

// listensRules remember that a program listens.
func (c compiler) listensRules() []Rule {
	var rules []Rule
	remember := func(proto byte, set func(family) string, match ...statement) {
		for _, f := range families {
			e := element{key: f.service(proto), set: set(f), timeout: c.Grace, renew: true}
			rules = append(rules, rule(append(match, e.statement(), accept())...))
		}
	}
	for _, proto := range c.graceProtocols() {
		grace := func(f family) string { return f.grace(proto) }
		switch {
		case proto == unix.IPPROTO_UDP || !c.counts():
			remember(proto, grace)
		default:
			if len(c.TrapTCP) > 0 {
				remember(proto, grace, dportIn(proto, setTrapTCP))
			}
			remember(proto, family.served)
		}
	}
	return append(rules, rule(accept()))
}
