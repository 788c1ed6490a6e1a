package names

import (
	"net/netip"
	"slices"
	"time"

	"github.com/portmon/portmon/nftset"
	"github.com/portmon/portmon/ruleset"
)

const (
	// Keep is for how long an address stays allowed at least without a good
	// answer. The kernel ends it, whether a program runs or not.
	Keep = 24 * time.Hour
	// allowFor is longer, so that an answer that comes every minute need not be
	// written every minute.
	allowFor = Keep + time.Hour
)

// Plan is what is to change about what the table allows.
type Plan struct {
	Allow []ruleset.Record
	End   []nftset.Interval // allowances of names, and of exactly these addresses
	// Again is when to plan anew: an allowance that others made, and that
	// stands in for one of a name, is over by then. 0 is not before the next
	// answer.
	Again time.Duration
}

// Plan returns what is to change, with what the table allows. source returns the
// prefix by which an address is banned: it is allowed by the same one.
func (n *Names) Plan(have []ruleset.Entry, source func(netip.Addr) (netip.Prefix, error)) (p Plan, err error) {
	have = slices.SortedFunc(slices.Values(have), func(a, b ruleset.Entry) int { return a.From.Compare(b.From) })
	n.remember(have)
	var wanted []nftset.Interval
	for _, h := range n.hosts {
		for _, addr := range h.addrs() {
			of, err := Prefix(addr, source)
			if err != nil {
				return Plan{}, err
			}
			iv := nftset.Prefix(of).Interval
			wanted = append(wanted, iv)
			held, again := isHeld(iv, have)
			if held {
				p.Again = soonest(p.Again, again)
			} else if h.family(addr.Is6()).vouchesFor(addr) {
				p.Allow = append(p.Allow, ruleset.Record{
					Source: of, Allowed: true, Cause: ruleset.CauseName, Comment: h.name, Timeout: allowFor, Remaining: allowFor,
				})
			}
		}
	}
	for _, e := range have {
		if e.Cause == ruleset.CauseName && !slices.ContainsFunc(wanted, func(iv nftset.Interval) bool { return iv.Covers(e.Interval) }) {
			p.End = append(p.End, e.Interval)
		}
	}
	return p, nil
}

// remember takes over what an earlier program has had allowed, until there is an
// answer. Of IPv6 the address is that of the network.
func (n *Names) remember(have []ruleset.Entry) {
	for _, e := range have {
		h, addr := n.host(e.Comment), e.From.Addr()
		if e.Cause != ruleset.CauseName || h == nil {
			continue
		}
		if f := h.family(addr.Is6()); !f.known {
			f.answer = bounded(append(f.answer, addr))
		}
	}
}

// Prefix returns what is allowed of an address: the prefix by which it is
// banned, so that a device beside it, or its own next temporary address, does
// not have it banned. That is no more than a /64, and the address alone where a
// /64 is known to hold strangers.
func Prefix(addr netip.Addr, source func(netip.Addr) (netip.Prefix, error)) (netip.Prefix, error) {
	const widest = 64
	p, err := source(addr)
	if err == nil && addr.Is6() && p.Bits() < widest {
		p = netip.PrefixFrom(addr, widest).Masked()
	}
	return p, err
}

// isHeld reports whether all of an interval is allowed for long enough, and when
// what others have allowed of it is over. The entries are sorted.
func isHeld(iv nftset.Interval, have []ruleset.Entry) (held bool, again time.Duration) {
	next := iv.From
	for _, e := range have {
		if !e.Overlaps(iv) {
			continue
		}
		byName := e.Cause == ruleset.CauseName
		if e.From.Compare(next) > 0 || byName && e.Remaining < Keep {
			return false, 0
		}
		if !byName {
			again = soonest(again, e.Remaining)
		}
		var more bool
		if next, more = e.To.Next(); !more || e.To.Compare(iv.To) >= 0 {
			return true, again
		}
	}
	return false, 0
}

// soonest returns the shorter of two times, of which 0 is none.
func soonest(a, b time.Duration) time.Duration {
	if a == 0 || b != 0 && b < a {
		return b
	}
	return a
}

// vouchesFor reports whether an address is in the last answer, and that was
// good.
func (f *family) vouchesFor(addr netip.Addr) bool { return f.good && slices.Contains(f.answer, addr) }
