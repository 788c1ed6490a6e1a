package nflog

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"
)

// ipv4Packet returns a packet from 192.0.2.1 to 192.0.2.2. words is the length
// of the header that it claims, in 4 bytes; fragment the flags and offset of a
// fragment.
func ipv4Packet(words uint8, fragment uint16, proto uint8, rest ...byte) []byte {
	b := []byte{4<<4 | words, 0, 0, 0, 0, 0, 0, 0, 64, proto, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2}
	binary.BigEndian.PutUint16(b[6:], fragment)
	return append(b, rest...)
}

// ipv6Packet returns a packet from 2001:db8::1 to 2001:db8::2.
func ipv6Packet(next uint8, rest ...byte) []byte {
	b := make([]byte, ipv6Len)
	b[0], b[6] = 6<<4, next
	copy(b[8:], []byte{0x20, 0x01, 0x0d, 0xb8, 15: 1})
	copy(b[24:], []byte{0x20, 0x01, 0x0d, 0xb8, 15: 2})
	return append(b, rest...)
}

const (
	tcp = unix.IPPROTO_TCP
	udp = unix.IPPROTO_UDP
)

var syn = []byte{4, 0, 0, 23, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 2, 0, 0, 0, 0, 0, 0}

// packets and what of them is to be read, but for the addresses.
var packets = []struct {
	name string
	b    []byte
	want Message
}{
	{"IPv4, TCP", ipv4Packet(5, 0, tcp, syn...), Message{Proto: tcp, DstPort: 23}},
	{"IPv4, header only", ipv4Packet(5, 0, tcp), Message{Proto: tcp}},
	{"IPv4, 3 bytes of TCP", ipv4Packet(5, 0, tcp, syn[:3]...), Message{Proto: tcp}},
	{"IPv4, 4 bytes of TCP", ipv4Packet(5, 0, tcp, syn[:4]...), Message{Proto: tcp, DstPort: 23}},
	{"IPv4, 13 bytes of TCP", ipv4Packet(5, 0, tcp, syn[:13]...), Message{Proto: tcp, DstPort: 23}},
	{"IPv4, 14 bytes of TCP", ipv4Packet(5, 0, tcp, syn[:14]...), Message{Proto: tcp, DstPort: 23}},
	{"IPv4, options", ipv4Packet(7, 0, udp, join(make([]byte, 8), segment)...), Message{Proto: udp, DstPort: 9}},
	{"IPv4, options cut off", ipv4Packet(7, 0, udp, segment[:7]...), Message{Proto: udp}},
	{"IPv4, most options", ipv4Packet(15, 0, tcp, join(make([]byte, 40), syn[:4])...), Message{Proto: tcp, DstPort: 23}},
	{"IPv4, header of 4 words", ipv4Packet(4, 0, udp, segment...), Message{Proto: udp}},
	{"IPv4, header of no words", ipv4Packet(0, 0, udp, segment...), Message{Proto: udp}},
	{"IPv4, do not fragment", ipv4Packet(5, 0x4000, udp, segment...), Message{Proto: udp, DstPort: 9}},
	{"IPv4, first fragment", ipv4Packet(5, 0x2000, udp, segment...), Message{Proto: udp, DstPort: 9}},
	{"IPv4, last fragment", ipv4Packet(5, 0x0001, udp, segment...), Message{Proto: udp}},
	{"IPv4, fragment far behind", ipv4Packet(5, 0x3000, udp, segment...), Message{Proto: udp}},
	{"IPv4, DCCP", ipv4Packet(5, 0, unix.IPPROTO_DCCP, segment...), Message{Proto: unix.IPPROTO_DCCP, DstPort: 9}},
	{"IPv4, UDP-Lite", ipv4Packet(5, 0, unix.IPPROTO_UDPLITE, segment...), Message{Proto: unix.IPPROTO_UDPLITE, DstPort: 9}},
	{"IPv4, ICMP", ipv4Packet(5, 0, unix.IPPROTO_ICMP, segment...), Message{Proto: unix.IPPROTO_ICMP}},
	{"IPv4 does not skip what IPv6 does", ipv4Packet(5, 0, unix.IPPROTO_AH, options(udp, 0)...), Message{Proto: unix.IPPROTO_AH}},

	{"IPv6, TCP", ipv6Packet(tcp, syn...), Message{Proto: tcp, DstPort: 23}},
	{"IPv6, header only", ipv6Packet(tcp), Message{Proto: tcp}},
	{
		"IPv6, routing, destination options",
		ipv6Packet(unix.IPPROTO_ROUTING, join(options(unix.IPPROTO_DSTOPTS, 1), options(tcp, 0), syn)...),
		Message{Proto: tcp, DstPort: 23},
	},
	{
		"IPv6, authentication of 24 bytes", // the length is 4, of 4 bytes each, beyond the first 8
		ipv6Packet(unix.IPPROTO_AH, join([]byte{udp, 4}, make([]byte, 22), segment)...),
		Message{Proto: udp, DstPort: 9},
	},
	{"IPv6, encrypted", ipv6Packet(unix.IPPROTO_ESP, segment...), Message{Proto: unix.IPPROTO_ESP}},
	{"IPv6, nothing within", ipv6Packet(unix.IPPROTO_NONE, segment...), Message{Proto: unix.IPPROTO_NONE}},
	{"IPv6, options cut off", ipv6Packet(unix.IPPROTO_HOPOPTS, options(udp, 0)[:7]...), Message{}},
	{"IPv6, options without end", ipv6Packet(unix.IPPROTO_HOPOPTS, udp, 255, 0, 0, 0, 0, 0, 0, 4, 0, 0, 9), Message{Proto: udp}},
	{"IPv6, first fragment", ipv6Packet(unix.IPPROTO_FRAGMENT, join(fragment(udp, 0), segment)...), Message{Proto: udp, DstPort: 9}},
	{
		"IPv6, first fragment with reserved bits",
		ipv6Packet(unix.IPPROTO_FRAGMENT, join([]byte{udp, 0, 0, 6, 0, 0, 0, 7}, segment)...),
		Message{Proto: udp, DstPort: 9},
	},
	{"IPv6, fragment", ipv6Packet(unix.IPPROTO_FRAGMENT, join(fragment(udp, 185), segment)...), Message{Proto: udp}},
	{"IPv6, fragment cut off", ipv6Packet(unix.IPPROTO_FRAGMENT, fragment(udp, 0)[:7]...), Message{}},
}

func TestPacket(t *testing.T) {
	for _, tt := range packets {
		var got Message
		got.packet(tt.b)
		want := tt.want
		want.Src = netip.MustParseAddr("192.0.2.1")
		if tt.b[0]>>4 == 6 {
			want.Src = netip.MustParseAddr("2001:db8::1")
		}
		if got != want {
			t.Errorf("%s:\n%+v, want\n%+v", tt.name, got, want)
		}
	}
}

func TestNoPacket(t *testing.T) {
	for _, b := range [][]byte{
		{}, {0x45}, {0x60}, {0x00}, make([]byte, 64), append([]byte{0x55}, make([]byte, 63)...),
		ipv4Packet(5, 0, udp)[:19], ipv6Packet(udp)[:39],
	} {
		var got Message
		got.packet(b)
		if got != (Message{}) {
			t.Errorf("%x: %+v", b, got)
		}
	}
}

// TestPacketCutOff cuts each packet everywhere: what is read of the rest is
// right, or zero.
func TestPacketCutOff(t *testing.T) {
	for _, tt := range packets {
		for n := range tt.b {
			checkCutOff(t, tt.b, n)
		}
	}
}

// checkCutOff compares what is read of a packet with what is read of its first
// n bytes.
func checkCutOff(t *testing.T, b []byte, n int) {
	t.Helper()
	var whole, part Message
	whole.packet(b)
	part.packet(b[:n])
	known := whole
	if !part.Src.IsValid() {
		known.Src = netip.Addr{}
	}
	if part.Proto == 0 {
		known.Proto = 0
	}
	if part.DstPort == 0 {
		known.DstPort = 0
	}
	if part != known {
		t.Errorf("%x: %+v; of the first %d bytes: %+v", b, whole, n, part)
	}
}
