package ledger

import "net/netip"

// key is a source in 17 bytes without a pointer. IPv4 addresses are mapped into IPv6.
type key struct {
	addr [16]byte
	bits uint8
}

const bits4in6 = 96

// keyOf returns the key of a prefix, whose host bits do not matter. ok is false if it is no valid prefix.
func keyOf(p netip.Prefix) (k key, ok bool) {
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
