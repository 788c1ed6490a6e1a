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

// keyOf returns the key of a prefix, whose host bits do not matter. It reports
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

// compact is a Row without its source and its comment, in 48 bytes, which is
// what Go's allocator has a size for: 65,536 rows in 7.5 MB rather than 15.
type compact struct {
	until, stepUntil, first, last Moment

	seconds  uint32 // the timeout
	offences uint32
	millis   uint16 // and what it has beyond them
	port     uint16
	step     uint8
	cause    ruleset.Cause
	proto    uint8
	ban      uint8 // none, by the table or by another program, by hand
}

const (
	banned = 1 + iota
	bannedByHand
)

// pack returns a normalized row without its source and comment.
func (r *Row) pack() compact {
	c := compact{
		until: r.Until, stepUntil: r.StepUntil, first: r.First, last: r.Last,
		seconds: uint32(r.Timeout / time.Second), millis: uint16(r.Timeout % time.Second / time.Millisecond),
		offences: uint32(r.Offences), port: r.Port, step: uint8(r.Step), cause: r.Cause, proto: r.Proto,
	}
	if r.ByHand {
		c.ban = bannedByHand
	} else if r.Banned {
		c.ban = banned
	}
	return c
}

func (c *compact) unpack(k key, comment string) Row {
	return Row{
		Source: k.prefix(), Comment: comment,
		Banned: c.ban != 0, ByHand: c.ban == bannedByHand,
		Timeout: c.timeout(), Until: c.until, StepUntil: c.stepUntil, First: c.first, Last: c.last,
		Step: int(c.step), Cause: c.cause, Offences: int(c.offences), Proto: c.proto, Port: c.port,
	}
}

func (c *compact) timeout() time.Duration {
	return time.Duration(c.seconds)*time.Second + time.Duration(c.millis)*time.Millisecond
}

// sweep forgets what is over, and reports whether anything remains.
func (c *compact) sweep(now Moment) bool {
	if c.timeout() > 0 && c.until <= now {
		c.ban, c.until, c.seconds, c.millis = 0, 0, 0, 0
	}
	if c.step != 0 && c.stepUntil <= now {
		c.step, c.stepUntil = 0, 0
	}
	return c.ban != 0 || c.step != 0
}
