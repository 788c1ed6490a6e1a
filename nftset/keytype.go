package nftset

import "fmt"

// KeyType is the data type of a set's keys. The values are those of enum
// datatypes in nft's include/datatype.h: they travel in NFTA_SET_KEY_TYPE, the
// kernel only stores them, and nft needs them to print the set. A concatenation
// has the types of its parts in TYPE_BITS each, the first of them highest.
type KeyType uint32

// typeBits is TYPE_BITS of nft's include/datatype.h.
const typeBits = 6

// The key types this package knows. Sets of all of them take single keys; sets
// of intervals are of addresses or of ports.
const (
	IPv4Addr     KeyType = 7                                // TYPE_IPADDR: 4 bytes
	IPv6Addr     KeyType = 8                                // TYPE_IP6ADDR: 16 bytes
	InetProto    KeyType = 12                               // TYPE_INET_PROTOCOL: TCP, UDP, …, 1 byte
	InetService  KeyType = 13                               // TYPE_INET_SERVICE: a port, 2 bytes
	IPv4AddrPort         = IPv4Addr<<typeBits | InetService // an address and a port: 4 bytes each
	IPv6AddrPort         = IPv6Addr<<typeBits | InetService // the same with 16 and 4 bytes
)

// String returns nft's name of the type.
func (t KeyType) String() string {
	switch t {
	case IPv4Addr:
		return "ipv4_addr"
	case IPv6Addr:
		return "ipv6_addr"
	case InetProto:
		return "inet_proto"
	case InetService:
		return "inet_service"
	case IPv4AddrPort:
		return "ipv4_addr . inet_service"
	case IPv6AddrPort:
		return "ipv6_addr . inet_service"
	}
	return fmt.Sprintf("type %d", uint32(t))
}

// Len returns the length of a key in bytes, or 0 for a type this package does
// not know. The parts of a concatenation fill whole registers, of 4 bytes.
func (t KeyType) Len() int {
	switch {
	case t == InetProto:
		return 1
	case t == InetService:
		return 2
	case t.isPair():
		return t.addrLen() + 4
	}
	return t.addrLen()
}

// addrLen returns the length in bytes of the address in a key, 0 without one.
func (t KeyType) addrLen() int {
	switch t {
	case IPv4Addr, IPv4AddrPort:
		return 4
	case IPv6Addr, IPv6AddrPort:
		return 16
	}
	return 0
}

// Max returns the highest key of the type.
func (t KeyType) Max() Key {
	k := Key{typ: t}
	switch t.addrLen() {
	case 4:
		k.lo = 1<<32 - 1
	case 16:
		k.hi, k.lo = ^uint64(0), ^uint64(0)
	default:
		k.lo = 1<<(8*t.Len()) - 1
	}
	if t.isPair() {
		k.port = 1<<16 - 1
	}
	return k
}

// isAddr reports whether keys of the type are addresses and nothing else.
func (t KeyType) isAddr() bool { return t == IPv4Addr || t == IPv6Addr }

// isPair reports whether keys of the type are an address and a port.
func (t KeyType) isPair() bool { return t == IPv4AddrPort || t == IPv6AddrPort }
