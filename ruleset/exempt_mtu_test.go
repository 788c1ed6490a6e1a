package ruleset

import (
	"io"
	"net"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/portmon/portmon/internal/lab"
	"github.com/portmon/portmon/netnstest"
)

// setMTU sets how long packets on a link may be.
func setMTU(t testing.TB, l *netnstest.Link, mtu int) {
	t.Helper()
	for _, e := range []netnstest.End{l.A, l.B} {
		var err error
		e.Host.Do(func() {
			var dev netlink.Link
			if dev, err = netlink.LinkByName(e.Dev); err == nil {
				err = netlink.LinkSetMTU(dev, mtu)
			}
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

// download is what the host sends to everybody who connects to port 21.
const download = 2 << 20

func (l *fixture) serveDownload() {
	l.T.Helper()
	var listener net.Listener
	var err error
	l.Host.Do(func() { listener, err = net.Listen("tcp", "[::]:21") })
	if err != nil {
		l.T.Fatal(err)
	}
	l.T.Cleanup(func() { listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				_ = conn.SetDeadline(time.Now().Add(lab.Patience))
				_, _ = conn.Write(make([]byte, download))
			}()
		}
	}()
}

// TestPathMTUThroughABannedRouter has an innocent visitor load something by way
// of a link with a smaller MTU. The router before that link says so to the
// host, and is banned.
//
//	visitor ---1500--- far ---1280--- outside, the router ---1500--- host
func TestPathMTUThroughABannedRouter(t *testing.T) {
	t.Parallel()
	l := newTrap(t, trapSpec())
	far, visitor := netnstest.NewHost(t, "far"), netnstest.NewHost(t, "visitor")
	narrow := netnstest.Connect(t, far, l.Internet, "198.51.100.0/30", "2001:db8:f0::/64")
	last := netnstest.Connect(t, visitor, far, "203.0.113.0/24", "2001:db8:f1::/64")
	setMTU(t, narrow, 1280)
	l.Internet.Forward()
	far.Forward()
	visitor.DefaultVia(last.B.IPv4, last.B.IPv6)
	far.DefaultVia(narrow.B.IPv4, narrow.B.IPv6)
	l.Internet.AddRoute("203.0.113.0/24", narrow.A.IPv4.String())
	l.Internet.AddRoute("2001:db8:f1::/64", narrow.A.IPv6.String())
	l.serveDownload()

	l.families(func(l *fixture, f family) {
		from, router := last.A.IPv4, l.Link.A.IPv4
		if f.is6() {
			from, router = last.A.IPv6, l.Link.A.IPv6
		}
		if got := l.Internet.Probe(l.SYN(router, lab.TrapTCP)); got.Kind != netnstest.NoAnswer {
			l.T.Fatalf("the router asks for a trap port and gets %v", got)
		}
		l.wantBans(router.String())
		l.Cut(router)

		sniffer := l.Host.Sniff(l.Link.B.Dev)
		conn, err := visitor.With(l.T).Dial("tcp", from, l.To(from, 21), lab.Patience)
		if err != nil {
			l.T.Fatal(err)
		}
		if err := conn.SetDeadline(time.Now().Add(lab.Patience)); err != nil {
			l.T.Fatal(err)
		}
		n, err := io.Copy(io.Discard, conn)
		if n != download || err != nil {
			l.T.Errorf("of %d bytes the visitor got %d: %v", download, n, err)
		}
		if _, err := sniffer.Await(func(p netnstest.Packet) bool {
			return p.Proto == netnstest.ICMP && p.Src.Addr() == router && (p.Type == 3 && p.Code == 4 || p.Type == 2)
		}, 0); err != nil {
			l.T.Errorf("the router has not told of the MTU, so this test shows nothing: %v", err)
		}
		l.wantBans(router.String())
		l.Cut(router)
		l.Served(l.source(f))
		if err := l.open().UnbanAll(); err != nil {
			l.T.Fatal(err)
		}
	})
}

// TestErrorsOfABannedRouter lets those about connections in, and no others.
func TestErrorsOfABannedRouter(t *testing.T) {
	t.Parallel()
	l := newTrap(t, trapSpec())
	l.newBehind()
	l.families(func(l *fixture, f family) {
		router, visitor, target := l.source(f), l.source(f), l.source(f)
		l.Offend(router)
		behind := behindAddr[index(f)]
		inbound := l.UDP(visitor, lab.OpenUDP)
		inbound.Src = at(visitor, 4000)
		for _, tt := range []struct {
			what    string
			about   netnstest.Packet
			tracked bool
		}{
			{"our answer to a visitor", netnstest.Packet{Proto: netnstest.UDP, Src: inbound.Dst, Dst: inbound.Src}, true},
			{"nothing we ever sent", netnstest.Packet{Proto: netnstest.UDP, Src: l.To(router, 4001), Dst: at(target, 53)}, false},
			{"nothing that a container sent", netnstest.Packet{Proto: netnstest.UDP, Src: at(behind, 4001), Dst: at(target, 53)}, false},
		} {
			l.Internet.Send(inbound)
			before := l.counters()
			l.Internet.Send(netnstest.PortUnreachable(router, tt.about))
			want := map[string]uint64{CounterDropped: 1}
			if tt.tracked {
				want = nil
			}
			l.wantCounts(before, want)
		}
		l.Cut(router)
		l.Served(visitor, target)
	})
}
