package ruleset

import (
	"errors"
	"net"
	"os"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/portmon/portmon/netnstest"
	"github.com/portmon/portmon/nftset"
)

// TestConnectionIsNotRevived bans a client that is connected to a service. The
// client has conntrack forget the connection by a reset, which the host never
// gets, and waits for what the service sends next: by that, conntrack takes the
// host for the one that opened the connection, and the client for one that
// answers.
func TestConnectionIsNotRevived(t *testing.T) {
	l := newTrap(t, trapSpec())
	l.newNameServer()
	l.families(func(l *lab, f family) {
		var listener net.Listener
		var err error
		l.host.Do(func() { listener, err = net.Listen("tcp", "[::]:8000") })
		if err != nil {
			l.t.Fatal(err)
		}
		defer listener.Close()
		client := nameServer[index(f)]
		sniffer := l.outside.SniffBothWays(l.link.A.Dev)
		far, err := l.outside.Dial("tcp", client, l.to(client, 8000), oneSecond)
		if err != nil {
			l.t.Fatal(err)
		}
		defer far.Close()
		near, err := listener.Accept()
		if err != nil {
			l.t.Fatal(err)
		}
		defer near.Close()
		send := func(from, to net.Conn) error {
			_, err := from.Write([]byte("x"))
			to.SetReadDeadline(time.Now().Add(oneSecond))
			_, readErr := to.Read(make([]byte, 1))
			return errors.Join(err, readErr)
		}
		if err := errors.Join(send(far, near), send(near, far)); err != nil {
			l.t.Fatal(err)
		}
		l.outside.Fence()
		var acked uint32
		for p, ok := sniffer.Next(0); ok; p, ok = sniffer.Next(0) {
			if !p.Frame.Outgoing && p.Proto == netnstest.TCP && p.Src.Port() == 8000 {
				acked = p.Ack
			}
		}
		bystander := l.source(f)
		l.offend(client)

		reset := l.tcp(client, 8000, rst)
		reset.Src, reset.Seq = far.LocalAddr().(*net.TCPAddr).AddrPort(), acked
		l.want(reset, netnstest.NoAnswer)
		if _, ok := l.element(f.cut(), nftset.AddrPortKey(at(client, 8000))); !ok {
			l.t.Error("the service that the client was connected to is not noted")
		}
		// In ten seconds conntrack would have forgotten the connection by itself.
		l.host.Do(func() { err = netlink.ConntrackTableFlush(netlink.ConntrackTable) })
		if err != nil {
			l.t.Fatal(err)
		}
		if err := send(near, far); err != nil {
			l.t.Fatal(err) // bans are no matter of what this host sends
		}
		if err := send(far, near); !errors.Is(err, os.ErrDeadlineExceeded) {
			l.t.Errorf("the service got what a banned client sent: error %v", err)
		}
		l.ask(l.host, client) // which is answered all the same
		l.served(bystander)
	})
}
