package nftset

import (
	"cmp"
	"encoding/binary"
	"math/bits"
	"net/netip"
	"strconv"

	"golang.org/x/sys/unix"
)

// Key is one key of a set: an address, a port, both, or a protocol. Keys are
// comparable with ==, and take no allocation.
type Key struct {
	hi, lo uint64 // the address, or the number that the key is
	typ    KeyType
	port   uint16 // beside an address; it lies where the struct has padding
}

// AddrKey returns the key for an address, which must be valid. IPv4-mapped IPv6
// addresses become IPv4; zones are dropped.
func AddrKey(a netip.Addr) Key {
	if a = a.Unmap(); a.Is4() {
		b := a.As4()
		return Key{lo: uint64(binary.BigEndian.Uint32(b[:])), typ: IPv4Addr}
	}
	b := a.As16()
	return Key{hi: binary.BigEndian.Uint64(b[:8]), lo: binary.BigEndian.Uint64(b[8:]), typ: IPv6Addr}
}

// PortKey returns the key for a port.
func PortKey(port uint16) Key { return Key{lo: uint64(port), typ: InetService} }

// AddrPortKey returns the concatenated key for an address and a port. The
// address is treated as AddrKey does.
func AddrPortKey(a netip.AddrPort) Key {
	k := AddrKey(a.Addr())
	k.typ, k.port = k.typ<<typeBits|InetService, a.Port()
	return k
}

// ProtoKey returns the key for a protocol of the transport layer, one of
// unix.IPPROTO_*.
func ProtoKey(proto uint8) Key { return Key{lo: uint64(proto), typ: InetProto} }

// Type returns the key's type.
func (k Key) Type() KeyType { return k.typ }

// Addr returns the address that k is, alone or with a port, or the zero Addr if
// it has none.
func (k Key) Addr() netip.Addr {
	switch k.typ {
	case IPv4Addr, IPv4AddrPort:
		var b [4]byte
		binary.BigEndian.PutUint32(b[:], uint32(k.lo))
		return netip.AddrFrom4(b)
	case IPv6Addr, IPv6AddrPort:
		var b [16]byte
		binary.BigEndian.PutUint64(b[:8], k.hi)
		binary.BigEndian.PutUint64(b[8:], k.lo)
		return netip.AddrFrom16(b)
	}
	return netip.Addr{}
}

// Port returns the port that k is, alone or with an address, or 0 if it has
// none.
func (k Key) Port() uint16 {
	if k.typ == InetService {
		return uint16(k.lo)
	}
	return k.port
}

// String returns the key as nft writes it: "192.0.2.1", "23", "192.0.2.1 . 23",
// "tcp". Of protocols it names TCP and UDP, others are numbers; nft knows all
// those in /etc/protocols.
func (k Key) String() string {
	switch {
	case k.typ == InetProto && k.lo == unix.IPPROTO_TCP:
		return "tcp"
	case k.typ == InetProto && k.lo == unix.IPPROTO_UDP:
		return "udp"
	case k.typ == InetProto || k.typ == InetService:
		return strconv.FormatUint(k.lo, 10)
	case k.typ.isPair():
		return k.Addr().String() + " . " + strconv.FormatUint(uint64(k.port), 10)
	}
	return k.Addr().String()
}

// Compare orders keys by type, then by value, a concatenation by its first part
// first.
func (k Key) Compare(o Key) int {
	switch {
	case k.typ != o.typ:
		return cmp.Compare(k.typ, o.typ)
	case k.hi != o.hi:
		return cmp.Compare(k.hi, o.hi)
	case k.lo != o.lo:
		return cmp.Compare(k.lo, o.lo)
	}
	return cmp.Compare(k.port, o.port)
}

// Next returns the key after k, and false if k is the highest of its type.
func (k Key) Next() (Key, bool) {
	if k == k.typ.Max() {
		return Key{}, false
	}
	carry := uint64(1)
	if k.typ.isPair() {
		if k.port++; k.port != 0 {
			carry = 0
		}
	}
	k.lo, carry = bits.Add64(k.lo, carry, 0)
	k.hi += carry
	return k, true
}

// prev returns the key before k, which must not be the lowest.
func (k Key) prev() Key {
	borrow := uint64(1)
	if k.typ.isPair() {
		if k.port--; k.port != 1<<16-1 {
			borrow = 0
		}
	}
	k.lo, borrow = bits.Sub64(k.lo, borrow, 0)
	k.hi -= borrow
	return k
}

// append adds the key as it travels, in network byte order. What a part of a
// concatenation leaves of its last register is 0, as the packet path has it.
func (k Key) append(b []byte) []byte {
	switch k.typ {
	case IPv4Addr, IPv4AddrPort:
		b = binary.BigEndian.AppendUint32(b, uint32(k.lo))
	case IPv6Addr, IPv6AddrPort:
		b = binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(b, k.hi), k.lo)
	case InetProto:
		b = append(b, uint8(k.lo))
	default:
		b = binary.BigEndian.AppendUint16(b, uint16(k.lo))
	}
	if k.typ.isPair() {
		b = append(binary.BigEndian.AppendUint16(b, k.port), 0, 0)
	}
	return b
}

// ParseKey reads a key as the kernel has it in an attribute or in registers: in
// network byte order, each part of a concatenation padded to 4 bytes. It
// returns false if b does not have the length of the type.
func ParseKey(t KeyType, b []byte) (Key, bool) {
	if len(b) == 0 || len(b) != t.Len() {
		return Key{}, false
	}
	k, n := Key{typ: t}, t.addrLen()
	switch {
	case n == 4:
		k.lo = uint64(binary.BigEndian.Uint32(b))
	case n == 16:
		k.hi, k.lo = binary.BigEndian.Uint64(b), binary.BigEndian.Uint64(b[8:])
	case len(b) == 2:
		k.lo = uint64(binary.BigEndian.Uint16(b))
	default:
		k.lo = uint64(b[0])
	}
	if t.isPair() {
		k.port = binary.BigEndian.Uint16(b[n:])
	}
	return k, true
}
