package fleet

import (
	"context"
	"net"
	"testing"
	"time"
)

// TestDialerEnds has a hub say nothing, and a name that nobody knows: neither
// keeps who ends.
func TestDialerEnds(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithCancel(t.Context())
	conn, err := dialer{ctx}.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if n, err := conn.Read(make([]byte, 1)); err == nil {
			t.Errorf("read %d bytes", n)
		}
	}()
	cancel()
	select {
	case <-ended:
	case <-time.After(time.Minute):
		t.Fatal("the connection does not end")
	}
	if err := conn.Close(); err == nil {
		t.Error("it was not closed")
	}
	if _, err := (dialer{ctx}).Dial("tcp", "hub.invalid:4222"); err == nil {
		t.Error("it connects after the end")
	}
}
