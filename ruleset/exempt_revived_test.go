package ruleset

import (
	"errors"
	"net"
	"os"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/portmon/portmon/internal/lab"
	"github.com/portmon/portmon/netnstest"
	"github.com/portmon/portmon/nftset"
)

// TestConnectionIsNotRevived bans a client that is connected to a service. The
// client has conntrack forget the connection by a reset, which the host never
// gets, and waits for what the service sends next: by that, conntrack takes the
// host for the one that opened the connection, and the client for one that
// answers.
func TestConnectionIsNotRevived(t *testing.T) {
	t.Parallel()
	l := newTrap(t, trapSpec())
	l.newNameServer()
	l.families(func(l *fixture, f family) {
		var listener net.Listener
		var err error
		l.Host.Do(func() { listener, err = net.Listen("tcp", "[::]:8000") })
		if err != nil {
			l.T.Fatal(err)
		}
		defer listener.Close()
		client := nameServer[index(f)]
		sniffer := l.Internet.Sniff(l.Link.A.Dev)
		far, err := l.Internet.Dial("tcp", client, l.To(client, 8000), lab.Patience)
		if err != nil {
			l.T.Fatal(err)
		}
		defer far.Close()
		near, err := listener.Accept()
		if err != nil {
			l.T.Fatal(err)
		}
		defer near.Close()
		send := func(from, to net.Conn, patience time.Duration) error {
			_, err := from.Write([]byte("x"))
			to.SetReadDeadline(time.Now().Add(patience))
			_, readErr := to.Read(make([]byte, 1))
			return errors.Join(err, readErr)
		}
		if err := errors.Join(send(far, near, lab.Patience), send(near, far, lab.Patience)); err != nil {
			l.T.Fatal(err)
		}
		l.Internet.Fence()
		var acked uint32
		_, _ = sniffer.Await(func(p netnstest.Packet) bool {
			if !p.Outgoing && p.Proto == netnstest.TCP && p.Src.Port() == 8000 {
				acked = p.Ack
			}
			return false // until there are no more
		}, 0)
		bystander := l.source(f)
		l.Offend(client)

		reset := l.TCP(client, 8000, rst)
		reset.Src, reset.Seq = far.LocalAddr().(*net.TCPAddr).AddrPort(), acked
		l.Want(reset, netnstest.NoAnswer)
		if _, ok := l.element(f.cut(), nftset.AddrPortKey(at(client, 8000))); !ok {
			l.T.Error("the service that the client was connected to is not noted")
		}
		// In ten seconds conntrack would have forgotten the connection by
		// itself.
		l.Host.Do(func() { err = netlink.ConntrackTableFlush(netlink.ConntrackTable) })
		if err != nil {
			l.T.Fatal(err)
		}
		if err := send(near, far, lab.Patience); err != nil {
			l.T.Fatal(err) // bans are no matter of what this host sends
		}
		if err := send(far, near, time.Second); !errors.Is(err, os.ErrDeadlineExceeded) {
			l.T.Errorf("the service got what a banned client sent: error %v", err)
		}
		l.ask(l.Host, client) // which is answered all the same
		l.Served(bystander)
	})
}
