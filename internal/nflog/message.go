package nflog

import (
	"encoding/binary"
	"net/netip"
	"time"

	"github.com/portmon/portmon/internal/nfnl"
)

// Message is what the kernel reports about one packet that a rule logged. What
// the packet does not have is zero, and so is what the rule's snaplen has cut
// off.
type Message struct {
	// Time is when the packet came in, to the microsecond, by the clock that
	// people set. It is the zero Time in the output and postrouting hooks.
	// Linux before 6.6 reports it only while some program asks for the times of
	// packets, as tcpdump does.
	Time time.Time

	// Prefix is the rule's `log prefix`.
	Prefix string

	// Src is the source address of the IP header.
	Src netip.Addr

	// Proto is the transport protocol, IPPROTO_*. In IPv6 it is what follows
	// the extension headers. In a fragment other than the first it is what the
	// packet says, but nothing more is known of it.
	Proto uint8

	// DstPort is the destination port of TCP, UDP, UDP-Lite, SCTP and DCCP.
	DstPort uint16

	// Seq counts the messages of the group, from 0 when it was bound; a gap is
	// messages that were lost.
	Seq uint32
}

// Attributes of a message: enum nfulnl_attr_type of
// include/uapi/linux/netfilter/nfnetlink_log.h.
const (
	attrTimestamp = 3  // NFULA_TIMESTAMP: struct nfulnl_msg_packet_timestamp: seconds, microseconds, each 8 bytes
	attrPayload   = 9  // NFULA_PAYLOAD: the packet from its network header on
	attrPrefix    = 10 // NFULA_PREFIX
	attrSeq       = 12 // NFULA_SEQ
)

// Decode fills in m from the attributes of an NFULNL_MSG_PACKET, which follow
// its nfgenmsg header. It allocates nothing but the prefix, and not even that
// if m has the same already. It fails only on attributes that are cut off:
// rules may log packets that are cut off, or are not IP.
func (m *Message) Decode(attrs []byte) error {
	var prefix []byte
	*m = Message{Prefix: m.Prefix}
	for a, err := range nfnl.Attrs(attrs) {
		if err != nil {
			return err
		}
		switch v := a.Data; a.Type {
		case attrTimestamp:
			if len(v) == 16 {
				m.Time = time.Unix(int64(binary.BigEndian.Uint64(v)), 1000*int64(binary.BigEndian.Uint64(v[8:])))
			}
		case attrPayload:
			m.packet(v)
		case attrPrefix:
			prefix = a.Text()
		case attrSeq:
			m.Seq = a.Uint32()
		}
	}
	if m.Prefix != string(prefix) {
		m.Prefix = string(prefix)
	}
	return nil
}
