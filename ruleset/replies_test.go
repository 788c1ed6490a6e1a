package ruleset

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/portmon/portmon/netnstest"
)

// resolver is an address of the outside, with servers, that somebody gets banned by a packet in its name.
var resolver = [...]netip.Addr{addr("198.51.100.53"), addr("2001:db8:53::53")}

// newResolver adds the resolver to a lab: DNS by UDP, and something by TCP.
func (l *lab) newResolver() {
	l.outside.AddAddr("lo", "198.51.100.53/32")
	l.outside.AddAddr("lo", "2001:db8:53::53/128")
	l.outside.ListenUDP("[::]:53")
	l.outside.ListenTCP("[::]:443")
}

// reach fails the test unless a host can make use of the resolver.
func (l *lab) reach(from *netnstest.Host) {
	l.t.Helper()
	from = from.With(l.t)
	for _, r := range resolver {
		for range 3 {
			if err := from.ExchangeUDP(netip.Addr{}, at(r, 53), oneSecond); err != nil {
				l.t.Errorf("%s asks the resolver %v: %v", from.Name(), r, err)
			}
		}
		if err := from.DialTCP(netip.Addr{}, at(r, 443), oneSecond); err != nil {
			l.t.Errorf("%s connects to the resolver %v: %v", from.Name(), r, err)
		}
		if err := from.ExchangeUDP(netip.Addr{}, at(r, 54), oneSecond); !errors.Is(err, syscall.ECONNREFUSED) {
			l.t.Errorf("%s sends to a closed port of the resolver %v: %v, want ECONNREFUSED", from.Name(), r, err)
		}
		if err := from.DialTCP(netip.Addr{}, at(r, 444), oneSecond); !errors.Is(err, syscall.ECONNREFUSED) {
			l.t.Errorf("%s connects to a closed port of the resolver %v: %v, want ECONNREFUSED", from.Name(), r, err)
		}
	}
}

// TestBansDoNotCutOurOwnTraffic bans the resolver by a spoofed packet.
func TestBansDoNotCutOurOwnTraffic(t *testing.T) {
	l := newTrap(t, trapSpec())
	l.newResolver()
	container := l.newContainer()
	l.reach(l.host)
	l.reach(container)

	var inbound []net.Conn // the resolver's, opened before
	for i, r := range resolver {
		conn, err := l.outside.Dial("tcp", r, l.to(r, openTCP), oneSecond)
		if err != nil {
			t.Fatal(err)
		}
		conn.SetDeadline(time.Now().Add(patience))
		if err := netnstest.Echo(conn); err != nil {
			t.Fatal(err)
		}
		inbound = append(inbound, conn)
		// And one that the host opened before.
		out, err := l.host.Dial("tcp", netip.Addr{}, at(r, 443), oneSecond)
		if err != nil {
			t.Fatal(err)
		}
		out.SetDeadline(time.Now().Add(patience))

		l.offend(r)
		for range 3 {
			if err := netnstest.Echo(out); err != nil {
				t.Errorf("IPv%d, the host's connection to the resolver: %v", 4+2*i, err)
			}
		}
	}
	l.wantBans("198.51.100.53", "2001:db8:53::/64")
	l.reach(l.host)
	l.reach(container)

	for i, r := range resolver {
		l.cut(r)
		for _, p := range []netnstest.Packet{
			netnstest.SYN(r, at(containerAddr[i], openTCP)),
			netnstest.Datagram(r, at(containerAddr[i], openUDP), "hello"),
			netnstest.Ping(r, containerAddr[i], 7),
		} {
			l.want(p, netnstest.NoAnswer)
		}
		l.hangs(inbound[i])
	}
	l.families(func(l *lab, f family) { l.served(l.source(f)) })
	l.wantBans("198.51.100.53", "2001:db8:53::/64")
	for _, tt := range []struct {
		i      int
		ban    Record
		others []string
	}{ // other sets as well
		{0, Record{Source: prefix("198.51.100.0/24")}, []string{"ban4"}},
		{1, Record{Source: prefix("2001:db8:53::/48"), Cause: CauseSubnet}, []string{"ban6"}},
		{1, Record{Source: prefix("2001:db8:50::/44")}, []string{"subnet6"}},
		{1, Record{Source: prefix("2001:db8:53::53/128")}, []string{"net6"}},
	} {
		i := tt.i
		// First the one, then not the other: what was dropped is sent again, and
		// must not meet a moment without a ban.
		tt.ban.Banned, tt.ban.Timeout, tt.ban.Remaining = true, time.Hour, time.Hour
		l.put(tt.ban)
		for _, other := range tt.others {
			l.nft("flush set inet portmon " + other)
		}
		l.reach(l.host)
		l.reach(container)
		l.cut(resolver[i])
		l.hangs(inbound[i])
	}
}

// hangs fails the test unless what a connection sends is dropped.
func (l *lab) hangs(conn net.Conn) {
	l.t.Helper()
	before := l.counters()[CounterDropped]
	if _, err := conn.Write([]byte("anybody there?")); err != nil {
		l.t.Fatal(err)
	}
	await(l.t, "the packet to be dropped", func() bool { return l.counters()[CounterDropped] > before })
	conn.SetReadDeadline(time.Now().Add(50 * time.Millisecond)) // an answer takes some µs
	if n, err := conn.Read(make([]byte, 100)); !errors.Is(err, os.ErrDeadlineExceeded) {
		l.t.Errorf("a banned client's connection from before: read %d bytes, %v", n, err)
	}
}

// TestLocalPortMayBeATrap connects from ports that are traps to others.
func TestLocalPortMayBeATrap(t *testing.T) {
	l := newTrap(t, trapSpec())
	l.newResolver()
	for _, r := range resolver {
		for network, port := range map[string]uint16{"tcp": 443, "udp": 53} {
			var conn net.Conn
			var err error
			local := l.to(r, map[string]uint16{"tcp": trapTCP, "udp": trapUDP}[network])
			dialer := net.Dialer{Timeout: oneSecond, LocalAddr: net.TCPAddrFromAddrPort(local)}
			if network == "udp" {
				dialer.LocalAddr = net.UDPAddrFromAddrPort(local)
			}
			l.host.Do(func() { conn, err = dialer.Dial(network, at(r, port).String()) })
			if err != nil {
				t.Fatal(err)
			}
			conn.SetDeadline(time.Now().Add(patience))
			if err := netnstest.Echo(conn); err != nil {
				t.Errorf("from %v to %v: %v", local, r, err)
			}
			conn.Close()
			// Nobody listens now. What comes late is a reply all the same; the same from another port is not.
			if network == "udp" {
				l.want(netnstest.Packet{Proto: netnstest.UDP, Src: at(r, port), Dst: local, Payload: []byte("late")}, netnstest.AnswerPortUnreachable)
				l.wantBans()
				stranger := l.source(ofAddr(r))
				l.want(netnstest.Packet{Proto: netnstest.UDP, Src: at(stranger, port), Dst: local, Payload: []byte("late")}, netnstest.NoAnswer)
				l.cut(stranger)
				l.forgive()
			}
			l.wantBans()
			l.served(r)
		}
	}
}

// TestBackscatterOfARealServer has the resolver answer SYNs that somebody sent to it in the host's name, from a trap port.
func TestBackscatterOfARealServer(t *testing.T) {
	l := newTrap(t, trapSpec())
	l.newResolver()
	sniffer := l.host.Sniff("eth0")
	for _, r := range resolver {
		forged := netnstest.Packet{Proto: netnstest.TCP, Src: l.to(r, trapTCP), Dst: at(r, 443), Flags: syn}
		l.host.Send(forged) // by no socket, and past the host's conntrack
		if _, err := sniffer.Await(func(p netnstest.Packet) bool {
			return p.Src == forged.Dst && p.Dst == forged.Src && p.Flags == syn|ack
		}, patience); err != nil {
			t.Fatal(err)
		}
		l.outside.Fence()
		l.wantBans()
		l.served(r)
	}
}
