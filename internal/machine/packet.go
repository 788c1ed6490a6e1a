package machine

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/internal/text"
)

// Packet is a packet as rules see it.
type Packet struct {
	Now      int64  // when it arrives, in nanoseconds since 1970
	In       string // the interface on which it arrives, "" if unknown
	Src, Dst netip.Addr
	Proto    uint8 // 255 if there is no complete transport header

	family    uint8  // NFPROTO_IPV4 or NFPROTO_IPV6
	class     uint8  // of classes
	net       []byte // from the network header on
	transport []byte // from the transport header on
	length    uint64 // of the whole packet, including what was not captured
	ct        connection
	host      *Host
}

const (
	protoUnknown = 255 // reserved
	flagFIN      = 0x01
	flagSYN      = 0x02
	flagRST      = 0x04
	flagACK      = 0x10
	flagsAt      = 13
)

// Parse parses a packet from its IP header on. It returns false for what rules
// never see: data that is no packet or lacks its addresses, and all fragments
// but the first, because the kernel reassembles packets before. b must not
// change while the packet is in use.
func (p *Packet) Parse(b []byte) bool {
	*p = Packet{Now: p.Now, In: p.In, net: b}
	switch {
	case len(b) >= 20 && b[0]>>4 == 4:
		return p.parse4(b)
	case len(b) >= 40 && b[0]>>4 == 6:
		return p.parse6(b)
	}
	return false
}

func (p *Packet) parse4(b []byte) bool {
	header := int(b[0]&15) * 4
	if header < 20 || binary.BigEndian.Uint16(b[6:])&0x1fff != 0 {
		return false
	}
	p.family, p.Proto = unix.NFPROTO_IPV4, b[9]
	p.Src, p.Dst = netip.AddrFrom4([4]byte(b[12:])), netip.AddrFrom4([4]byte(b[16:]))
	// The length may be 0 in packets that the network card will segment.
	p.setLength(int(binary.BigEndian.Uint16(b[2:])), header, b)
	return true
}

func (p *Packet) parse6(b []byte) bool {
	p.family = unix.NFPROTO_IPV6
	p.Src, p.Dst = netip.AddrFrom16([16]byte(b[8:])), netip.AddrFrom16([16]byte(b[24:]))
	at, next := 40, b[6]
	length := int(binary.BigEndian.Uint16(b[4:]))
	if length > 0 {
		length += 40
	}
	for extension := true; extension; { // AH is none here: nf_tables takes it for the transport layer
		if at+8 > len(b) && isExtension(next) {
			next = protoUnknown
		}
		switch next {
		case unix.IPPROTO_HOPOPTS, unix.IPPROTO_ROUTING, unix.IPPROTO_DSTOPTS:
			next, at = b[at], at+8+8*int(b[at+1])
		case unix.IPPROTO_FRAGMENT:
			if binary.BigEndian.Uint16(b[at+2:])&^7 != 0 {
				return false
			}
			next, at = b[at], at+8
		default:
			extension = false
		}
	}
	p.Proto = next
	p.setLength(length, at, b)
	return true
}

func isExtension(proto uint8) bool {
	switch proto {
	case unix.IPPROTO_HOPOPTS, unix.IPPROTO_ROUTING, unix.IPPROTO_DSTOPTS, unix.IPPROTO_FRAGMENT:
		return true
	}
	return false
}

// setLength cuts off what follows the packet in its frame.
func (p *Packet) setLength(length, header int, b []byte) {
	if length < header {
		length = len(b)
	}
	p.length = uint64(length)
	b = b[:min(len(b), length)]
	p.net, p.transport = b, b[min(len(b), header):]
	p.class = anyPacket
	for i, c := range classes {
		if c.family == p.family && c.proto == p.Proto && len(p.transport) >= c.header {
			p.class = uint8(i)
		}
	}
}

// class is what is known of a packet before any rule is asked: the rules are
// compiled for each class, without the tests of which that is the result.
type class struct {
	family, proto uint8
	header        int // of the transport header, at least so many bytes are there
}

// anyPacket is the class of packets of which nothing is known.
const anyPacket = 0

var classes = [...]class{
	anyPacket: {},
	{unix.NFPROTO_IPV4, unix.IPPROTO_TCP, 20}, {unix.NFPROTO_IPV6, unix.IPPROTO_TCP, 20},
	{unix.NFPROTO_IPV4, unix.IPPROTO_UDP, 8}, {unix.NFPROTO_IPV6, unix.IPPROTO_UDP, 8},
}

// ports returns the source and destination port of TCP and UDP.
func (p *Packet) ports() (src, dst uint16, ok bool) {
	if (p.Proto != unix.IPPROTO_TCP && p.Proto != unix.IPPROTO_UDP) || len(p.transport) < 4 {
		return 0, 0, false
	}
	return binary.BigEndian.Uint16(p.transport), binary.BigEndian.Uint16(p.transport[2:]), true
}

// flags returns the TCP flags.
func (p *Packet) flags() (flags uint8, ok bool) {
	if p.Proto != unix.IPPROTO_TCP || len(p.transport) <= flagsAt {
		return 0, false
	}
	return p.transport[flagsAt], true
}

// Service is what a program listens on: an address, a port and a protocol.
type Service struct {
	netip.AddrPort
	Proto uint8
}

// String returns "tcp/22 at 192.0.2.1", or "tcp/22" if it is at every address.
func (s Service) String() string {
	name := text.Port(s.Proto, s.Port())
	if s.Addr().IsValid() {
		name += " at " + s.Addr().String()
	}
	return name
}

// MarshalText implements [encoding.TextMarshaler].
func (s Service) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// Service returns the service that the packet is sent to.
func (p *Packet) Service() (s Service, ok bool) {
	_, port, ok := p.ports()
	return Service{netip.AddrPortFrom(p.Dst, port), p.Proto}, ok
}

// Opens reports whether the packet is a SYN that opens a connection.
func (p *Packet) Opens() bool {
	flags, ok := p.flags()
	return ok && flags&(flagSYN|flagACK|flagRST|flagFIN) == flagSYN
}

// BearsData reports whether the packet is a TCP segment with data, as within a
// connection.
func (p *Packet) BearsData() bool {
	flags, ok := p.flags()
	if !ok || flags&(flagSYN|flagRST|flagACK) != flagACK {
		return false
	}
	header := int(p.transport[flagsAt-1]>>4) * 4
	return int(p.length) > len(p.net)-len(p.transport)+header
}
