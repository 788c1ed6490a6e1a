package nflog

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"
)

// Lengths of headers, in bytes and without options.
const (
	ipv4Len = 20
	ipv6Len = 40
	extLen  = 8 // extension headers are at least this long
)

// packet reads the headers of an IP packet, as far as they reach. The version
// comes from the packet: in the output hook the kernel does not report the
// protocol of the link.
func (m *Message) packet(b []byte) {
	if len(b) == 0 {
		return
	}
	switch b[0] >> 4 {
	case 4:
		m.ipv4(b)
	case 6:
		m.ipv6(b)
	}
}

func (m *Message) ipv4(b []byte) {
	if len(b) < ipv4Len {
		return
	}
	m.Src = netip.AddrFrom4([4]byte(b[12:16]))
	m.Proto = b[9]
	header, fragment := int(b[0]&0xf)*4, binary.BigEndian.Uint16(b[6:])&0x1fff
	if fragment == 0 && ipv4Len <= header && header <= len(b) {
		m.transport(b[header:])
	}
}

func (m *Message) ipv6(b []byte) {
	if len(b) < ipv6Len {
		return
	}
	m.Src = netip.AddrFrom16([16]byte(b[8:24]))
	next, b := b[6], b[ipv6Len:]
	for isExtension(next) {
		if len(b) < extLen {
			return
		}
		length := extLen + 8*int(b[1])
		switch next {
		case unix.IPPROTO_AH:
			length = 8 + 4*int(b[1]) // counted in words, less two (RFC 4302, 2.2)
		case unix.IPPROTO_FRAGMENT:
			length = extLen
			if binary.BigEndian.Uint16(b[2:])>>3 != 0 {
				m.Proto = b[0]
				return
			}
		}
		next, b = b[0], b[min(length, len(b)):]
	}
	m.Proto = next
	m.transport(b)
}

// isExtension reports whether an IPv6 header is followed by another (RFC 8200,
// 4; RFC 4302).
func isExtension(header uint8) bool {
	switch header {
	case unix.IPPROTO_HOPOPTS, unix.IPPROTO_ROUTING, unix.IPPROTO_FRAGMENT, unix.IPPROTO_AH, unix.IPPROTO_DSTOPTS:
		return true
	}
	return false
}

// transport reads what follows the IP headers, by m.Proto.
func (m *Message) transport(b []byte) {
	switch m.Proto {
	case unix.IPPROTO_TCP, unix.IPPROTO_UDP, unix.IPPROTO_UDPLITE, unix.IPPROTO_SCTP, unix.IPPROTO_DCCP:
		if len(b) >= 4 {
			m.DstPort = binary.BigEndian.Uint16(b[2:])
		}
	}
}
