package nflog

import (
	"encoding/binary"
	"errors"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/internal/nfnl"
)

// attr returns an attribute, padded.
func attr(typ uint16, value ...byte) []byte {
	b := binary.NativeEndian.AppendUint16(nil, uint16(unix.SizeofNlAttr+len(value)))
	b = append(binary.NativeEndian.AppendUint16(b, typ), value...)
	return append(b, make([]byte, -len(b)&3)...)
}

// datagram returns messages of a type, one for each of these attributes.
func datagram(typ uint16, attrs ...[]byte) []byte {
	var b []byte
	for _, a := range attrs {
		b = binary.NativeEndian.AppendUint32(b, uint32(unix.SizeofNlMsghdr+nfnl.GenHeaderLen+len(a)))
		b = binary.NativeEndian.AppendUint16(b, typ)
		b = append(b, make([]byte, 10+nfnl.GenHeaderLen)...)
		b = append(b, a...)
		b = append(b, make([]byte, -len(b)&3)...)
	}
	return b
}

// oddAttrs are what a kernel does not send, and what is read of it.
var oddAttrs = []struct {
	name  string
	attrs []byte
	want  Message
	err   error
}{
	{"nothing", nil, Message{}, nil},
	{"empty values", join(attr(attrTimestamp), attr(attrPayload), attr(attrPrefix), attr(attrSeq)), Message{}, nil},
	{"values too short", join(attr(attrTimestamp, 1, 2), attr(attrSeq, 1, 2, 3)), Message{}, nil},
	{"values too long", join(attr(attrTimestamp, make([]byte, 17)...), attr(attrSeq, 1, 2, 3, 4, 5)), Message{}, nil},
	{"unknown attributes", join(attr(0, 1), attr(99, 1, 2, 3), attr(attrSeq, 0, 0, 0, 5)), Message{Seq: 5}, nil},
	{"prefix without NUL", attr(attrPrefix, 'a', 'b'), Message{Prefix: "ab"}, nil},
	{"prefix of NUL", attr(attrPrefix, 0), Message{}, nil},
	{"no padding at the end", attr(attrPrefix, 'a', 0)[:6], Message{Prefix: "a"}, nil},
	{"flags of netlink", attr(attrSeq|unix.NLA_F_NESTED|unix.NLA_F_NET_BYTEORDER, 0, 0, 0, 7), Message{Seq: 7}, nil},
	{
		"microseconds", attr(attrTimestamp, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 8),
		Message{Time: time.Unix(9, 8000)}, nil,
	},
	{"header cut off", []byte{8, 0, 1}, Message{}, nfnl.ErrShort},
	{"value cut off", join(attr(attrSeq, 0, 0, 0, 5), attr(attrPayload, 0, 0, 0, 1)[:7]), Message{Seq: 5}, nfnl.ErrShort},
	{"length below that of the header", []byte{3, 0, 3, 0}, Message{}, nfnl.ErrShort},
}

func TestDecode(t *testing.T) {
	for _, tt := range oddAttrs {
		var m Message
		if err := m.Decode(tt.attrs); m != tt.want || !errors.Is(err, tt.err) {
			t.Errorf("%s:\n%+v, error %v, want\n%+v, error %v", tt.name, m, err, tt.want, tt.err)
		}
	}
}

func TestDecodeDatagram(t *testing.T) {
	seq := func(n byte) []byte { return attr(attrSeq, 0, 0, 0, n) }
	whole := datagram(msgPacket, seq(0), seq(1), seq(4))
	bare := datagram(msgPacket, nil)[:unix.SizeofNlMsghdr]
	binary.NativeEndian.PutUint32(bare, unix.SizeofNlMsghdr)
	for _, tt := range []struct {
		name     string
		b        []byte
		messages int
		err      error
	}{
		{"nothing", nil, 0, nil},
		{"messages", whole, 3, nil},
		{"others between", join(datagram(unix.NLMSG_DONE, seq(9)), whole, datagram(unix.NLMSG_DONE, nil), datagram(msgConfig, seq(9))), 3, nil},
		{"a message without nfgenmsg", join(bare, whole), 0, nfnl.ErrShort},
		{"cut off in a header", join(whole, whole[:15]), 3, nfnl.ErrShort},
		{"cut off in a message", whole[:len(whole)-1], 2, nfnl.ErrShort},
		{"cut off in an attribute", join(datagram(msgPacket, seq(0)), datagram(msgPacket, seq(1)[:6])), 1, nfnl.ErrShort},
	} {
		c := Conn{}
		kept := Message{Prefix: "kept"}
		got, err := c.decode([]Message{kept}, tt.b)
		if len(got) != 1+tt.messages || got[0] != kept || !errors.Is(err, tt.err) {
			t.Errorf("%s: %d messages, error %v, want %d, %v", tt.name, len(got)-1, err, tt.messages, tt.err)
		}
	}
}

// TestDecodeAllocatesNothing decodes a datagram whose messages have one prefix.
func TestDecodeAllocatesNothing(t *testing.T) {
	c := Conn{}
	b := datagram(msgPacket, captured(t)...)
	batch := make([]Message, 0, len(samples))
	allocs := testing.AllocsPerRun(100, func() {
		if got, err := c.decode(batch, b); err != nil || len(got) != len(samples) {
			t.Fatal(len(got), err)
		}
	})
	if allocs != 0 {
		t.Errorf("%v allocations for a datagram", allocs)
	}
}

func BenchmarkDecode(b *testing.B) {
	attrs := captured(b)[:2] // TCP by IPv4 and IPv6
	for len(attrs) < 16 {
		attrs = append(attrs, attrs[:2]...)
	}
	c, buf := Conn{}, datagram(msgPacket, attrs...)
	batch := make([]Message, 0, len(attrs))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.decode(batch, buf); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N*len(attrs))/b.Elapsed().Seconds(), "messages/s")
}
