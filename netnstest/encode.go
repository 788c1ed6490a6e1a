package netnstest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"net/netip"

	"golang.org/x/sys/unix"
)

// Lengths of headers, in bytes and without options.
const (
	ipv4Len = 20
	ipv6Len = 40
	tcpLen  = 20
	udpLen  = 8
	icmpLen = 8
)

const defaultTTL = 64

var errFamilies = errors.New("source and destination are not both IPv4 or both IPv6")

// AppendBinary appends the packet to b, from its IP header on and with the right checksums. It returns an error if the
// addresses are not two of one family, or if the packet is longer than IP allows.
func (p Packet) AppendBinary(b []byte) ([]byte, error) {
	src, dst := p.Src.Addr(), p.Dst.Addr()
	ip := len(b)
	switch {
	case src.Is4() && dst.Is4():
		b = p.appendIPv4(b, src, dst)
	case src.Is6() && dst.Is6() && !src.Is4In6() && !dst.Is4In6():
		b = p.appendIPv6(b, src, dst)
	default:
		return b, fmt.Errorf("encode %v: %w", p, errFamilies)
	}
	l4 := len(b)
	b = p.appendTransport(b)
	if len(b)-ip > math.MaxUint16 {
		return b[:ip], fmt.Errorf("encode %v: longer than 65,535 bytes", p)
	}
	p.finish(b[ip:l4], b[l4:])
	return b, nil
}

func (p Packet) ttl() byte {
	if p.TTL == 0 {
		return defaultTTL
	}
	return p.TTL
}

func (p Packet) appendIPv4(b []byte, src, dst netip.Addr) []byte {
	s, d := src.As4(), dst.As4()
	b = append(b, 0x45, 0, 0, 0, 0, 0, 0, 0, p.ttl(), byte(p.Proto), 0, 0)
	b = append(b, s[:]...)
	return append(b, d[:]...)
}

func (p Packet) appendIPv6(b []byte, src, dst netip.Addr) []byte {
	s, d := src.As16(), dst.As16()
	next := byte(p.Proto)
	if p.Proto == ICMP {
		next = unix.IPPROTO_ICMPV6
	}
	b = append(b, 0x60, 0, 0, 0, 0, 0, next, p.ttl())
	b = append(b, s[:]...)
	return append(b, d[:]...)
}

// appendTransport appends header and payload of the protocol, the checksum not yet computed.
func (p Packet) appendTransport(b []byte) []byte {
	switch p.Proto {
	case TCP:
		b = binary.BigEndian.AppendUint16(b, p.Src.Port())
		b = binary.BigEndian.AppendUint16(b, p.Dst.Port())
		b = binary.BigEndian.AppendUint32(b, p.Seq)
		b = binary.BigEndian.AppendUint32(b, p.Ack)
		// The data starts after five words; a window of 64,240 is what Linux opens a connection with over Ethernet.
		b = append(b, tcpLen/4<<4, byte(p.Flags), 0xfa, 0xf0, 0, 0, 0, 0)
	case UDP:
		b = binary.BigEndian.AppendUint16(b, p.Src.Port())
		b = binary.BigEndian.AppendUint16(b, p.Dst.Port())
		b = binary.BigEndian.AppendUint16(b, uint16(udpLen+len(p.Payload)))
		b = append(b, 0, 0)
	case ICMP:
		b = append(b, p.Type, p.Code, 0, 0)
		b = binary.BigEndian.AppendUint32(b, p.Rest)
	}
	return append(b, p.Payload...)
}

// finish writes the lengths and checksums that depend on the whole packet.
func (p Packet) finish(ip, l4 []byte) {
	var pseudo uint32
	if ip[0]>>4 == 4 {
		binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)+len(l4)))
		binary.BigEndian.PutUint16(ip[10:], checksum(0, ip))
		pseudo = sum(pseudoTail(p.Proto, len(l4)), ip[12:20])
	} else {
		binary.BigEndian.PutUint16(ip[4:], uint16(len(l4)))
		pseudo = sum(pseudoTail(Proto(ip[6]), len(l4)), ip[8:40])
	}
	switch p.Proto {
	case TCP:
		binary.BigEndian.PutUint16(l4[16:], checksum(pseudo, l4))
	case UDP:
		c := checksum(pseudo, l4)
		if c == 0 {
			c = 0xffff // 0 says that there is no checksum, which IPv6 does not allow (RFC 8200, 8.1)
		}
		binary.BigEndian.PutUint16(l4[6:], c)
	case ICMP:
		if ip[0]>>4 == 4 {
			pseudo = 0
		}
		binary.BigEndian.PutUint16(l4[2:], checksum(pseudo, l4))
	}
}

// pseudoTail is the sum of what a pseudo header has besides the addresses (RFC 9293, 3.1; RFC 8200, 8.1).
func pseudoTail(proto Proto, length int) uint32 { return uint32(proto) + uint32(length) }

// sum adds the 16 bit words of b to a sum in one's complement. 64 KiB of them do not overflow it.
func sum(s uint32, b []byte) uint32 {
	for ; len(b) >= 2; b = b[2:] {
		s += uint32(b[0])<<8 | uint32(b[1])
	}
	if len(b) == 1 {
		s += uint32(b[0]) << 8
	}
	return s
}

// checksum returns the internet checksum of b (RFC 1071), on top of the sum of a pseudo header.
func checksum(pseudo uint32, b []byte) uint16 {
	s := sum(pseudo, b)
	for s > math.MaxUint16 {
		s = s>>16 + s&math.MaxUint16
	}
	return ^uint16(s)
}
