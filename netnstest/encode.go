package netnstest

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
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

// AppendBinary appends the packet to b, from its IP header on and with the
// right checksums. It returns an error if the addresses are not two of one
// family, or if the packet is longer than IP allows.
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
	if len(p.Payload) > math.MaxUint16-p.headerLen() {
		return fmt.Errorf("encode %v: longer than 65,535 bytes", p)
	}
	options := gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}
	if err := gopacket.SerializeLayers(buf, options, append(before, p.layers()...)...); err != nil {
		return fmt.Errorf("encode %v: %w", p, err)
	}
	return nil
}

// headerLen returns the length of the headers, in bytes. That of IPv6 does not
// count in its length field, but the packets of both families are kept short.
func (p Packet) headerLen() int {
	ip := ipv4Len
	if p.Src.Addr().Is6() {
		ip = ipv6Len
	}
	return ip + map[Proto]int{TCP: tcpLen, UDP: udpLen, ICMP: icmpLen}[p.Proto]
}

func (p Packet) layers() []gopacket.SerializableLayer {
	var ip interface {
		gopacket.SerializableLayer
		gopacket.NetworkLayer
	}
	ttl, proto, is4 := cmp.Or(p.TTL, defaultTTL), layers.IPProtocol(p.Proto), p.Src.Addr().Is4()
	src, dst := p.Src.Addr().AsSlice(), p.Dst.Addr().AsSlice()
	if is4 {
		ip = &layers.IPv4{Version: 4, TTL: ttl, Protocol: proto, SrcIP: src, DstIP: dst}
	} else {
		if p.Proto == ICMP {
			proto = unix.IPPROTO_ICMPV6
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
