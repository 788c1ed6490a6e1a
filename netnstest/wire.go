package netnstest

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"net/netip"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
)

var errFamilies = errors.New("source and destination are not both IPv4 or both IPv6")

// AppendBinary appends the packet to b, from its IP header on and with the
// right checksums. It returns an error if the addresses are not two of one
// family, or if the packet is longer than 65,535 bytes.
func (p Packet) AppendBinary(b []byte) ([]byte, error) {
	buf := gopacket.NewSerializeBuffer()
	if err := p.encode(buf); err != nil {
		return b, err
	}
	return append(b, buf.Bytes()...), nil
}

// encode writes the packet into a buffer, behind the layers given.
func (p Packet) encode(buf gopacket.SerializeBuffer, before ...gopacket.SerializableLayer) error {
	src, dst := p.Src.Addr(), p.Dst.Addr()
	if !src.IsValid() || !dst.IsValid() || src.Is4() != dst.Is4() || src.Is4In6() || dst.Is4In6() {
		return fmt.Errorf("encode %v: %w", p, errFamilies)
	}
	options := gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}
	err := gopacket.SerializeLayers(buf, options, append(before, p.layers()...)...)
	if err == nil && len(buf.Bytes()) > math.MaxUint16 {
		err = errors.New("longer than 65,535 bytes")
	}
	if err != nil {
		return fmt.Errorf("encode %v: %w", p, err)
	}
	return nil
}

func (p Packet) layers() []gopacket.SerializableLayer {
	var ip interface {
		gopacket.SerializableLayer
		gopacket.NetworkLayer
	}
	ttl, proto, is4 := cmp.Or(p.TTL, 64), layers.IPProtocol(p.Proto), p.Src.Addr().Is4()
	src, dst := p.Src.Addr().AsSlice(), p.Dst.Addr().AsSlice()
	if is4 {
		ip = &layers.IPv4{Version: 4, TTL: ttl, Protocol: proto, SrcIP: src, DstIP: dst}
	} else {
		if p.Proto == ICMP {
			proto = layers.IPProtocolICMPv6
		}
		ip = &layers.IPv6{Version: 6, HopLimit: ttl, NextHeader: proto, SrcIP: src, DstIP: dst}
	}
	payload := gopacket.Payload(p.Payload)
	switch {
	case p.Proto == TCP:
		has := func(f TCPFlags) bool { return p.Flags&f != 0 }
		// A window of 64,240 is what Linux opens a connection with over
		// Ethernet.
		tcp := &layers.TCP{
			SrcPort: layers.TCPPort(p.Src.Port()), DstPort: layers.TCPPort(p.Dst.Port()),
			Seq: p.Seq, Ack: p.Ack, Window: 64240,
			FIN: has(FlagFIN), SYN: has(FlagSYN), RST: has(FlagRST), PSH: has(FlagPSH),
			ACK: has(FlagACK), URG: has(FlagURG), ECE: has(FlagECE), CWR: has(FlagCWR),
		}
		_ = tcp.SetNetworkLayerForChecksum(ip) // no error with IP
		return []gopacket.SerializableLayer{ip, tcp, payload}
	case p.Proto == UDP:
		udp := &layers.UDP{SrcPort: layers.UDPPort(p.Src.Port()), DstPort: layers.UDPPort(p.Dst.Port())}
		_ = udp.SetNetworkLayerForChecksum(ip)
		return []gopacket.SerializableLayer{ip, udp, payload}
	case p.Proto == ICMP && is4:
		icmp := &layers.ICMPv4{
			TypeCode: layers.CreateICMPv4TypeCode(p.Type, p.Code), Id: uint16(p.Rest >> 16), Seq: uint16(p.Rest),
		}
		return []gopacket.SerializableLayer{ip, icmp, payload}
	case p.Proto == ICMP:
		icmp := &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(p.Type, p.Code)}
		_ = icmp.SetNetworkLayerForChecksum(ip)
		rest := gopacket.Payload(binary.BigEndian.AppendUint32(nil, p.Rest))
		return []gopacket.SerializableLayer{ip, icmp, rest, payload}
	}
	return []gopacket.SerializableLayer{ip, payload}
}

// decode returns the IP packet in what was captured, or quoted by an ICMP
// error. ok is false if there is none.
//
// Checksums are not looked at: a packet captured on the host that sent it, or
// on a veth peer, has none yet, as the kernel leaves them to hardware that is
// not there. Extension headers of IPv6 are not looked into: they are protocols
// that Packet does not know. Of fragments, and of what is cut short, it has no
// ports: all that follows the IP header is payload.
func decode(captured gopacket.Packet) (p Packet, ok bool) {
	var src, dst []byte
	switch ip := captured.NetworkLayer().(type) {
	case *layers.IPv4:
		p, src, dst = Packet{TTL: ip.TTL, Proto: Proto(ip.Protocol), Payload: ip.Payload}, ip.SrcIP, ip.DstIP
	case *layers.IPv6:
		p, src, dst = Packet{TTL: ip.HopLimit, Proto: Proto(ip.NextHeader), Payload: ip.Payload}, ip.SrcIP, ip.DstIP
		if ip.NextHeader == layers.IPProtocolICMPv6 {
			p.Proto = ICMP
		}
	default:
		return Packet{}, false
	}
	var srcPort, dstPort uint16
	tcp, _ := captured.TransportLayer().(*layers.TCP)
	udp, _ := captured.TransportLayer().(*layers.UDP)
	switch b := p.Payload; {
	case p.Proto == TCP && tcp != nil && len(tcp.Contents) > 0:
		srcPort, dstPort, p.Payload = uint16(tcp.SrcPort), uint16(tcp.DstPort), tcp.Payload
		p.Flags, p.Seq, p.Ack = TCPFlags(tcp.Contents[13]), tcp.Seq, tcp.Ack
	case p.Proto == UDP && udp != nil && len(udp.Contents) > 0:
		srcPort, dstPort, p.Payload = uint16(udp.SrcPort), uint16(udp.DstPort), udp.Payload
	case p.Proto == ICMP && len(b) >= 8:
		p.Type, p.Code, p.Rest, p.Payload = b[0], b[1], binary.BigEndian.Uint32(b[4:]), b[8:]
	}
	s, _ := netip.AddrFromSlice(src)
	d, _ := netip.AddrFromSlice(dst)
	p.Src, p.Dst = netip.AddrPortFrom(s, srcPort), netip.AddrPortFrom(d, dstPort)
	return p, true
}
