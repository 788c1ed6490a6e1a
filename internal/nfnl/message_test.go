package nfnl

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
		want Reply
		err  error
	}{
		{"acknowledgement", head(2, 0x100, 7, errno(0), request[:16]), Reply{}, nil},
		{"error", head(2, 0x100, 7, errno(unix.ENOENT), request[:16]), Reply{Errno: unix.ENOENT}, nil},
		{"with offset and text", head(2, 0x300, 7, errno(unix.EEXIST), request[:16], text, offset), Reply{Errno: unix.EEXIST, Offset: 40, Text: "bad"}, nil},
		{"with the request", head(2, 0x200, 7, errno(unix.EEXIST), request, offset), Reply{Errno: unix.EEXIST}, nil},
		{"attributes that no flag announces", head(2, 0x100, 7, errno(unix.EPERM), request[:16], text), Reply{Errno: unix.EPERM}, nil},
		{"an offset of another length", head(2, 0x300, 7, errno(unix.EPERM), request[:16], text[:4:4], text[4:]), Reply{Errno: unix.EPERM, Text: "bad"}, nil},
		{"no request", head(2, 0x100, 7, errno(unix.EPERM)), Reply{}, ErrShort},
		{"no errno", head(2, 0x100, 7), Reply{}, ErrShort},
		{"an attribute cut off", head(2, 0x300, 7, errno(unix.EPERM), request[:16], offset[:6]), Reply{}, ErrShort},
	} {
		m, rest, err := NextMessage(tt.in)
		if err != nil || len(rest) > 0 {
			t.Fatalf("%s: %v, %d bytes left", tt.name, err, len(rest))
		}
		if got, err := ParseReply(m); got != tt.want || err != tt.err {
			t.Errorf("%s: got %+v, %v; want %+v, %v", tt.name, got, err, tt.want, tt.err)
		}
	}
}

func TestNextMessage(t *testing.T) {
	head := func(n int, typ, flags uint16, seq uint32, body ...byte) []byte {
		b := binary.NativeEndian.AppendUint32(nil, uint32(n))
		b = binary.NativeEndian.AppendUint16(b, typ)
		b = binary.NativeEndian.AppendUint16(b, flags)
		b = binary.NativeEndian.AppendUint32(b, seq)
		return append(binary.NativeEndian.AppendUint32(b, 4711), body...)
	}
	whole := head(28, 0xa01, unix.NLM_F_REQUEST, 1, 1, 0, 0, 9, 7, 0, 1, 0, 'a', 'b', 'c', 0)
	first := len(whole)
	binary.NativeEndian.PutUint32(whole, uint32(first))
	whole = append(whole, head(20, 0xa02, unix.NLM_F_REQUEST|unix.NLM_F_DUMP, 2, 2, 0, 0, 0)...)
	m, rest, err := NextMessage(whole)
	if err != nil || m.Type != 0xa01 || m.Seq != 1 || m.Port != 4711 || m.Body[0] != 1 || m.Resource() != 9 || len(m.Attrs()) != 8 || len(rest) != len(whole)-first {
		t.Errorf("first: %+v, %d bytes left, %v", m, len(rest), err)
	}
	m, rest, err = NextMessage(rest)
	if err != nil || m.Type != 0xa02 || m.Seq != 2 || m.Flags != unix.NLM_F_REQUEST|unix.NLM_F_DUMP || len(m.Attrs()) != 0 || len(rest) != 0 {
		t.Errorf("second: %+v, %d bytes left, %v", m, len(rest), err)
	}
	// Cut off anywhere it is an error, not half a message.
	for n := range first {
		if m, _, err := NextMessage(whole[:n]); !errors.Is(err, ErrShort) {
			t.Errorf("first %d of %d bytes: %+v, %v", n, first, m, err)
		}
	}
	for _, length := range []uint32{0, 1, 15, 16, 19, math.MaxUint32} {
		b := slices.Clone(whole)
		binary.NativeEndian.PutUint32(b, length)
		if m, _, err := NextMessage(b); !errors.Is(err, ErrShort) {
			t.Errorf("length %d: %+v, %v", length, m, err)
		}
	}
}
