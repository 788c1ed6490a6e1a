package ruleset

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/portmon/portmon/internal/text"
)

// source is how a rule reads the source address of a packet: a family, and how
// many bits count.
type source struct {
	family
	prefixLen int
}

// whole returns the source with all its bits.
func (f family) whole() source { return source{f, f.bits()} }

// network returns the source cut to the bits by which the family is banned.
func (f family) network(prefix6 int) source {
	if f.is6() {
		return source{f, prefix6}
	}
	return f.whole()
}

// fleetSource returns the source as the fleet bans it: hosts agree on a /64,
// whatever they ban sources by themselves.
func (f family) fleetSource() source { return source{f, min(f.bits(), fleetLen)} }

// address returns the field of the header, "saddr" or "daddr", as nft writes
// it.
func (s source) address(field string) string {
	text := s.nft + " " + field
	if s.prefixLen < s.bits() {
		mask, _ := netip.AddrFromSlice(netmask(s.key.Len(), s.prefixLen))
		text += " & " + mask.String()
	}
	return text
}

// netmask returns so many bytes of which the first n bits are set.
func netmask(length, n int) []byte {
	mask := make([]byte, length)
	for i := range n {
		mask[i/8] |= 0x80 >> (i % 8)
	}
	return mask
}

func (s source) saddr() string { return s.address("saddr") }

// in matches packets whose source is in the set, and notIn those whose is not.
func (s source) in(set string) string    { return s.saddr() + " @" + set }
func (s source) notIn(set string) string { return s.saddr() + " != @" + set }

// probe is the source and the destination port.
func (s source) probe() string { return s.saddr() + " . th dport" }

// cut is the source and the TCP port that it sends to.
func (f family) cutKey() string { return f.whole().saddr() + " . tcp dport" }

// service is the destination and the destination port.
func (f family) service(proto byte) string {
	return f.whole().address("daddr") + " . " + protoName(proto) + " dport"
}

// element returns the statement by which the packet path adds an element to a
// set, updates or deletes it. "update" restarts the timer of one that is there,
// "add" does not. If the set is full the rule ends there, and the packet goes on
// to the next one.
//
// The timeout, 0 for none, is given here because kernels before the stable
// series of 6.1 do not change that of a live set.
func element(verb, set, key string, timeout time.Duration, more ...string) string {
	s := fmt.Sprintf("%s @%s { %s", verb, set, key)
	if timeout > 0 {
		s += " timeout " + text.Duration(timeout)
	}
	for _, m := range more {
		if m != "" {
			s += " " + m
		}
	}
	return s + " }"
}

// threshold lets a rule go on only for the nth packet that has to do with an
// element, and later ones. It is a limit, with a rate that gives nothing back
// within any time that a Spec may have.
func threshold(n int) string {
	if n <= 1 {
		return ""
	}
	return fmt.Sprintf("limit rate over 1/week burst %d packets", n-1)
}

// rateToFill returns the rate at which a set of that size, whose elements live
// that long, can never be filled: a part of it may be filled at once, and the
// rest within the time after which the first elements are gone again. A set of
// a few elements can: there is a burst of one at least, as nft refuses 0 and
// the kernel takes it for 5, and one packet in a lifetime.
func rateToFill(size uint32, lifetime time.Duration, burst uint32) string {
	const precise = 20 // packets in a unit, so that rounding down loses at most a twentieth
	burst = max(1, burst)
	rest := float64(max(1, int64(size)-int64(burst))) / lifetime.Seconds()
	n, name := uint64(0), ""
	for _, name = range []string{"second", "minute", "hour", "day", "week"} {
		n = max(1, uint64(rest*float64(limitUnits[name])))
		if n >= precise {
			break
		}
	}
	return fmt.Sprintf("%d/%s burst %d packets", n, name, burst)
}

// noFaster matches packets as long as they come no faster than a rate, and
// faster those that exceed it.
func noFaster(rate string) string { return "limit rate " + rate }
func faster(rate string) string   { return "limit rate over " + rate }
