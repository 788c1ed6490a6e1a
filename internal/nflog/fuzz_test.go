package nflog

import (
	"errors"
	"io"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/internal/nfnl"
)

// seeds returns attributes of messages: of a kernel, and odd ones.
func seeds(t testing.TB) [][]byte {
	all := captured(t)
	for _, tt := range oddAttrs {
		all = append(all, tt.attrs)
	}
	for _, p := range packets {
		all = append(all, attr(attrPayload, p.b...))
	}
	return all
}

func TestSeeds(t *testing.T) {
	if got, want := len(seeds(t)), len(samples)+len(oddAttrs)+len(packets); got != want || len(samples) < 10 || want < 40 {
		t.Errorf("%d seeds, want %d, %d of them captured", got, want, len(samples))
	}
}

// FuzzDecode checks that nothing remains of what a Message was before, and that
// of a packet that is cut off nothing wrong is read.
func FuzzDecode(f *testing.F) {
	for _, seed := range seeds(f) {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, attrs []byte) {
		dirty := Message{Prefix: "x", Proto: 3, DstPort: 5, Seq: 7}
		var clean Message
		err, again := dirty.Decode(attrs), clean.Decode(attrs)
		if err != nil && !errors.Is(err, nfnl.ErrShort) || !errors.Is(again, err) || err == nil && dirty != clean {
			t.Errorf("%x:\n%+v, error %v; from the zero Message\n%+v, error %v", attrs, dirty, err, clean, again)
		}
		for n := range attrs {
			checkCutOff(t, attrs, n)
		}
	})
}

// FuzzDatagram checks that messages come of bytes, and not more than these can
// hold. An NLMSG_ERROR is the end, or an error of the kernel's.
func FuzzDatagram(f *testing.F) {
	all := seeds(f)
	for _, seed := range all {
		f.Add(datagram(msgPacket, seed))
	}
	f.Add(datagram(msgPacket, all...))
	f.Fuzz(func(t *testing.T, b []byte) {
		c := Conn{}
		got, err := c.decode(nil, b)
		known := err == nil || err == io.EOF || errors.Is(err, nfnl.ErrShort) || errors.As(err, new(unix.Errno))
		if len(got) > len(b)/20 || !known {
			t.Errorf("%x: %d messages, error %v", b, len(got), err)
		}
	})
}
