package nflog

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/internal/lab"
	"github.com/portmon/portmon/internal/nfnl"
	"github.com/portmon/portmon/netnstest"
)

var update = flag.Bool("update", false, "write testdata anew, from what this kernel logs")

// messagesFile holds the attributes of messages of a kernel, one on each line:
// type and value, both of which are the same on every machine. What they are of
// is told by samples, in the same order.
const messagesFile = "testdata/messages.txt"

// samples are packets, and what is to be known of them when their first 64
// bytes are logged as they come in.
var samples = []struct {
	name   string
	packet netnstest.Packet
	want   Message
}{
	{
		"IPv4 TCP", packet("198.51.100.7:1024", "192.0.2.2:23", unix.IPPROTO_TCP, nil),
		Message{Proto: unix.IPPROTO_TCP, DstPort: 23},
	},
	{
		"IPv6 TCP", packet("[2001:db8:1::7]:1024", "[2001:db8::2]:23", unix.IPPROTO_TCP, nil),
		Message{Proto: unix.IPPROTO_TCP, DstPort: 23},
	},
	{
		"IPv4 UDP", packet("198.51.100.7:1024", "192.0.2.2:53", unix.IPPROTO_UDP, bytes.Repeat([]byte{0xff}, 100)),
		Message{Proto: unix.IPPROTO_UDP, DstPort: 53},
	},
	{
		"IPv4 SCTP", packet("198.51.100.7:0", "192.0.2.2:0", unix.IPPROTO_SCTP, segment),
		Message{Proto: unix.IPPROTO_SCTP, DstPort: 9},
	},
	{
		"IPv4 GRE", packet("198.51.100.7:0", "192.0.2.2:0", unix.IPPROTO_GRE, segment),
		Message{Proto: unix.IPPROTO_GRE},
	},
	{
		"IPv6 ICMP", packet("[2001:db8:1::7]:0", "[2001:db8::2]:0", unix.IPPROTO_ICMP, nil),
		Message{Proto: unix.IPPROTO_ICMPV6},
	},
	{
		"IPv6 hop-by-hop options, UDP",
		packet("[2001:db8:1::7]:0", "[2001:db8::2]:0", unix.IPPROTO_HOPOPTS, join(options(unix.IPPROTO_UDP, 0), segment)),
		Message{Proto: unix.IPPROTO_UDP, DstPort: 9},
	},
	{
		"IPv6 hop-by-hop and destination options, UDP cut off",
		packet("[2001:db8:1::7]:0", "[2001:db8::2]:0", unix.IPPROTO_HOPOPTS,
			join(options(unix.IPPROTO_DSTOPTS, 0), options(unix.IPPROTO_UDP, 2), segment)),
		Message{Proto: unix.IPPROTO_UDP},
	},
	{
		"IPv6 first fragment",
		packet("[2001:db8:1::7]:0", "[2001:db8::2]:0", unix.IPPROTO_FRAGMENT, join(fragment(unix.IPPROTO_UDP, 0), segment)),
		Message{Proto: unix.IPPROTO_UDP, DstPort: 9},
	},
	{
		"IPv6 second fragment",
		packet("[2001:db8:1::7]:0", "[2001:db8::2]:0", unix.IPPROTO_FRAGMENT, join(fragment(unix.IPPROTO_UDP, 1), segment)),
		Message{Proto: unix.IPPROTO_UDP},
	},
}

func packet(src, dst string, proto netnstest.Proto, payload []byte) netnstest.Packet {
	return netnstest.Packet{
		Src: netip.MustParseAddrPort(src), Dst: netip.MustParseAddrPort(dst), Proto: proto, Payload: payload,
		Flags: netnstest.FlagSYN | netnstest.FlagACK,
	}
}

// segment is a UDP header and more: ports 1024 and 9, length, checksum.
var segment = []byte{4, 0, 0, 9, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0xff, 0, 0}

// options returns an IPv6 header of hop-by-hop or destination options, as long
// as 1+units times 8 bytes, of padding (RFC 8200, 4.2).
func options(next, units uint8) []byte {
	b := make([]byte, 8+8*int(units))
	b[0], b[1], b[2], b[3] = next, units, 1, uint8(len(b)-4)
	return b
}

// fragment returns an IPv6 fragment header; offset counts 8 bytes (RFC 8200,
// 4.5).
func fragment(next uint8, offset uint16) []byte {
	b := []byte{next, 0, 0, 1, 0, 0, 0, 7} // more are to come
	binary.BigEndian.PutUint16(b[2:], offset<<3|1)
	return b
}

func join(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

// check compares a message with what is to be known of sample i, but for the
// time.
func check(t *testing.T, i int, got Message) {
	t.Helper()
	want := samples[i].want
	want.Time, want.Prefix = got.Time, "portmon ban"
	want.Src, want.Seq = samples[i].packet.Src.Addr(), uint32(i)
	if got != want {
		t.Errorf("%s:\n%+v, want\n%+v", samples[i].name, got, want)
	}
}

// TestSamplesAreLogged sends each sample and checks what the kernel tells of
// it.
func TestSamplesAreLogged(t *testing.T) {
	l := &fixture{lab.New(t)}
	src4, src6 := netip.MustParseAddr("198.51.100.7"), netip.MustParseAddr("2001:db8:1::7")
	l.log(&nftables.Chain{Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityRef(-300)}, &expr.Log{},
		append(is(&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1}, unix.NFPROTO_IPV4),
			is(&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 12, Len: 4}, src4.AsSlice()...)...),
		append(is(&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1}, unix.NFPROTO_IPV6),
			is(&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 8, Len: 16}, src6.AsSlice()...)...))
	c := l.dial(0)
	var text strings.Builder
	for i, s := range samples {
		before := time.Now()
		l.Internet.Send(s.packet)
		b, overrun, err := c.wire.Next()
		if err != nil || overrun {
			t.Fatal(overrun, err)
		}
		got, err := c.decode(nil, b)
		if err != nil || len(got) != 1 {
			t.Fatalf("%s: %d messages, error %v", s.name, len(got), err)
		}
		check(t, i, got[0])
		checkTime(t, got[0], before)
		m, _, err := nfnl.NextMessage(b)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&text, "# %s\n%s\n", s.name, dumpAttrs(t, m.Attrs()))
	}
	if *update {
		if err := os.WriteFile(messagesFile, []byte(text.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func dumpAttrs(t *testing.T, attrs []byte) string {
	t.Helper()
	var text strings.Builder
	for len(attrs) > 0 {
		a, rest, err := nfnl.NextAttr(attrs)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&text, "%d %x\n", a.Type, a.Data)
		attrs = rest
	}
	return text.String()
}

func TestDecodeCaptured(t *testing.T) {
	for i, attrs := range captured(t) {
		m := Message{Prefix: "another", Proto: 255, DstPort: 1}
		if err := m.Decode(attrs); err != nil {
			t.Fatal(err)
		}
		check(t, i, m)
		if m.Time.Year() < 2026 || m.Time.Nanosecond() == 0 {
			t.Errorf("%s: time %v", samples[i].name, m.Time)
		}
	}
}

// captured returns the attributes of each message of messagesFile.
func captured(t testing.TB) [][]byte {
	t.Helper()
	text, err := os.ReadFile(messagesFile)
	if err != nil {
		t.Fatal(err)
	}
	var messages [][]byte
	for block := range strings.SplitSeq(strings.TrimSpace(string(text)), "\n\n") {
		lines := strings.Split(block, "\n")
		ae := netlink.NewAttributeEncoder()
		for _, line := range lines[1:] {
			var typ uint16
			var value string
			fmt.Sscan(line, &typ, &value)
			v, err := hex.DecodeString(value)
			if err != nil || len(v) == 0 {
				t.Fatalf("%s: %q: %v", messagesFile, line, err)
			}
			ae.Bytes(typ, v)
		}
		attrs, err := ae.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if want := "# " + samples[len(messages)].name; lines[0] != want {
			t.Fatalf("%s: %q, want %q", messagesFile, lines[0], want)
		}
		messages = append(messages, attrs)
	}
	if len(messages) != len(samples) {
		t.Fatalf("%s: %d messages, want %d", messagesFile, len(messages), len(samples))
	}
	return messages
}
