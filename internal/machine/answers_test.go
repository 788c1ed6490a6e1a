package machine

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/portmon/portmon/internal/lab"
	"github.com/portmon/portmon/netnstest"
)

// TestAgreementWithAnswers has programs connect to each other in both
// directions, and one end offend in the middle of it. The machine gets what was
// captured, answers included, and knows nothing but the addresses of the host.
func TestAgreementWithAnswers(t *testing.T) {
	t.Parallel()
	a := newAgreement(t, agreeSpec())
	clear(a.host.open)
	a.host.Answers = true
	sniffer := a.Host.Sniff(a.Link.B.Dev)
	a.Internet.Listen("tcp", "[::]:8000")
	for i := range 10 {
		for _, pair := range [][2]string{{"198.18.1.%d/32", "192.0.2.2"}, {"2001:db8:1000:%d::1/128", "2001:db8::2"}} {
			client := netip.MustParsePrefix(fmt.Sprintf(pair[0], i+1))
			a.Internet.AddAddr(a.Link.A.Dev, client.String())
			a.meet(client.Addr(), i)
			a.capture(sniffer)
		}
	}
	a.compare()
	if got := a.machine.Counter("trapped").Packets; got < 10 {
		t.Errorf("%d packets to traps: want half of the clients to offend", got)
	}
}

// meet has a client and the host connect to each other. Half of the clients
// offend, and all that they send by then is dropped but their answers.
func (a *agreement) meet(client netip.Addr, i int) {
	a.T.Helper()
	dial := func(from, to *netnstest.Host, src netip.Addr, dst netip.AddrPort) net.Conn {
		conn, err := from.Dial("tcp", src, dst, lab.Patience)
		if err != nil {
			a.T.Fatal(err)
		}
		a.T.Cleanup(func() { conn.Close() })
		if err := netnstest.Echo(conn); err != nil {
			a.T.Fatal(err)
		}
		return conn
	}
	in := dial(a.Internet, a.Host, client, a.To(client, lab.OpenTCP))
	out := dial(a.Host, a.Internet, a.To(client, 0).Addr(), netip.AddrPortFrom(client, 8000))
	if i%2 == 1 {
		a.Internet.Send(a.SYN(client, lab.Closed)) // one is no offence
		in.Close()
		a.Internet.Fence()
		return
	}
	a.Internet.Send(a.SYN(client, lab.TrapTCP))
	if err := netnstest.Echo(out); err != nil { // the host's own connection
		a.T.Errorf("%v: %v", client, err)
	}
	in.SetDeadline(time.Now().Add(10 * time.Millisecond))
	if err := netnstest.Echo(in); !errors.Is(err, os.ErrDeadlineExceeded) {
		a.T.Errorf("%v is banned, and its connection goes on: %v", client, err)
	}
	in.(*net.TCPConn).SetLinger(0) // with a reset, which the host does not see either
	in.Close()
	a.Internet.Send(a.TCP(client, lab.TrapTCP, netnstest.FlagACK), a.UDP(client, lab.OpenUDP))
}

// capture gives the machine what was captured.
func (a *agreement) capture(s *netnstest.Sniffer) {
	a.T.Helper()
	type packet struct {
		data []byte
		sent bool
	}
	var packets []packet
	for {
		p, err := s.Await(func(netnstest.Packet) bool { return true }, 0)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			break
		} else if err != nil {
			a.T.Fatal(err)
		}
		b, err := p.AppendBinary(nil)
		if err != nil {
			a.T.Fatal(err)
		}
		packets = append(packets, packet{b, p.Outgoing})
	}
	var q Packet
	for _, p := range packets { // an answer comes after what it answers
		if p.sent && q.Parse(p.data) {
			a.host.Learn(&q)
		}
	}
	for _, p := range packets {
		if !p.sent {
			a.receive(p.data)
		} else if q.Now = a.now; q.Parse(p.data) {
			a.host.Send(&q)
		}
	}
}
