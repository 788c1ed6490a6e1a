package capture

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// link finds the IP packet in a frame, and records what the frame's header says
// about it. The error is errNotIP, or damage.
type link func(frame []byte, p *Packet) error

var (
	errNotIP = errors.New("not an IP packet")
	errShort = damagef("a frame that ends within its header")
)

// linkOf returns the function that reads a link type
// (www.tcpdump.org/linktypes.html).
func linkOf(linkType uint32) (link, error) {
	switch linkType {
	case 0, 108: // NULL, LOOP
		return loopback, nil
	case 1: // ETHERNET
		return ethernet, nil
	case 12, 14, 101, 228, 229: // RAW, as several systems number it, IPV4, IPV6
		return func(frame []byte, p *Packet) error { return p.setIP(frame, 0) }, nil
	case 113: // LINUX_SLL
		return cooked, nil
	case 276: // LINUX_SLL2
		return cooked2, nil
	}
	return nil, fmt.Errorf("a capture of link type %d is not read: capture Ethernet, raw IP, or Linux's \"any\"", linkType)
}

// loopback frames begin with the number of an address family, which differs
// between systems, in either byte order.
func loopback(b []byte, p *Packet) error {
	if len(b) < 4 {
		return errShort
	}
	switch max(binary.LittleEndian.Uint16(b), binary.BigEndian.Uint16(b[2:])) {
	case unix.AF_INET, unix.AF_INET6, 24, 28, 30: // NetBSD's, FreeBSD's and macOS's AF_INET6
		return p.setIP(b[4:], 0)
	}
	return errNotIP
}

func ethernet(b []byte, p *Packet) error {
	if len(b) < 14 {
		return errShort
	}
	if isGroup(b) {
		p.Path = Elsewhere
	}
	return p.setProtocol(binary.BigEndian.Uint16(b[12:]), b[14:])
}

// isGroup reports whether a link address is a broadcast or a multicast.
func isGroup(mac []byte) bool { return mac[0]&1 != 0 }

// cooked frames are what Linux writes for the device "any".
func cooked(b []byte, p *Packet) error {
	if len(b) < 16 {
		return errShort
	}
	p.setCooked(binary.BigEndian.Uint16(b), binary.BigEndian.Uint16(b[2:]))
	return p.setProtocol(binary.BigEndian.Uint16(b[14:]), b[16:])
}

func cooked2(b []byte, p *Packet) error {
	if len(b) < 20 {
		return errShort
	}
	p.setCooked(uint16(b[10]), binary.BigEndian.Uint16(b[8:]))
	return p.setProtocol(binary.BigEndian.Uint16(b), b[20:])
}

func (p *Packet) setCooked(packetType, hardware uint16) {
	switch packetType {
	case unix.PACKET_HOST:
		p.Path = Received
	case unix.PACKET_OUTGOING:
		p.Path = Sent
	default:
		p.Path = Elsewhere
	}
	if hardware == unix.ARPHRD_LOOPBACK && p.Path == Received {
		p.In = "lo"
	}
}

// setProtocol finds the packet behind VLAN tags.
func (p *Packet) setProtocol(protocol uint16, b []byte) error {
	for {
		switch protocol {
		case unix.ETH_P_IP:
			return p.setIP(b, 4)
		case unix.ETH_P_IPV6:
			return p.setIP(b, 6)
		case unix.ETH_P_8021Q, unix.ETH_P_8021AD, unix.ETH_P_QINQ1:
			if len(b) < 4 {
				return errShort
			}
			protocol, b = binary.BigEndian.Uint16(b[2:]), b[4:]
		default:
			return errNotIP
		}
	}
}

// setIP takes a packet of the given version; 0 stands for either.
func (p *Packet) setIP(b []byte, version byte) error {
	if len(b) == 0 {
		return errShort
	}
	if v := b[0] >> 4; v != 4 && v != 6 || version != 0 && v != version {
		return damagef("an IP packet of version %d", v)
	}
	p.Data = b
	return nil
}
