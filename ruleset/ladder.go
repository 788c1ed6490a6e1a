package ruleset

import "golang.org/x/sys/unix"

// offenceRules ban the source of a packet that is an offence.
func (c compiler) offenceRules(f family) []Rule {
	if !f.is6() {
		return append([]Rule{rule(families[1].isFamily(), goTo(families[1].offenceChain()))}, c.ladderRules(f.whole())...)
	}
	return append(c.toSingle(chainOffence6+singleSuffix), c.ladderRules(f.network(c.Prefix6))...)
}

// ladderRules take a source up the ladder: the highest step that it has been
// banned by is looked up first. The drop that ends the chain is in a rule of
// its own: a full set ends the rule that adds to it.
func (c compiler) ladderRules(s source) []Rule {
	var rules []Rule
	for step := len(c.BanTime); step >= 1; step-- {
		next := c.after(step)
		// The ban is looked up after the step, and added before it: a packet
		// that sees a step which another CPU has just added also sees its ban,
		// and the same offence is not taken for the next one.
		rules = append(rules, rule(s.in(s.tier(step)), s.notIn(s.ban()),
			c.ban(s, next), c.remember(s, next), count(CounterBanned), goTo(chainBan(next))))
	}
	// That other packet is the offence, then.
	rules = append(rules, rule(s.in(s.ban()), count(CounterDropped), drop()))
	if c.Size >= minGuarded {
		// First offences can be forged by the hundred thousand. So they get in
		// no faster than bans expire, and there is always room for the others.
		rules = append(rules, rule(rateToFill(c.share(s, c.Size*7/8), c.BanTime[0], c.share(s, c.Size/8)).exceeded(),
			count(CounterHeldBack), drop()))
	}
	if n := c.subnetOf(s.family); n > 0 && s.bits > s.subnetLen && s.bits == s.network(c.Prefix6).bits {
		net := source{s.family, s.subnetLen}
		crowd := element{set: s.crowd(), timeout: crowdTime, threshold: n}
		subnet := element{set: s.subnet(), timeout: subnetTime, renew: true, key: net.saddr()}
		// A flood cannot fill the set of subnets that are counted either.
		rules = append(rules, rule(rateToFill(c.Size, crowdTime, c.Size/2).limit(),
			net.add(crowd), subnet.statement(), count(CounterBanned), goTo(chainSubnet)))
	}
	return append(rules,
		// Nor do they fill what remembers them, which would last for long.
		rule(rateToFill(c.share(s, 2*c.Size), c.memoryTime(1), c.share(s, c.Size)).limit(),
			c.ban(s, 1), c.remember(s, 1), count(CounterBanned), goTo(chainBan(1))),
		rule(c.ban(s, 1), count(CounterBanned), goTo(chainBan(1))),
		rule(count(CounterFull), drop()),
	)
}

// minGuarded is the smallest size of a set that is worth guarding from being
// filled: of a smaller one the parts are too small to be of use.
const minGuarded = 64

// share returns how many of n elements of a set are for sources that are banned
// as s is. Others may have the rest: IPv6 sources that are banned one by one
// are in the same sets as those that are banned by their network, and can be
// forged beside them.
func (c compiler) share(s source, n uint32) uint32 {
	switch {
	case !s.is6() || !c.singles():
		return n
	case s.bits == s.whole().bits:
		return n / 8
	}
	return n - n/8
}

// ban adds the source to the set of bans.
func (c compiler) ban(s source, step int) statement {
	return s.add(element{set: s.ban(), timeout: c.BanTime[step-1]})
}

// remember adds the source to those that have been banned by a step.
func (c compiler) remember(s source, step int) statement {
	return s.add(element{set: s.tier(step), timeout: c.memoryTime(step), renew: true})
}

// logRules report a ban by a step of the ladder, with its cause.
func (c compiler) logRules(step int) []Rule {
	var rules []Rule
	for _, trap := range []struct {
		proto byte
		set   string
		ports []Ports
	}{{unix.IPPROTO_TCP, setTrapTCP, c.TrapTCP}, {unix.IPPROTO_UDP, setTrapUDP, c.TrapUDP}} {
		if len(trap.ports) > 0 {
			to := dportIn(trap.proto, trap.set)
			rules = append(rules, c.log(CauseTrap, step, c.afterTrap(), to))
		}
	}
	if c.Scan.Ports == 0 {
		return append(rules, rule(drop()))
	}
	return append(rules, c.log(CauseScan, step, goTo(chainScanner)))
}

// log returns a rule that logs what matches, unless the kernel cannot, and ends
// with a verdict.
func (c compiler) log(cause Cause, step int, verdict statement, match ...statement) Rule {
	if c.Log {
		match = append(match, logTo(logPrefix(cause, step), c.LogGroup, c.LogThreshold))
	}
	return rule(append(match, verdict)...)
}

// afterTrap ends the ban for a packet to a trap port.
func (c compiler) afterTrap() statement {
	if c.Scan.Ports == 0 {
		return drop()
	}
	return goTo(chainNoScanner)
}

// scannerRules remember that the source was banned for a scan, or forget it.
func (c compiler) scannerRules(remember bool) []Rule {
	var rules []Rule
	for _, s := range c.sources() {
		e := element{set: s.scanner(), timeout: c.memoryTime(len(c.BanTime)), renew: true}
		if !remember {
			e = element{set: s.scanner(), remove: true}
		}
		if s.is6() && s.bits == s.whole().bits && c.singles() {
			// The ban has just been added: a ban by the full address marks a
			// source that is banned by itself.
			rules = append(rules, rule(s.in(s.ban()), s.add(e), drop()))
			continue
		}
		rules = append(rules, rule(s.add(e), drop()))
	}
	return append(rules, rule(drop()))
}
