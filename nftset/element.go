package nftset

import (
	"net/netip"
	"time"
)

// Element is one element of a set. [Addr], [Prefix], [Ports] and [Single] make
// elements without a timeout of their own; [Element.For] gives them one.
type Element struct {
	// Interval holds the keys. In a set without FlagInterval, From and To are
	// the same.
	Interval

	// Timeout is the element's own timeout; 0 means the set's default, and in a
	// set without one, that it never expires. When an element is read, it is 0
	// if it equals the default: the kernel leaves it out then. The kernel
	// counts in jiffies, of 1 to 10 ms; anything shorter becomes 10 ms.
	Timeout time.Duration

	// Remaining is the part of the timeout that is left. When an element is
	// added, 0 means all of it, and a Timeout shorter than Remaining is raised
	// to it. When one is read, 0 means that it never expires. It may exceed
	// Timeout then: rules that update an element renew only what remains.
	Remaining time.Duration

	// Comment is at most 251 bytes. It cannot be changed without deleting the
	// element.
	Comment string

	// State is what a counter, limit or the like keeps with the element, as the
	// kernel encodes it. Only a [Snapshot] has it.
	State string
}

// Addr returns the element for an address, which must be valid. It treats the
// address as [AddrKey] does.
func Addr(a netip.Addr) Element { return Single(AddrKey(a)) }

// Prefix returns the element for the addresses of a prefix, which must be
// valid. Host bits are ignored. The set needs FlagInterval unless the prefix is
// a single address.
func Prefix(p netip.Prefix) Element {
	p = p.Masked()
	from := AddrKey(p.Addr())
	return Element{Interval: Interval{from, from.setLow(p.Addr().BitLen() - p.Bits())}}
}

// Ports returns the element for the ports from first to last, which must not be
// lower than first.
func Ports(first, last uint16) Element {
	return Element{Interval: Interval{PortKey(first), PortKey(last)}}
}

// Single returns the element for one key of any type.
func Single(k Key) Element { return Element{Interval: Interval{k, k}} }

// For returns the element with a timeout.
func (el Element) For(timeout time.Duration) Element {
	el.Timeout = timeout
	return el
}
