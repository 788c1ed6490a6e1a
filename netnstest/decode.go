package netnstest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"golang.org/x/sys/unix"
)

var (
	errShort   = errors.New("decode packet: too short")
	errVersion = errors.New("decode packet: neither IPv4 nor IPv6")
)

// UnmarshalBinary sets the packet to the one in b, from its IP header on.
// Payload is a part of b, not a copy.
//
// Checksums are not looked at: a packet captured on the host that sent it, or
// on a veth peer, has none yet, as the kernel leaves them to hardware that is
// not there. Fragments and extension headers of IPv6 are not looked into: they
// are packets of a protocol that Packet does not know. The error is not nil if
// b is cut short, or not an IP packet.
func (p *Packet) UnmarshalBinary(b []byte) error {
	*p = Packet{Frame: p.Frame}
	l4, err := p.decodeIP(b)
	if err != nil {
		return err
	}
	p.Payload = l4
	switch p.Proto {
	case TCP:
		var tcp layers.TCP
		if err = tcp.DecodeFromBytes(l4, gopacket.NilDecodeFeedback); err == nil {
			p.setPorts(l4)
			p.Seq, p.Ack, p.Flags, p.Payload = tcp.Seq, tcp.Ack, TCPFlags(l4[13]), tcp.Payload
		}
	case UDP:
		var udp layers.UDP
		if err = udp.DecodeFromBytes(l4, gopacket.NilDecodeFeedback); err == nil {
			p.setPorts(l4)
			p.Payload = udp.Payload
		}
	case ICMP:
		if len(l4) < icmpLen {
			return errShort
		}
		p.Type, p.Code, p.Rest, p.Payload = l4[0], l4[1], binary.BigEndian.Uint32(l4[4:]), l4[icmpLen:]
	}
	if err != nil {
		return fmt.Errorf("decode %v packet: %w", p.Proto, err)
	}
	return nil
}

// decodeIP sets what the IP header has and returns what follows it: less than
// the header promises, if b is cut short as in the quote of an ICMP error, and
// without the padding of a short frame.
func (p *Packet) decodeIP(b []byte) (l4 []byte, err error) {
	if len(b) == 0 {
		return nil, errShort
	}
	switch b[0] >> 4 {
	case 4:
		var ip layers.IPv4
		if err := ip.DecodeFromBytes(b, gopacket.NilDecodeFeedback); err != nil {
			return nil, fmt.Errorf("decode packet: %w", err)
		}
		p.TTL, p.Proto = ip.TTL, Proto(ip.Protocol)
		p.setAddrs(ip.SrcIP, ip.DstIP)
		if ip.FragOffset != 0 {
			p.Proto = unix.IPPROTO_FRAGMENT // not the first fragment: the ports are not in it
		}
		return ip.Payload, nil
	case 6:
		var ip layers.IPv6
		if err := ip.DecodeFromBytes(b, gopacket.NilDecodeFeedback); err != nil {
			return nil, fmt.Errorf("decode packet: %w", err)
		}
		p.TTL, p.Proto = ip.HopLimit, Proto(ip.NextHeader)
		switch p.Proto {
		case unix.IPPROTO_ICMPV6:
			p.Proto = ICMP
		case unix.IPPROTO_ICMP:
			p.Proto = unix.IPPROTO_RAW // ICMP of IPv4 has no meaning over IPv6
		}
		p.setAddrs(ip.SrcIP, ip.DstIP)
		// Not ip.Payload, which begins behind hop-by-hop options.
		if l4 = b[ipv6Len:min(len(b), ipv6Len+int(ip.Length))]; len(l4) == 0 {
			return nil, errShort
		}
		return l4, nil
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
