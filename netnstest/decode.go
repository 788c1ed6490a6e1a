package netnstest

import (
	"encoding/binary"
	"errors"
	"net/netip"

	"golang.org/x/sys/unix"
)

var (
	errShort   = errors.New("decode packet: too short")
	errVersion = errors.New("decode packet: neither IPv4 nor IPv6")
)

// UnmarshalBinary sets the packet to the one in b, from its IP header on. Payload is a part of b, not a copy.
//
// Checksums are not looked at: a packet captured on the host that sent it, or on a veth peer, has none yet, as the
// kernel leaves them to hardware that is not there. Fragments and extension headers of IPv6 are not looked into: they
// are packets of a protocol that Packet does not know. The error is not nil if b is cut short, or no IP packet.
func (p *Packet) UnmarshalBinary(b []byte) error {
	*p = Packet{Frame: p.Frame}
	l4, err := p.decodeIP(b)
	if err != nil {
		return err
	}
	switch p.Proto {
	case TCP:
		if len(l4) < tcpLen || int(l4[12]>>4)*4 < tcpLen || len(l4) < int(l4[12]>>4)*4 {
			return errShort
		}
		p.setPorts(l4)
		p.Seq, p.Ack = binary.BigEndian.Uint32(l4[4:]), binary.BigEndian.Uint32(l4[8:])
		p.Flags = TCPFlags(l4[13])
		p.Payload = l4[int(l4[12]>>4)*4:]
	case UDP:
		if len(l4) < udpLen {
			return errShort
		}
		p.setPorts(l4)
		p.Payload = l4[udpLen:]
	case ICMP:
		if len(l4) < icmpLen {
			return errShort
		}
		p.Type, p.Code, p.Rest = l4[0], l4[1], binary.BigEndian.Uint32(l4[4:])
		p.Payload = l4[icmpLen:]
	default:
		p.Payload = l4
	}
	return nil
}

// decodeIP sets what the IP header tells and returns what follows it: less than the header promises, if b is cut short
// as in the quote of an ICMP error, and without the padding of a short frame.
func (p *Packet) decodeIP(b []byte) (l4 []byte, err error) {
	if len(b) == 0 {
		return nil, errShort
	}
	switch b[0] >> 4 {
	case 4:
		header := int(b[0]&0xf) * 4
		if header < ipv4Len || len(b) < header {
			return nil, errShort
		}
		total := int(binary.BigEndian.Uint16(b[2:]))
		if total < header {
			return nil, errShort
		}
		p.TTL, p.Proto = b[8], Proto(b[9])
		p.setAddrs(b[12:16], b[16:20])
		if binary.BigEndian.Uint16(b[6:])&0x1fff != 0 {
			p.Proto = unix.IPPROTO_FRAGMENT // not the first fragment: the ports are not in it
		}
		return b[header:min(total, len(b))], nil
	case 6:
		if len(b) < ipv6Len {
			return nil, errShort
		}
		total := ipv6Len + int(binary.BigEndian.Uint16(b[4:]))
		p.TTL, p.Proto = b[7], Proto(b[6])
		switch p.Proto {
		case unix.IPPROTO_ICMPV6:
			p.Proto = ICMP
		case unix.IPPROTO_ICMP:
			p.Proto = unix.IPPROTO_RAW // ICMP of IPv4 has no meaning over IPv6
		}
		p.setAddrs(b[8:24], b[24:40])
		return b[ipv6Len:min(total, len(b))], nil
	}
	return nil, errVersion
}

func (p *Packet) setAddrs(src, dst []byte) {
	s, _ := netip.AddrFromSlice(src)
	d, _ := netip.AddrFromSlice(dst)
	p.Src, p.Dst = netip.AddrPortFrom(s, 0), netip.AddrPortFrom(d, 0)
}

func (p *Packet) setPorts(l4 []byte) {
	p.Src = netip.AddrPortFrom(p.Src.Addr(), binary.BigEndian.Uint16(l4))
	p.Dst = netip.AddrPortFrom(p.Dst.Addr(), binary.BigEndian.Uint16(l4[2:]))
}
