package netnstest

import (
	"errors"
	"net/netip"
	"reflect"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
)

var (
	v4a, v4b = netip.MustParseAddrPort("192.0.2.1:40000"), netip.MustParseAddrPort("198.51.100.2:23")
	v6a, v6b = netip.MustParseAddrPort("[2001:db8::1]:40000"), netip.MustParseAddrPort("[2001:db8:1::2]:23")
)

// samples are packets of all kinds, by name.
func samples() map[string]Packet {
	return map[string]Packet{
		"TCP": {Proto: TCP, Src: v4a, Dst: v4b, TTL: 64, Flags: FlagSYN | FlagECE, Seq: 1 << 31, Ack: 7},
		"TCP6": {
			Proto: TCP, Src: v6a, Dst: v6b, TTL: 1, Flags: FlagPSH | FlagACK | FlagFIN, Seq: 5, Ack: 1<<32 - 1,
			Payload: []byte("odd"),
		},
		"UDP":          {Proto: UDP, Src: v4a, Dst: v4b, TTL: 255, Payload: []byte("hello")},
		"UDP6":         {Proto: UDP, Src: v6a, Dst: v6b, TTL: 64, Payload: []byte("")},
		"echo":         Ping(v4a.Addr(), v4b.Addr(), 0xabcd0001),
		"echo6":        Ping(v6a.Addr(), v6b.Addr(), 1),
		"unreachable":  PortUnreachable(v4b.Addr(), Packet{Proto: UDP, Src: v4a, Dst: v4b, Payload: []byte("quoted")}),
		"unreachable6": PortUnreachable(v6b.Addr(), Packet{Proto: TCP, Src: v6a, Dst: v6b, Seq: 3}),
		"other":        {Proto: 47, Src: at(v4a.Addr(), 0), Dst: at(v4b.Addr(), 0), TTL: 9, Payload: []byte{1, 2, 3}},
	}
}

func TestPacketSurvivesTheWire(t *testing.T) {
	for name, p := range samples() {
		b, err := p.AppendBinary([]byte("before"))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		// Padding, as of a short frame, is not part of the packet.
		got := parse(append(b[len("before"):], 0, 0, 0))
		if p.TTL == 0 {
			p.TTL = 64
		}
		if p.Payload == nil {
			p.Payload = []byte{}
		}
		if !reflect.DeepEqual(got, p) {
			t.Errorf("%s:\n got %+v\nwant %+v", name, got, p)
		}
	}
}

func TestPacketThatIsNone(t *testing.T) {
	for name, p := range map[string]Packet{
		"no addresses": {Proto: TCP},
		"two families": {Proto: UDP, Src: v4a, Dst: v6b},
		"mapped":       {Proto: UDP, Src: netip.MustParseAddrPort("[::ffff:192.0.2.1]:1"), Dst: v6b},
	} {
		if _, err := p.AppendBinary(nil); !errors.Is(err, errFamilies) {
			t.Errorf("%s: got %v, want %v", name, err, errFamilies)
		}
	}
	long := Packet{Proto: UDP, Src: v4a, Dst: v4b, Payload: make([]byte, 1<<16)}
	if b, err := long.AppendBinary([]byte("x")); err == nil || string(b) != "x" {
		t.Errorf("too long: got %d bytes, %v", len(b), err)
	}
}

func TestQuotes(t *testing.T) {
	for name, cause := range samples() {
		from := v4b.Addr()
		if cause.Src.Addr().Is6() {
			from = v6b.Addr()
		}
		for other, p := range samples() {
			if got, want := quotes(PortUnreachable(from, cause), p), name == other; got != want {
				t.Errorf("an error about %s quotes %s: %t, want %t", name, other, got, want)
			}
		}
	}
}

// parse decodes a packet from its IP header on.
func parse(b []byte) Packet {
	first := layers.LayerTypeIPv4
	if len(b) > 0 && b[0]>>4 == 6 {
		first = layers.LayerTypeIPv6
	}
	p, _ := decode(gopacket.NewPacket(b, first, gopacket.Lazy))
	return p
}

func TestPacketString(t *testing.T) {
	for want, p := range map[string]Packet{
		"TCP 192.0.2.1:40000 > 198.51.100.2:23 [S.] seq 1 ack 2 length 0": {
			Proto: TCP, Src: v4a, Dst: v4b, Flags: FlagSYN | FlagACK, Seq: 1, Ack: 2,
		},
		"TCP 192.0.2.1:40000 > 198.51.100.2:23 [none] seq 0 ack 0 length 0": {Proto: TCP, Src: v4a, Dst: v4b},
		"UDP [2001:db8::1]:40000 > [2001:db8:1::2]:23 length 1":             {Proto: UDP, Src: v6a, Dst: v6b, Payload: []byte("x")},
		"ICMP 192.0.2.1 > 198.51.100.2 type 8 code 0 rest 0x7 length 0":     Ping(v4a.Addr(), v4b.Addr(), 7),
		"protocol 47 192.0.2.1 > 198.51.100.2 length 0":                     {Proto: 47, Src: v4a, Dst: v4b},
	} {
		if got := p.String(); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	for want, kind := range map[string]AnswerKind{
		"none": NoAnswer, "SYN+ACK": AnswerSYNACK, "RST": AnswerRST, "TCP [none]": AnswerSegment, `UDP ""`: AnswerUDP,
		"echo": AnswerEcho, "port unreachable": AnswerPortUnreachable, "ICMP error type 0 code 0": AnswerICMPError,
	} {
		if got := (Answer{Kind: kind}).String(); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

// FuzzDecode sees that no bytes make decoding panic, and that what was decoded is encoded to the same packet.
func FuzzDecode(f *testing.F) {
	for _, p := range samples() {
		b, err := p.AppendBinary(nil)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
		f.Add(b[:len(b)-1])
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		p := parse(b)
		if p.TTL == 0 || p.Proto == 0 {
			return // sent as another, hop-by-hop options
		}
		again, err := p.AppendBinary(nil)
		if errors.Is(err, errFamilies) {
			return // an IPv4-mapped address in an IPv6 packet, which Packet does not send
		}
		if err != nil {
			t.Fatal(err)
		}
		q := parse(again)
		if len(p.Payload)+len(q.Payload) == 0 {
			p.Payload, q.Payload = nil, nil // of a header that is cut off
		}
		if !reflect.DeepEqual(p, q) {
			t.Errorf("encoded again:\n got %+v\nwant %+v", q, p)
		}
	})
}
