package ruleset

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/portmon/portmon/internal/lab"
	"github.com/portmon/portmon/netnstest"
)

// resolver is an address of the outside, with servers, that somebody gets
// banned by a packet in its name.
var resolver = [...]netip.Addr{addr("198.51.100.53"), addr("2001:db8:53::53")}

// newResolver adds the resolver to a lab: DNS by UDP, and something by TCP.
func (l *fixture) newResolver() {
	l.Internet.AddAddr("lo", "198.51.100.53/32")
	l.Internet.AddAddr("lo", "2001:db8:53::53/128")
	l.Internet.Listen("udp", "[::]:53")
	l.Internet.Listen("tcp", "[::]:443")
}

// reach fails the test unless a host can make use of the resolver.
func (l *fixture) reach(from *netnstest.Host) {
	l.T.Helper()
	from = from.With(l.T)
	for _, r := range resolver {
		for range 3 {
			if err := from.Exchange("udp", netip.Addr{}, at(r, 53), lab.Patience); err != nil {
				l.T.Errorf("%s asks the resolver %v: %v", from.Name(), r, err)
			}
		}
		if err := from.Exchange("tcp", netip.Addr{}, at(r, 443), lab.Patience); err != nil {
			l.T.Errorf("%s connects to the resolver %v: %v", from.Name(), r, err)
		}
		if err := from.Exchange("udp", netip.Addr{}, at(r, 54), lab.Patience); !errors.Is(err, syscall.ECONNREFUSED) {
			l.T.Errorf("%s sends to a closed port of the resolver %v: %v, want ECONNREFUSED", from.Name(), r, err)
		}
		if err := from.Exchange("tcp", netip.Addr{}, at(r, 444), lab.Patience); !errors.Is(err, syscall.ECONNREFUSED) {
			l.T.Errorf("%s connects to a closed port of the resolver %v: %v, want ECONNREFUSED", from.Name(), r, err)
		}
	}
}

// TestBansDoNotCutOurOwnTraffic bans the resolver by a spoofed packet.
func TestBansDoNotCutOurOwnTraffic(t *testing.T) {
	t.Parallel()
	l := newTrap(t, trapSpec())
	l.newResolver()
	container := l.newContainer()
	l.reach(l.Host)
	l.reach(container)

	var inbound []net.Conn // the resolver's, opened before
	for i, r := range resolver {
		conn, err := l.Internet.Dial("tcp", r, l.To(r, lab.OpenTCP), lab.Patience)
		if err != nil {
			t.Fatal(err)
		}
		conn.SetDeadline(time.Now().Add(lab.Patience))
		if err := netnstest.Echo(conn); err != nil {
			t.Fatal(err)
		}
		inbound = append(inbound, conn)
		// And one that the host opened before.
		out, err := l.Host.Dial("tcp", netip.Addr{}, at(r, 443), lab.Patience)
		if err != nil {
			t.Fatal(err)
		}
		out.SetDeadline(time.Now().Add(lab.Patience))

		l.Offend(r)
		for range 3 {
			if err := netnstest.Echo(out); err != nil {
				t.Errorf("IPv%d, the host's connection to the resolver: %v", 4+2*i, err)
			}
		}
	}
	l.wantBans("198.51.100.53", "2001:db8:53::/64")
	l.reach(l.Host)
	l.reach(container)

	for i, r := range resolver {
		l.Cut(r)
		for _, p := range []netnstest.Packet{
			netnstest.SYN(r, at(containerAddr[i], lab.OpenTCP)),
			netnstest.Datagram(r, at(containerAddr[i], lab.OpenUDP), "hello"),
			netnstest.Ping(r, containerAddr[i], 7),
		} {
			l.Want(p, netnstest.NoAnswer)
		}
		l.hangs(inbound[i])
	}
	l.families(func(l *fixture, f family) { l.Served(l.source(f)) })
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
		// First the one, then not the other: what was dropped is sent again,
		// and must not meet a moment without a ban.
		tt.ban.Banned, tt.ban.Timeout, tt.ban.Remaining = true, time.Hour, time.Hour
		l.put(tt.ban)
		for _, other := range tt.others {
			l.NFT("flush set inet portmon " + other)
		}
		l.reach(l.Host)
		l.reach(container)
		l.Cut(resolver[i])
		l.hangs(inbound[i])
	}
}

// hangs fails the test unless what a connection sends is dropped.
func (l *fixture) hangs(conn net.Conn) {
	l.T.Helper()
	before := l.counters()[CounterDropped]
	if _, err := conn.Write([]byte("anybody there?")); err != nil {
		l.T.Fatal(err)
	}
	lab.Await(l.T, "the packet to be dropped", func() bool { return l.counters()[CounterDropped] > before })
	conn.SetReadDeadline(time.Now().Add(50 * time.Millisecond)) // an answer takes some µs
	if n, err := conn.Read(make([]byte, 100)); !errors.Is(err, os.ErrDeadlineExceeded) {
		l.T.Errorf("a banned client's connection from before: read %d bytes, %v", n, err)
	}
}

// TestLocalPortMayBeATrap connects from ports that are traps to others.
func TestLocalPortMayBeATrap(t *testing.T) {
	t.Parallel()
	l := newTrap(t, trapSpec())
	l.newResolver()
	for _, r := range resolver {
		for network, port := range map[string]uint16{"tcp": 443, "udp": 53} {
			var conn net.Conn
			var err error
			local := l.To(r, map[string]uint16{"tcp": lab.TrapTCP, "udp": trapUDP}[network])
			dialer := net.Dialer{Timeout: lab.Patience, LocalAddr: net.TCPAddrFromAddrPort(local)}
			if network == "udp" {
				dialer.LocalAddr = net.UDPAddrFromAddrPort(local)
			}
			l.Host.Do(func() { conn, err = dialer.Dial(network, at(r, port).String()) })
			if err != nil {
				t.Fatal(err)
			}
			conn.SetDeadline(time.Now().Add(lab.Patience))
			if err := netnstest.Echo(conn); err != nil {
				t.Errorf("from %v to %v: %v", local, r, err)
			}
			conn.Close()
			// Nobody listens now. What comes late is a reply all the same; the
			// same from another port is not.
			if network == "udp" {
				l.Want(netnstest.Packet{Proto: netnstest.UDP, Src: at(r, port), Dst: local, Payload: []byte("late")}, netnstest.AnswerPortUnreachable)
				l.wantBans()
				stranger := l.source(ofAddr(r))
				l.Want(netnstest.Packet{Proto: netnstest.UDP, Src: at(stranger, port), Dst: local, Payload: []byte("late")}, netnstest.NoAnswer)
				l.Cut(stranger)
				l.forgive()
			}
			l.wantBans()
			l.Served(r)
		}
	}
}

// TestBackscatterOfARealServer has the resolver answer SYNs that somebody sent
// to it in the host's name, from a trap port.
func TestBackscatterOfARealServer(t *testing.T) {
	t.Parallel()
	l := newTrap(t, trapSpec())
	l.newResolver()
	sniffer := l.Host.Sniff("eth0")
	for _, r := range resolver {
		forged := netnstest.Packet{Proto: netnstest.TCP, Src: l.To(r, lab.TrapTCP), Dst: at(r, 443), Flags: syn}
		l.Host.Send(forged) // by no socket, and past the host's conntrack
		if _, err := sniffer.Await(func(p netnstest.Packet) bool {
			return p.Src == forged.Dst && p.Dst == forged.Src && p.Flags == syn|ack
		}, lab.Patience); err != nil {
			t.Fatal(err)
		}
		l.Internet.Fence()
		l.wantBans()
		l.Served(r)
	}
}
