package netnstest

import "fmt"

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
	case NoAnswer:
		return "none"
	case AnswerSYNACK:
		return "SYN+ACK"
	case AnswerRST:
		return "RST"
	case AnswerSegment:
		return "TCP " + a.Packet.Flags.String()
	case AnswerUDP:
		return fmt.Sprintf("UDP %q", a.Packet.Payload)
	case AnswerEcho:
		return "echo"
	case AnswerPortUnreachable:
		return "port unreachable"
	case AnswerICMPError:
		return fmt.Sprintf("ICMP error type %d code %d", a.Packet.Type, a.Packet.Code)
	}
	return fmt.Sprintf("AnswerKind(%d)", uint8(a.Kind))
}

// classify returns what kind of answer q is to p, NoAnswer if it is none.
func classify(p, q Packet) AnswerKind {
	if quoted, ok := q.Quoted(); ok {
		if quoted.Src == p.Src && quoted.Dst == p.Dst && quoted.Proto == p.Proto && (p.Proto != ICMP || quoted.Rest == p.Rest) {
			if q.isPortUnreachable() {
				return AnswerPortUnreachable
			}
			return AnswerICMPError
		}
		return NoAnswer
	}
	if q.Proto != p.Proto || q.Src != p.Dst || q.Dst != p.Src {
		return NoAnswer
	}
	switch p.Proto {
	case UDP:
		return AnswerUDP
	case ICMP:
		if q.isEchoReply() && q.Rest == p.Rest {
			return AnswerEcho
		}
		return NoAnswer
	case TCP:
		switch {
		case q.Flags&FlagRST != 0:
			return AnswerRST
		case q.Flags&(FlagSYN|FlagACK) == FlagSYN|FlagACK:
			return AnswerSYNACK
		}
		return AnswerSegment
	}
	return NoAnswer
}
