package ruleset

import "golang.org/x/sys/unix"

// offenceChains are those that only a packet comes to which may be an offence.
func (c *compiler) offenceChains() {
	if len(c.protocols()) == 0 {
		return
	}
	if c.offends(unix.IPPROTO_TCP) {
		c.opening()
	}
	if c.offends(unix.IPPROTO_UDP) {
		c.chain(chainTrapUDP) // is the source of a datagram to a trap port banned?
		for _, f := range families {
			c.rule(c.inNoBan(f), goTo(chainTrap))
		}
		c.rule(goTo(chainBanned))
	}
	if c.hasTraps() {
		c.trap()
	}
	if c.Scan.Ports > 0 {
		c.scan()
	}
	if c.MaxRetry > 1 {
		c.retry()
	}
	c.exempt()
	c.listens()
	c.offence()
	c.reports()
}

// opening separates packets to trap ports from those that may be part of a
// scan. An open port is known by a set: its clients cost no more than that
// lookup. From here on the ports are read without asking again whether this is
// TCP.
func (c *compiler) opening() {
	c.chain(chainOpening)
	if c.Observe {
		c.openingBanned()
	}
	if c.knocks() {
		c.rule(dportIn(anyProtocol, setKnockTCP), accept)
	}
	if c.remembersServed() {
		c.acceptServed(anyProtocol, family.served)
	}
	if len(c.TrapTCP) > 0 {
		c.rule(dportIn(anyProtocol, setTrapTCP), goTo(chainTrap))
	}
	if c.Scan.Ports > 0 {
		c.rule(goTo(chainScan))
		return
	}
	c.rule(accept)
}

// openingBanned keeps what the early chain would have dropped from being an
// offence.
func (c *compiler) openingBanned() {
	for _, s := range c.sources() {
		c.rule(s.in(s.ban()), goTo(chainBanned))
	}
	for _, f := range families {
		if c.subnetOf(f) > 0 {
			c.rule(source{f, f.subnetLen}.in(f.subnet()), goTo(chainBanned))
		}
	}
	for _, s := range c.fleet() {
		c.rule(s.in(s.family.fleet()), goTo(chainBanned))
	}
}

// acceptServed accepts packets to services that are in a set of each family.
func (c *compiler) acceptServed(proto byte, set func(family) string) {
	for _, f := range families {
		c.rule(f.service(proto), "@"+set(f), accept)
	}
}

// trap holds a packet to a trap port against its source. Whether a program
// listens is asked before whether one did a moment ago, so that each client
// begins the grace anew.
func (c *compiler) trap() {
	c.chain(chainTrap)
	c.rule("jump", chainExempt)
	for _, proto := range c.graceProtocols() {
		c.acceptServed(proto, graceOf(proto))
	}
	next := chainOffence
	if c.MaxRetry > 1 {
		next = chainRetry
	}
	c.rule(count(CounterTrapped), goTo(next))
}

// scan counts distinct closed ports. A retry is known by a lookup, and is
// looked at no further.
func (c *compiler) scan() {
	c.chain(chainScan)
	c.rule(dportIn(anyProtocol, setIgnoreTCP), accept)
	if !c.counts() {
		// Every closed port is a trap.
		c.rule("jump", chainExempt)
		if c.Grace > 0 {
			c.acceptServed(unix.IPPROTO_TCP, graceOf(unix.IPPROTO_TCP))
		}
		c.rule(count(CounterScanned), goTo(chainOffence))
		return
	}
	for _, s := range c.sources() {
		c.rule(s.probe(), "@"+s.probed(), accept)
	}
	c.rule("jump", chainExempt)
	c.rule(faster(rateToFill(4*c.Size, c.Scan.FindTime, c.Size)), count(CounterUncounted), accept)
	c.countProbe(families[0].whole())
	c.toSingle(chainScan)
	c.countProbe(c.sourceOf(families[1]))
	c.rule(accept)
	if c.singles() {
		c.chain(chainScan + singleSuffix)
		c.countProbe(families[1].whole())
		c.rule(accept)
	}
}

// countProbe counts a closed port against a source. Both statements are in one
// rule, so that a full set of ports ends it instead of counting retries; both
// add, which renews nothing: the window runs from the first probe.
func (c *compiler) countProbe(s source) {
	c.rule(element("add", s.probed(), s.probe(), c.Scan.FindTime),
		element("add", s.score(), s.saddr(), c.Scan.FindTime, threshold(c.Scan.Ports)),
		count(CounterScanned), goTo(chainOffence))
	c.rule(s.probe(), "!= @"+s.probed(), count(CounterUncounted)) // that set is full
}

// sourceOf returns how the sources of a family are banned, and sources all ways
// in which sources are.
func (c *compiler) sourceOf(f family) source { return f.network(c.Prefix6) }
func (c *compiler) sources() []source {
	out := []source{families[0].whole()}
	if c.singles() {
		out = append(out, families[1].whole())
	}
	return append(out, c.sourceOf(families[1]))
}

// toSingle sends packets on whose source is one by its full address. The
// network of the address that it was sent to is one of this host's own: its
// sources are neighbours, and known not to be one host.
func (c *compiler) toSingle(chain string) {
	if !c.singles() {
		return
	}
	f := families[1]
	own := source{f, ownLen}
	c.rule(f.whole().in(setSingle6), goTo(chain+singleSuffix))
	c.rule(element("add", setOwn6, own.address("daddr"), 0))
	c.rule(own.in(setOwn6), goTo(chain+singleSuffix))
}

// retry counts packets to trap ports, and drops those of a source that has not
// come often enough.
func (c *compiler) retry() {
	countRetry := func(s source) {
		c.rule(element("add", s.hits(), s.saddr(), c.FindTime, threshold(c.MaxRetry)), goTo(chainOffence))
	}
	dropRetry := func(sources ...source) {
		for _, s := range sources {
			c.rule(s.notIn(s.hits()), count(CounterFull), drop)
		}
		c.rule(drop)
	}
	ip4, ip6 := families[0].whole(), c.sourceOf(families[1])
	c.chain(chainRetry)
	countRetry(ip4)
	c.toSingle(chainRetry)
	countRetry(ip6)
	dropRetry(ip4, ip6)
	if c.singles() {
		c.chain(chainRetry + singleSuffix)
		countRetry(ip6.whole())
		dropRetry(ip6.whole())
	}
}

// exempt accepts what is not an offence.
func (c *compiler) exempt() {
	c.chain(chainExempt)
	c.rule("fib daddr type != local", accept) // to be forwarded, broadcast, multicast
	c.rule(fromLoopback, accept)
	c.rule(isReply, accept)
	c.rule("ct status dnat", accept) // a published port, or a redirected one
	c.acceptExempt()
	c.rule("fib saddr type local", accept)
	// Without a socket the expression ends the rule, so that both together mean
	// any socket, a listening one included.
	c.rule("socket transparent 0", goTo(chainListens))
	c.rule("socket transparent 1", goTo(chainListens))
	// A source without a route back is surely forged. The mark counts, as rules
	// may choose the route by it.
	if !c.NoReversePath4 || !c.NoReversePath6 {
		only := ""
		if c.NoReversePath4 {
			only = "meta nfproto ipv6"
		} else if c.NoReversePath6 {
			only = "meta nfproto ipv4"
		}
		c.rule(only, "fib saddr . mark . iif oif missing", count(CounterUnroutable), drop)
	}
	if c.Grace > 0 {
		c.rule("meta l4proto @"+setStarting, accept) // services may still be starting
	}
}

// listens remembers that a program listens.
func (c *compiler) listens() {
	c.chain(chainListens)
	remember := func(match string, proto byte, set func(family) string) {
		for _, f := range families {
			c.rule(match, element("update", set(f), f.service(proto), c.Grace), accept)
		}
	}
	for _, proto := range c.graceProtocols() {
		if proto == unix.IPPROTO_UDP || !c.counts() {
			remember("", proto, graceOf(proto))
			continue
		}
		if len(c.TrapTCP) > 0 {
			remember(dportIn(proto, setTrapTCP), proto, graceOf(proto))
		}
		remember("", proto, family.served)
	}
	c.rule(accept)
}
