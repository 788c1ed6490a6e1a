package netnstest

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"

	"github.com/gopacket/gopacket/layers"
	"golang.org/x/sys/unix"
)

// Proto is the number of a protocol on top of IP.
type Proto uint8

// The protocols that Packet knows. Of others it has the number, and the bytes
// after the IP header as Payload.
const (
	// ICMP stands for ICMPv6 (58) between IPv6 addresses, both when sent and
	// when captured.
	ICMP Proto = unix.IPPROTO_ICMP
	TCP  Proto = unix.IPPROTO_TCP
	UDP  Proto = unix.IPPROTO_UDP
)

func (p Proto) String() string {
	switch p {
	case ICMP:
		return "ICMP"
	case TCP:
		return "TCP"
	case UDP:
		return "UDP"
	}
	return fmt.Sprintf("protocol %d", uint8(p))
}

// TCPFlags are the flags of a TCP header: byte 13 of it (RFC 9293, 3.1).
type TCPFlags uint8

// The flags, in the order of their bits.
const (
	FlagFIN TCPFlags = 1 << iota
	FlagSYN
	FlagRST
	FlagPSH
	FlagACK
	FlagURG
	FlagECE
	FlagCWR
)

// String returns the flags as tcpdump(8) writes them: "[S.]" is SYN and ACK.
func (f TCPFlags) String() string {
	if f == 0 {
		return "[none]"
	}
	b := []byte{'['}
	for i, char := range []byte("FSRP.UEW") { // from FlagFIN to FlagCWR
		if f&(1<<i) != 0 {
			b = append(b, char)
		}
	}
	return string(append(b, ']'))
}

// Packet is an IPv4 or IPv6 packet, to send or as it was captured. What is not
// set is sent as zero, but for TTL.
type Packet struct {
	// Src and Dst are of one family. Their ports are those of TCP and UDP, 0
	// for other protocols.
	Src, Dst netip.AddrPort
	Proto    Proto
	// TTL is the time to live, or hop limit. 0 is sent as 64.
	TTL uint8

	// Flags, Seq and Ack are of TCP.
	Flags    TCPFlags
	Seq, Ack uint32

	// Type, Code and Rest are of ICMP; Rest is the second word of its header:
	// of an echo, the identifier and sequence.
	Type, Code uint8
	Rest       uint32

	// Payload is what follows the header of the protocol. TCP options are
	// skipped when captured.
	Payload []byte

	// Frame tells of the frame that a captured packet came in. It is of no
	// meaning for one to send.
	Frame Frame
}

// MAC is the address of an interface on a link.
type MAC [6]byte

func (m MAC) String() string {
	return fmt.Sprintf("%02x:%02x:%02x:%02x:%02x:%02x", m[0], m[1], m[2], m[3], m[4], m[5])
}

// Frame is what is known of a captured packet from the link.
type Frame struct {
	Src, Dst MAC
	// Index is the number of the interface it was seen on: End.Index.
	Index int
	// Outgoing is set if the host that saw it was sending it.
	Outgoing bool
}

// SYN returns a packet that opens a TCP connection. Its source port is 0: Probe
// chooses one, Send and Burst do not.
func SYN(src netip.Addr, dst netip.AddrPort) Packet {
	return Packet{Proto: TCP, Src: netip.AddrPortFrom(src, 0), Dst: dst, Flags: FlagSYN}
}

// Datagram returns a UDP packet. Its source port is 0: Probe chooses one, Send
// and Burst do not.
func Datagram(src netip.Addr, dst netip.AddrPort, payload string) Packet {
	return Packet{Proto: UDP, Src: netip.AddrPortFrom(src, 0), Dst: dst, Payload: []byte(payload)}
}

// Ping returns an ICMP echo request. id goes into identifier and sequence, and
// comes back in Rest of the reply.
func Ping(src, dst netip.Addr, id uint32) Packet {
	p := Packet{
		Proto: ICMP, Src: netip.AddrPortFrom(src, 0), Dst: netip.AddrPortFrom(dst, 0), Type: layers.ICMPv4TypeEchoRequest, Rest: id,
	}
	if dst.Is6() {
		p.Type = layers.ICMPv6TypeEchoRequest
	}
	return p
}

// PortUnreachable returns the ICMP error by which from, the destination of
// cause or a router on the way to it, tells the source of cause that nobody
// serves its port.
func PortUnreachable(from netip.Addr, cause Packet) Packet {
	p := Packet{
		Proto: ICMP, Src: netip.AddrPortFrom(from, 0), Dst: netip.AddrPortFrom(cause.Src.Addr(), 0),
		Type: layers.ICMPv4TypeDestinationUnreachable, Code: layers.ICMPv4CodePort,
	}
	if from.Is6() {
		p.Type, p.Code = layers.ICMPv6TypeDestinationUnreachable, layers.ICMPv6CodePortUnreachable
	}
	quote, err := cause.AppendBinary(nil)
	if err != nil {
		// A packet that cannot be sent cannot have caused an error. Send will
		// say so too: p quotes nothing.
		return p
	}
	// 548 bytes keep both errors within what may be sent over any link (RFC
	// 1812, 4.3.2.3).
	p.Payload = quote[:min(len(quote), 548)]
	return p
}

// Quoted returns the packet that an ICMP error quotes: its addresses, protocol
// and ports, and, where they are quoted, type and rest of an echo. ok is false
// if p is no ICMP error.
func (p Packet) Quoted() (quoted Packet, ok bool) {
	if !p.isICMPError() {
		return Packet{}, false
	}
	l4, err := quoted.decodeIP(p.Payload)
	if err != nil || len(l4) < 8 {
		return Packet{}, false
	}
	switch quoted.Proto {
	case TCP, UDP:
		quoted.setPorts(l4)
		if quoted.Proto == TCP {
			quoted.Seq = binary.BigEndian.Uint32(l4[4:])
		}
	case ICMP:
		quoted.Type, quoted.Code, quoted.Rest = l4[0], l4[1], binary.BigEndian.Uint32(l4[4:])
	}
	return quoted, true
}

func (p Packet) isICMPError() bool {
	if p.Proto != ICMP {
		return false
	}
	if p.Src.Addr().Is6() {
		return layers.ICMPv6TypeDestinationUnreachable <= p.Type && p.Type <= layers.ICMPv6TypeParameterProblem
	}
	return p.Type == layers.ICMPv4TypeDestinationUnreachable || p.Type == layers.ICMPv4TypeTimeExceeded || p.Type == layers.ICMPv4TypeParameterProblem
}

func (p Packet) isPortUnreachable() bool {
	if p.Src.Addr().Is6() {
		return p.Proto == ICMP && p.Type == layers.ICMPv6TypeDestinationUnreachable && p.Code == layers.ICMPv6CodePortUnreachable
	}
	return p.Proto == ICMP && p.Type == layers.ICMPv4TypeDestinationUnreachable && p.Code == layers.ICMPv4CodePort
}

func (p Packet) isEchoReply() bool {
	if p.Src.Addr().Is6() {
		return p.Proto == ICMP && p.Type == layers.ICMPv6TypeEchoReply
	}
	return p.Proto == ICMP && p.Type == layers.ICMPv4TypeEchoReply
}

// String returns the packet on one line, in the manner of tcpdump(8).
func (p Packet) String() string {
	var b strings.Builder
	switch p.Proto {
	case TCP:
		fmt.Fprintf(&b, "TCP %s > %s %s seq %d ack %d", p.Src, p.Dst, p.Flags, p.Seq, p.Ack)
	case UDP:
		fmt.Fprintf(&b, "UDP %s > %s", p.Src, p.Dst)
	case ICMP:
		fmt.Fprintf(&b, "ICMP %s > %s type %d code %d rest %#x", p.Src.Addr(), p.Dst.Addr(), p.Type, p.Code, p.Rest)
	default:
		fmt.Fprintf(&b, "%s %s > %s", p.Proto, p.Src.Addr(), p.Dst.Addr())
	}
	fmt.Fprintf(&b, " length %d", len(p.Payload))
	return b.String()
}
