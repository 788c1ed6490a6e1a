package netnstest

import (
	"errors"
	"net/netip"
	"reflect"
	"strings"
	"testing"
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
		var got Packet
		// Padding, as of a short frame, is not part of the packet.
		if err := got.UnmarshalBinary(append(b[len("before"):], 0, 0, 0)); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
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

func TestQuoted(t *testing.T) {
	for name, cause := range samples() {
		got, ok := PortUnreachable(v4b.Addr(), cause).Quoted()
		if cause.Src.Addr().Is6() {
			got, ok = PortUnreachable(v6b.Addr(), cause).Quoted()
		}
		if name == "other" {
			if ok {
				t.Errorf("%s: quoted with 3 bytes behind the IP header", name)
			}
			continue
		}
		if !ok || got.Src != cause.Src || got.Dst != cause.Dst || got.Proto != cause.Proto || got.Rest != cause.Rest {
			t.Errorf("%s: quoted %t %v, want %v", name, ok, got, cause)
		}
	}
	for name, p := range samples() {
		if _, ok := p.Quoted(); ok != strings.HasPrefix(name, "unreachable") {
			t.Errorf("%s: quotes a packet: %t", name, ok)
		}
	}
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
		"AnswerKind(200)": 200,
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
		var p Packet
		if p.UnmarshalBinary(b) != nil {
			return
		}
		p.Quoted()
		if p.TTL == 0 {
			return // sent as another
		}
		again, err := p.AppendBinary(nil)
		if errors.Is(err, errFamilies) {
			return // an IPv4-mapped address in an IPv6 packet, which Packet does not send
		}
		if err != nil {
			t.Fatal(err)
		}
		var q Packet
		if err := q.UnmarshalBinary(again); err != nil || !reflect.DeepEqual(p, q) {
			t.Errorf("encoded again: %v\n got %+v\nwant %+v", err, q, p)
		}
	})
}
