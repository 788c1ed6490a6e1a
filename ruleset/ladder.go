package ruleset

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// offence bans the source of a packet that is an offence.
func (c *compiler) offence() {
	ip4, ip6 := families[0], families[1]
	c.chain(ip4.offenceChain())
	c.rule("meta nfproto ipv6", goTo(ip6.offenceChain()))
	c.ladder(ip4.whole())
	c.chain(ip6.offenceChain())
	c.toSingle(ip6.offenceChain())
	c.ladder(c.sourceOf(ip6))
	if c.singles() {
		c.chain(ip6.offenceChain() + singleSuffix)
		c.ladder(ip6.whole())
	}
}

// ladder takes a source up the ladder: the highest step that it has been banned
// by is looked up first. The drop that ends the chain is in a rule of its own: a
// full set ends the rule that adds to it.
func (c *compiler) ladder(s source) {
	ban := func(step int) string { return element("add", s.ban(), s.saddr(), c.BanTime[step-1]) }
	remember := func(step int) string { return element("update", s.tier(step), s.saddr(), c.memoryTime(step)) }
	for step := len(c.BanTime); step >= 1; step-- {
		next := c.after(step)
		// The ban is looked up after the step, and added before it: a packet
		// that sees a step which another CPU has just added also sees its ban,
		// and the same offence is not taken for the next one.
		c.rule(s.in(s.tier(step)), s.notIn(s.ban()), ban(next), remember(next), count(CounterBanned), goTo(chainBan(next)))
	}
	// That other packet is the offence, then.
	c.rule(s.in(s.ban()), count(CounterDropped), drop)
	if c.Size >= minGuarded {
		// First offences can be forged by the hundred thousand. So they get in
		// no faster than bans expire, and there is always room for the others.
		rate := rateToFill(c.share(s, c.Size*7/8), c.BanTime[0], c.share(s, c.Size/8))
		c.rule(faster(rate), count(CounterHeldBack), drop)
	}
	if n := c.subnetOf(s.family); n > 0 && s.prefixLen > s.subnetLen && s == c.sourceOf(s.family) {
		// A flood cannot fill the set of subnets that are counted either.
		net := source{s.family, s.subnetLen}
		c.rule(noFaster(rateToFill(c.Size, crowdTime, c.Size/2)),
			element("add", s.crowd(), net.saddr(), crowdTime, threshold(n)),
			element("update", s.subnet(), net.saddr(), subnetTime), count(CounterBanned), goTo(chainSubnet))
	}
	// Nor do they fill what remembers them, which would last for long.
	c.rule(noFaster(rateToFill(c.share(s, 2*c.Size), c.memoryTime(1), c.share(s, c.Size))),
		ban(1), remember(1), count(CounterBanned), goTo(chainBan(1)))
	c.rule(ban(1), count(CounterBanned), goTo(chainBan(1)))
	c.rule(count(CounterFull), drop)
}

// minGuarded is the smallest size of a set that is worth guarding from being
// filled: of a smaller one the parts are too small to be of use.
const minGuarded = 64

// share returns how many of n elements of a set are for sources that are banned
// as s is. Others may have the rest: IPv6 sources that are banned one by one
// are in the same sets as those that are banned by their network, and can be
// forged beside them.
func (c *compiler) share(s source, n uint32) uint32 {
	switch {
	case !s.is6() || !c.singles():
		return n
	case s == s.whole():
		return n / 8
	}
	return n - n/8
}

// reports log bans, and remember which were for scans.
func (c *compiler) reports() {
	for step := range len(c.BanTime) {
		c.reportStep(step + 1)
	}
	if c.subnetOf(families[0]) > 0 || c.subnetOf(families[1]) > 0 {
		c.chain(chainSubnet)
		c.rule(c.log(CauseSubnet, 0), drop)
	}
	if c.Scan.Ports == 0 {
		return
	}
	c.chain(chainScanner)
	c.setScanner("update", c.memoryTime(len(c.BanTime)))
	if c.hasTraps() {
		c.chain(chainNoScanner)
		c.setScanner("delete", 0)
	}
}

// reportStep reports a ban by a step of the ladder, with its cause.
func (c *compiler) reportStep(step int) {
	c.chain(chainBan(step))
	afterTrap, otherwise := goTo(chainNoScanner), goTo(chainScanner)
	if c.Scan.Ports == 0 {
		afterTrap, otherwise = drop, drop
	}
	if len(c.TrapTCP) > 0 {
		c.rule(dportIn(unix.IPPROTO_TCP, setTrapTCP), c.log(CauseTrap, step), afterTrap)
	}
	if len(c.TrapUDP) > 0 {
		c.rule(dportIn(unix.IPPROTO_UDP, setTrapUDP), c.log(CauseTrap, step), afterTrap)
	}
	if c.Scan.Ports > 0 {
		otherwise = c.log(CauseScan, step) + " " + otherwise
	}
	c.rule(otherwise)
}

// log writes to the log group. 64 bytes of the packet are its network header,
// options not counted, and the ports.
func (c *compiler) log(cause Cause, step int) string {
	return fmt.Sprintf("log prefix %q group %d snaplen 64 queue-threshold %d",
		logPrefix(cause, step), c.LogGroup, c.LogThreshold)
}

// setScanner remembers that the source was banned for a scan, or forgets it.
func (c *compiler) setScanner(verb string, timeout time.Duration) {
	for _, s := range c.sources() {
		banned := ""
		if c.singles() && s == families[1].whole() {
			// The ban has just been added: a ban by the full address marks a
			// source that is banned by itself.
			banned = s.in(s.ban())
		}
		c.rule(banned, element(verb, s.scanner(), s.saddr(), timeout), drop)
	}
	c.rule(drop)
}
