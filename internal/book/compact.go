package book

import (
	"net/netip"
	"time"

	"github.com/portmon/portmon/ruleset"
)

// key is a source in 17 bytes without a pointer. IPv4 addresses are mapped into
// IPv6.
type key struct {
	addr [16]byte
	bits uint8
}

const bits4in6 = 96

// keyOf returns the key of a prefix, whose host bits do not matter. It returns
// false if the prefix is not valid.
func keyOf(p netip.Prefix) (key, bool) {
	p = p.Masked()
	if !p.IsValid() {
		return key{}, false
	}
	bits := p.Bits()
	if p.Addr().Is4() {
		bits += bits4in6
	}
	return key{p.Addr().As16(), uint8(bits)}, true
}

func (k key) prefix() netip.Prefix {
	a := netip.AddrFrom16(k.addr)
	if a.Is4In6() && k.bits >= bits4in6 {
		return netip.PrefixFrom(a.Unmap(), int(k.bits)-bits4in6)
	}
	return netip.PrefixFrom(a, int(k.bits))
}

// compact is a normalized Row without its source, its comment and what it was
// before, in 48 bytes: 65,536 rows take 7 MB rather than 15.
type compact struct {
	timeout                       time.Duration
	until, stepUntil, first, last Moment

	offences, port uint16
	step           uint8
	cause          ruleset.Cause // and observed
	proto          uint8
	ban            uint8 // none, by the table or by another program, by hand; or allowed
}

const (
	banned = 1 + iota
	bannedByHand
	allowed
)

// observed is set in the cause of a row that is.
const observed ruleset.Cause = 1 << 7

func (r *Row) pack() compact {
	c := compact{
		timeout: r.Timeout, until: r.Until, stepUntil: r.StepUntil, first: r.First, last: r.Last,
		offences: uint16(r.Offences), port: r.Port, step: uint8(r.Step), cause: r.Cause, proto: r.Proto,
	}
	if r.Observed {
		c.cause |= observed
	}
	switch {
	case r.Allowed:
		c.ban = allowed
	case r.ByHand:
		c.ban = bannedByHand
	case r.Banned:
		c.ban = banned
	}
	return c
}

func (c *compact) unpack(k key, comment string) Row {
	return Row{
		Source: k.prefix(), Comment: comment, Banned: c.ban == banned || c.ban == bannedByHand,
		ByHand: c.ban == bannedByHand, Allowed: c.ban == allowed, Timeout: c.timeout, Until: c.until, Step: int(c.step), StepUntil: c.stepUntil,
		Cause: c.cause &^ observed, Observed: c.cause&observed != 0,
		Offences: int(c.offences), First: c.first, Last: c.last, Proto: c.proto, Port: c.port,
	}
}

func (c *compact) moments() [4]*Moment {
	return [...]*Moment{&c.until, &c.stepUntil, &c.first, &c.last}
}

// sweep forgets what is over, and reports whether anything remains.
func (c *compact) sweep(now Moment) bool {
	if c.timeout > 0 && c.until <= now {
		c.ban, c.until, c.timeout = 0, 0, 0
	}
	if c.step != 0 && c.stepUntil <= now {
		c.step, c.stepUntil = 0, 0
	}
	return c.ban != 0 || c.step != 0
}

// worth ranks rows by how much would be lost with them. First-timers that are
// free go first: a flood of sources that come once does not wash out those that
// come back.
func (c *compact) worth() int {
	switch {
	case c.ban == bannedByHand || c.ban == allowed:
		return worthMost
	case c.ban == banned:
		return 2
	case c.step > 1:
		return 1
	}
	return 0
}

const worthMost = 3
