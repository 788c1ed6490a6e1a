package nftset

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// An element at its end has an expiration of 0. It must not be taken for one
// that lives for ever.
func TestExpiresAtItsEnd(t *testing.T) {
	for _, f := range []struct {
		name string
		add  func(*encoder)
		want time.Duration
	}{
		{"for ever", func(*encoder) {}, 0},
		{"at its end", func(e *encoder) { e.u64(unix.NFTA_SET_ELEM_EXPIRATION, 0) }, time.Millisecond},
		{"some time", func(e *encoder) { e.u64(unix.NFTA_SET_ELEM_EXPIRATION, 1500) }, 1500 * time.Millisecond},
	} {
		var e encoder
		e.key(PortKey(22))
		f.add(&e)
		l, err := parseElement(InetService, e.b)
		if err != nil || l.el.Remaining != f.want {
			t.Errorf("%s: expires in %v, want %v (%v)", f.name, l.el.Remaining, f.want, err)
		}
	}
}
