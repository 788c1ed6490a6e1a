package nftset

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"math/bits"
	"net/netip"
	"strconv"
)

// KeyType is the data type of a set's keys. The values are those of enum datatypes in nft's include/datatype.h: they travel in
// NFTA_SET_KEY_TYPE, the kernel only stores them, and nft needs them to print the set.
type KeyType uint32

// The key types this package knows.
const (
	IPv4Addr    KeyType = 7  // TYPE_IPADDR: 4 bytes
	IPv6Addr    KeyType = 8  // TYPE_IP6ADDR: 16 bytes
	InetService KeyType = 13 // TYPE_INET_SERVICE: a port, 2 bytes
)

// String returns nft's name of the type.
func (t KeyType) String() string {
	switch t {
	case IPv4Addr:
		return "ipv4_addr"
	case IPv6Addr:
		return "ipv6_addr"
	case InetService:
		return "inet_service"
	}
	return fmt.Sprintf("type %d", uint32(t))
}

// Len returns the length of a key in bytes, or 0 for a type this package does not know.
func (t KeyType) Len() int {
	switch t {
	case IPv4Addr:
		return 4
	case IPv6Addr:
		return 16
	case InetService:
		return 2
	}
	return 0
}

// Max returns the highest key of the type.
func (t KeyType) Max() Key {
	switch t {
	case IPv6Addr:
		return Key{^uint64(0), ^uint64(0), t}
	default:
		return Key{0, 1<<(8*t.Len()) - 1, t}
	}
}

// Key is one key of a set: an address or a port. Keys are comparable with ==, and take no allocation.
type Key struct {
	hi, lo uint64
	typ    KeyType
}

// AddrKey returns the key for an address, which must be valid. IPv4-mapped IPv6 addresses become IPv4; zones are dropped.
func AddrKey(a netip.Addr) Key {
	if a = a.Unmap(); a.Is4() {
		b := a.As4()
		return Key{0, uint64(binary.BigEndian.Uint32(b[:])), IPv4Addr}
	}
	b := a.As16()
	return Key{binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:]), IPv6Addr}
}

// PortKey returns the key for a port.
func PortKey(port uint16) Key { return Key{0, uint64(port), InetService} }

// Type returns the key's type.
func (k Key) Type() KeyType { return k.typ }

// Addr returns the address that k is, or the zero Addr if it is none.
func (k Key) Addr() netip.Addr {
	switch k.typ {
	case IPv4Addr:
		var b [4]byte
		binary.BigEndian.PutUint32(b[:], uint32(k.lo))
		return netip.AddrFrom4(b)
	case IPv6Addr:
		var b [16]byte
		binary.BigEndian.PutUint64(b[:8], k.hi)
		binary.BigEndian.PutUint64(b[8:], k.lo)
		return netip.AddrFrom16(b)
	}
	return netip.Addr{}
}

// Port returns the port that k is, or 0 if it is none.
func (k Key) Port() uint16 {
	if k.typ != InetService {
		return 0
	}
	return uint16(k.lo)
}

// String returns the key as nft writes it.
func (k Key) String() string {
	if k.typ == InetService {
		return strconv.FormatUint(k.lo, 10)
	}
	return k.Addr().String()
}

// Compare orders keys by type, then by value.
func (k Key) Compare(o Key) int {
	return cmp.Or(cmp.Compare(k.typ, o.typ), cmp.Compare(k.hi, o.hi), cmp.Compare(k.lo, o.lo))
}

// Next returns the key after k, and false if k is the highest of its type.
func (k Key) Next() (Key, bool) {
	if k == k.typ.Max() {
		return Key{}, false
	}
	lo, carry := bits.Add64(k.lo, 1, 0)
	return Key{k.hi + carry, lo, k.typ}, true
}

// prev returns the key before k, which must not be the lowest.
func (k Key) prev() Key {
	lo, borrow := bits.Sub64(k.lo, 1, 0)
	return Key{k.hi - borrow, lo, k.typ}
}

// append adds the key as it travels, in network byte order.
func (k Key) append(b []byte) []byte {
	switch k.typ {
	case IPv4Addr:
		return binary.BigEndian.AppendUint32(b, uint32(k.lo))
	case IPv6Addr:
		return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(b, k.hi), k.lo)
	default:
		return binary.BigEndian.AppendUint16(b, uint16(k.lo))
	}
}

// parseKey reads a key as it travels. It returns false if b has not the length of the type.
func parseKey(t KeyType, b []byte) (Key, bool) {
	if len(b) != t.Len() {
		return Key{}, false
	}
	switch t {
	case IPv4Addr:
		return Key{0, uint64(binary.BigEndian.Uint32(b)), t}, true
	case IPv6Addr:
		return Key{binary.BigEndian.Uint64(b), binary.BigEndian.Uint64(b[8:]), t}, true
	case InetService:
		return Key{0, uint64(binary.BigEndian.Uint16(b)), t}, true
	}
	return Key{}, false
}
