package nftset

import (
	"encoding/binary"
	"errors"
	"math"
	"slices"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// TestParseReply has answers as the kernel's netlink_ack makes them.
func TestParseReply(t *testing.T) {
	head := func(typ, flags uint16, seq uint32, body ...[]byte) []byte {
		b := slices.Concat(body...)
		out := binary.NativeEndian.AppendUint32(nil, uint32(16+len(b)))
		out = binary.NativeEndian.AppendUint16(out, typ)
		out = binary.NativeEndian.AppendUint16(out, flags)
		out = binary.NativeEndian.AppendUint32(out, seq)
		out = binary.NativeEndian.AppendUint32(out, 4711)
		return append(out, b...)
	}
	errno := func(e syscall.Errno) []byte { return binary.NativeEndian.AppendUint32(nil, -uint32(e)) }
	u32 := func(v uint32) []byte { return binary.NativeEndian.AppendUint32(nil, v) }
	request := head(0xa0c, 1, 7, []byte("12345678"))
	text := []byte{8, 0, 1, 0, 'b', 'a', 'd', 0}
	offset := slices.Concat([]byte{8, 0, 2, 0}, u32(40))
	binary.NativeEndian.PutUint16(text, 8)
	binary.NativeEndian.PutUint16(text[2:], 1)
	binary.NativeEndian.PutUint16(offset, 8)
	binary.NativeEndian.PutUint16(offset[2:], 2)
	for _, tt := range []struct {
		name string
		in   []byte
		want reply
		err  error
	}{
		{"acknowledgement", head(2, 0x100, 7, errno(0), request[:16]), reply{seq: 7}, nil},
		{"error", head(2, 0x100, 7, errno(unix.ENOENT), request[:16]), reply{seq: 7, errno: unix.ENOENT}, nil},
		{"with offset and text", head(2, 0x300, 7, errno(unix.EEXIST), request[:16], text, offset), reply{seq: 7, errno: unix.EEXIST, offset: 40, text: "bad"}, nil},
		{"with the request", head(2, 0x200, 7, errno(unix.EEXIST), request, offset), reply{seq: 7, errno: unix.EEXIST, offset: 40}, nil},
		{"attributes that no flag announces", head(2, 0x100, 7, errno(unix.EPERM), request[:16], text), reply{seq: 7, errno: unix.EPERM}, nil},
		{"an offset of another length", head(2, 0x300, 7, errno(unix.EPERM), request[:16], text[:4:4], text[4:]), reply{seq: 7, errno: unix.EPERM, text: "bad"}, nil},
		{"no request", head(2, 0x100, 7, errno(unix.EPERM)), reply{}, errShort},
		{"no errno", head(2, 0x100, 7), reply{}, errShort},
		{"a request that is longer", head(2, 0x200, 7, errno(unix.EPERM), u32(1000), request[4:]), reply{}, errShort},
		{"a request that is shorter than its header", head(2, 0x200, 7, errno(unix.EPERM), u32(3), request[4:]), reply{}, errShort},
		{"an attribute cut off", head(2, 0x300, 7, errno(unix.EPERM), request[:16], offset[:6]), reply{}, errShort},
	} {
		m, rest, err := nextMessage(tt.in)
		if err != nil || len(rest) > 0 {
			t.Fatalf("%s: %v, %d bytes left", tt.name, err, len(rest))
		}
		if got, err := parseReply(m); got != tt.want || err != tt.err {
			t.Errorf("%s: got %+v, %v; want %+v, %v", tt.name, got, err, tt.want, tt.err)
		}
	}
}

func TestNextMessage(t *testing.T) {
	var e encoder
	at := e.begin(0xa01, 0, FamilyINet, 1)
	e.string(1, "abc")
	e.finish(at)
	first := len(e.b)
	at = e.begin(0xa02, unix.NLM_F_DUMP, FamilyIPv4, 2)
	e.finish(at)
	m, rest, err := nextMessage(e.b)
	if err != nil || m.typ != 0xa01 || m.seq != 1 || m.body[0] != 1 || len(m.attrs()) != 8 || len(rest) != len(e.b)-first {
		t.Errorf("first: %+v, %d bytes left, %v", m, len(rest), err)
	}
	m, rest, err = nextMessage(rest)
	if err != nil || m.typ != 0xa02 || m.seq != 2 || m.flags != unix.NLM_F_REQUEST|unix.NLM_F_DUMP || len(m.attrs()) != 0 || len(rest) != 0 {
		t.Errorf("second: %+v, %d bytes left, %v", m, len(rest), err)
	}
	// Cut off anywhere it is an error, not half a message.
	for n := range first {
		if m, _, err := nextMessage(e.b[:n]); !errors.Is(err, errShort) {
			t.Errorf("first %d of %d bytes: %+v, %v", n, first, m, err)
		}
	}
	for _, length := range []uint32{0, 1, 15, 16, 19, math.MaxUint32} {
		b := slices.Clone(e.b)
		binary.NativeEndian.PutUint32(b, length)
		if m, _, err := nextMessage(b); !errors.Is(err, errShort) {
			t.Errorf("length %d: %+v, %v", length, m, err)
		}
	}
}
