package netnstest

import (
	"cmp"
	"fmt"
	"net/netip"

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
	var s string
	for i, char := range "FSRP.UEW" { // from FlagFIN to FlagCWR
		if f&(1<<i) != 0 {
			s += string(char)
		}
	}
	return "[" + cmp.Or(s, "none") + "]"
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

	// Outgoing is set if the host that captured the packet was sending it. It
	// is of no meaning for one to send.
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
	p := echoRequest.packet(src, dst)
	p.Rest = id
	return p
}

// PortUnreachable returns the ICMP error by which from, the destination of
// cause or a router on the way to it, tells the source of cause that nobody
// serves its port.
func PortUnreachable(from netip.Addr, cause Packet) Packet {
	p := portUnreachable.packet(from, cause.Src.Addr())
	// A packet that cannot be sent cannot have caused an error. Send will say
	// so too: p quotes nothing.
	quote, _ := cause.AppendBinary(nil)
	// 548 bytes keep both errors within what may be sent over any link (RFC
	// 1812, 4.3.2.3).
	p.Payload = quote[:min(len(quote), 548)]
	return p
}

// icmpKind is a kind of ICMP packet by its types and codes in IPv4 and IPv6.
type icmpKind struct{ type4, code4, type6, code6 uint8 }

var (
	echoRequest     = icmpKind{8, 0, 128, 0}
	echoReply       = icmpKind{0, 0, 129, 0}
	portUnreachable = icmpKind{3, 3, 1, 4}
)

func (k icmpKind) packet(src, dst netip.Addr) Packet {
	p := Packet{Proto: ICMP, Src: netip.AddrPortFrom(src, 0), Dst: netip.AddrPortFrom(dst, 0)}
	p.Type, p.Code = k.type4, k.code4
	if src.Is6() {
		p.Type, p.Code = k.type6, k.code6
	}
	return p
}

// is reports whether p, an ICMP packet, is of the kind.
func (k icmpKind) is(p Packet) bool {
	q := k.packet(p.Src.Addr(), p.Dst.Addr())
	return p.Type == q.Type && p.Code == q.Code
}

// String returns the packet on one line, in the manner of tcpdump(8).
func (p Packet) String() string {
	var s string
	switch p.Proto {
	case TCP:
		s = fmt.Sprintf("TCP %s > %s %s seq %d ack %d", p.Src, p.Dst, p.Flags, p.Seq, p.Ack)
	case UDP:
		s = fmt.Sprintf("UDP %s > %s", p.Src, p.Dst)
	case ICMP:
		s = fmt.Sprintf("ICMP %s > %s type %d code %d rest %#x", p.Src.Addr(), p.Dst.Addr(), p.Type, p.Code, p.Rest)
	default:
		s = fmt.Sprintf("protocol %d %s > %s", p.Proto, p.Src.Addr(), p.Dst.Addr())
	}
	return fmt.Sprintf("%s length %d", s, len(p.Payload))
}
