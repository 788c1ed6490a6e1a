package ruleset

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/portmon/portmon/internal/lab"
)

// TestConnectionsOlderThanTheTable has the host open connections before there
// is a table, so that conntrack does not know them. It takes the side that
// sends first from then on for the one that opened the connection: if that is
// the far end, a ban of it cuts the connection.
func TestConnectionsOlderThanTheTable(t *testing.T) {
	t.Parallel()
	for _, server := range nameServer {
		t.Run(server.String(), func(t *testing.T) {
			l := newLab(t)
			l.newNameServer()
			var listener net.Listener
			var err error
			l.Internet.Do(func() { listener, err = net.Listen("tcp", at(server, 54).String()) })
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { listener.Close() })
			open := func() (near, far net.Conn) {
				near, err := l.Host.Dial("tcp", netip.Addr{}, at(server, 54), lab.Patience)
				if err != nil {
					t.Fatal(err)
				}
				if far, err = listener.Accept(); err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { near.Close(); far.Close() })
				return near, far
			}
			// send fails the test unless a byte gets from one end to the other.
			send := func(from, to net.Conn) {
				t.Helper()
				_, err := from.Write([]byte("x"))
				to.SetReadDeadline(time.Now().Add(lab.Patience))
				_, readErr := to.Read(make([]byte, 1))
				if err := errors.Join(err, readErr); err != nil {
					t.Error(err)
				}
			}
			quietNear, quietFar := open()
			ourNear, ourFar := open()
			theirNear, theirFar := open()
			l.apply(trapSpec())
			send(ourNear, ourFar)
			send(theirFar, theirNear)

			l.Offend(server)
			send(ourFar, ourNear)
			send(quietNear, quietFar)
			send(quietFar, quietNear)
			before := l.counters()[CounterDropped]
			if _, err := theirFar.Write([]byte("x")); err != nil {
				t.Fatal(err)
			}
			lab.Await(t, "the packet to be dropped", func() bool { return l.counters()[CounterDropped] > before })
			theirNear.SetReadDeadline(time.Now().Add(50 * time.Millisecond)) // it would take some µs
			if n, err := theirNear.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("the far end sent first, and is banned: read %d bytes, %v", n, err)
			}
			l.Served(l.source(ofAddr(server)))
		})
	}
}
