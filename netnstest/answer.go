package netnstest

import (
	"fmt"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
)

// AnswerKind tells answers apart as a firewall's tests need them.
type AnswerKind uint8

// What Probe may see.
const (
	// NoAnswer is silence: the packet was dropped, or somebody took it who does
	// not answer.
	NoAnswer AnswerKind = iota
	// AnswerSYNACK is from an open TCP port.
	AnswerSYNACK
	// AnswerRST is from a closed TCP port, or a firewall.
	AnswerRST
	// AnswerSegment is any other TCP packet.
	AnswerSegment
	// AnswerUDP is a datagram.
	AnswerUDP
	// AnswerEcho is an ICMP echo reply.
	AnswerEcho
	// AnswerPortUnreachable is the ICMP error from a closed UDP port, or a
	// firewall.
	AnswerPortUnreachable
	// AnswerICMPError is any other ICMP error that quotes the packet:
	// Packet.Type and Packet.Code tell which.
	AnswerICMPError
)

// Answer is what came back to a packet. The zero Answer is none.
type Answer struct {
	Kind AnswerKind
	// Packet is the first answer, if there was one.
	Packet Packet
}

// String returns one of "none", "SYN+ACK", "RST", "TCP" with flags, "UDP" with
// the payload, "echo", "port unreachable", and "ICMP error" with type and code.
func (a Answer) String() string {
	switch a.Kind {
	case AnswerSegment:
		return "TCP " + a.Packet.Flags.String()
	case AnswerUDP:
		return fmt.Sprintf("UDP %q", a.Packet.Payload)
	case AnswerICMPError:
		return fmt.Sprintf("ICMP error type %d code %d", a.Packet.Type, a.Packet.Code)
	}
	return map[AnswerKind]string{
		NoAnswer: "none", AnswerSYNACK: "SYN+ACK", AnswerRST: "RST",
		AnswerEcho: "echo", AnswerPortUnreachable: "port unreachable",
	}[a.Kind]
}

// classify returns what kind of answer q is to p, NoAnswer if it is none.
func classify(p, q Packet) AnswerKind {
	isError := q.Proto == ICMP && !echoReply.is(q)
	switch {
	case isError && quotes(q, p) && portUnreachable.is(q):
		return AnswerPortUnreachable
	case isError && quotes(q, p):
		return AnswerICMPError
	case isError, q.Proto != p.Proto, q.Src != p.Dst, q.Dst != p.Src, q.Rest != p.Rest:
		return NoAnswer
	case p.Proto == ICMP:
		return AnswerEcho
	case p.Proto == UDP:
		return AnswerUDP
	case p.Proto != TCP:
		return NoAnswer
	case q.Flags&FlagRST != 0:
		return AnswerRST
	case q.Flags&(FlagSYN|FlagACK) == FlagSYN|FlagACK:
		return AnswerSYNACK
	}
	return AnswerSegment
}

// quotes reports whether the ICMP packet q is about p.
func quotes(q, p Packet) bool {
	first := layers.LayerTypeIPv4
	if q.Src.Addr().Is6() {
		first = layers.LayerTypeIPv6
	}
	quoted, ok := decode(gopacket.NewPacket(q.Payload, first, gopacket.Lazy))
	return ok && quoted.Src == p.Src && quoted.Dst == p.Dst && quoted.Proto == p.Proto && quoted.Rest == p.Rest
}
