package ruleset

import (
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/portmon/portmon/internal/lab"
	"github.com/portmon/portmon/netnstest"
)

// inbox is a socket on the host for datagrams that nobody is answered to.
type inbox struct {
	mu  sync.Mutex
	got []netip.AddrPort
}

func (l *fixture) inbox(network string, port int) *inbox {
	l.T.Helper()
	var conn *net.UDPConn
	var err error
	l.Host.Do(func() { conn, err = net.ListenUDP(network, &net.UDPAddr{Port: port}) })
	if err != nil {
		l.T.Fatal(err)
	}
	b := new(inbox)
	var reading sync.WaitGroup
	reading.Go(func() {
		buf := make([]byte, 100)
		for {
			_, from, err := conn.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			b.mu.Lock()
			b.got = append(b.got, netip.AddrPortFrom(from.Addr().Unmap(), from.Port()))
			b.mu.Unlock()
		}
	})
	l.T.Cleanup(func() {
		conn.Close()
		reading.Wait()
	})
	return b
}

func (b *inbox) count() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.got)
}

// joinGroup has the host take packets to a multicast group.
func (l *fixture) joinGroup(group string) {
	l.T.Helper()
	var conn *net.UDPConn
	var err error
	l.Host.Do(func() {
		var dev *net.Interface
		if dev, err = net.InterfaceByName(l.Link.B.Dev); err == nil {
			conn, err = net.ListenMulticastUDP("udp", dev, &net.UDPAddr{IP: net.ParseIP(group), Port: 9})
		}
	})
	if err != nil {
		l.T.Fatal(err)
	}
	l.T.Cleanup(func() { conn.Close() })
}

// TestToManyIsNotAnOffence sends to trap ports and closed ports, but not to the
// host itself: broadcast and multicast, as printers, routers and players on the
// same network do all day.
func TestToManyIsNotAnOffence(t *testing.T) {
	t.Parallel()
	spec := trapSpec()
	spec.Scan.Ports = 1
	spec.TrapUDP = append(spec.TrapUDP, Ports{5353, 5353})
	l := newTrap(t, spec)
	l.joinGroup("224.0.0.251")
	l.joinGroup("239.1.2.3")
	l.joinGroup("ff02::fb")
	l.families(func(l *fixture, f family) {
		to := []string{"255.255.255.255", "192.0.2.255", "224.0.0.1", "224.0.0.251", "239.1.2.3", "239.9.9.9"}
		if f.is6() {
			to = []string{"ff02::1", "ff02::fb", "ff02::1:ff00:2", "ff0e::99"}
		}
		bystander := l.source(f)
		for _, dst := range to {
			sender := l.source(f)
			before := l.counters()
			for _, port := range []uint16{lab.TrapTCP, 200} {
				for _, flags := range []netnstest.TCPFlags{netnstest.FlagSYN, 0, netnstest.FlagFIN} {
					p := l.TCP(sender, port, flags)
					p.Src, p.Dst = at(sender, 4000), at(addr(dst), port)
					l.Internet.Send(p)
				}
			}
			for _, port := range []uint16{trapUDP, 5353, 1000} {
				l.Internet.Send(netnstest.Datagram(sender, at(addr(dst), port), "hello"))
			}
			l.wantCounts(before, nil)
			l.Visit(sender, bystander)
			l.wantStanding(sender, 0, CauseUnknown)
		}
		// To the host itself the same is one.
		offender := l.source(f)
		l.Want(l.UDP(offender, 5353), netnstest.NoAnswer)
		l.wantStanding(offender, 1, CauseTrap)
		l.Visit(bystander)
	})
}

// TestNobodyIsServed has DHCP clients, which have no address yet, use a port
// that is a trap, while prefixes that cover them are banned.
func TestNobodyIsServed(t *testing.T) {
	t.Parallel()
	const dhcp = 67
	spec := trapSpec()
	spec.Scan.Ports = 1
	spec.TrapUDP = append(spec.TrapUDP, Ports{dhcp, dhcp}, Ports{547, 547})
	l := newTrap(t, spec)
	discover := netnstest.Packet{
		Proto: netnstest.UDP, Payload: []byte("discover"),
		Src: at(addr("0.0.0.0"), 68), Dst: at(addr("255.255.255.255"), dhcp),
	}
	nobody := []netip.Addr{addr("0.0.0.0"), addr("0.1.2.3"), addr("::")}
	offend := func() {
		before := l.counters()
		for _, src := range nobody {
			for _, port := range []uint16{lab.TrapTCP, 200} {
				p := l.SYN(src, port)
				p.Src = at(src, 4000)
				l.Internet.Send(p)
			}
			l.Internet.Send(l.UDP(src, trapUDP))
		}
		l.Internet.Send(discover)
		l.wantCounts(before, nil)
	}
	offend()
	l.wantBans() // nor is the trap one for lack of a server

	server := l.inbox("udp4", dhcp)
	offend()
	lab.Await(t, "the discover", func() bool { return server.count() == 1 })

	// It goes on with a ban of everything around.
	covering := []string{"0.0.0.0/1", "::/8", "0.0.0.0/8", "::/128"}
	var records []Record
	for _, p := range covering {
		records = append(records, Record{Source: prefix(p), Banned: true, Timeout: time.Hour, Remaining: time.Hour})
	}
	refused, err := l.open().Put(records)
	if err != nil {
		t.Fatal(err)
	}
	for i, p := range covering {
		if want := i >= 2; (refused[i] != nil) != want {
			t.Errorf("a ban of %s: %v, want an error: %v", p, refused[i], want)
		}
	}
	l.Cut(addr("1.2.3.4"), addr("64:ff9b::1.2.3.4"))
	l.Visit(addr("198.18.99.1"), addr("2001:db8:1:99::1"))
	for n := 2; n <= 4; n++ {
		offend()
		lab.Await(t, "the discover", func() bool { return server.count() == n })
	}
	// Duplicate address detection asks from nowhere, and is answered.
	sniffer := l.Internet.Sniff(l.Link.A.Dev)
	target := l.Link.B.IPv6.As16()
	l.Internet.Send(netnstest.Packet{
		Proto: netnstest.ICMP, Type: 135, TTL: 255, Payload: target[:],
		Src: at(addr("::"), 0), Dst: at(addr("ff02::1:ff00:2"), 0),
	})
	if _, err := sniffer.Await(func(p netnstest.Packet) bool {
		return p.Proto == netnstest.ICMP && p.Type == 136 && p.Src.Addr() == l.Link.B.IPv6
	}, lab.Patience); err != nil {
		t.Errorf("nobody answers duplicate address detection: %v", err)
	}
	for _, f := range families {
		if n := l.size(f.ban()); n != 0 {
			t.Errorf("%s holds %d elements", f.ban(), n)
		}
	}
}

// TestNeighbourDiscoveryWithABannedNetwork has both ends learn each other's
// addresses while all of the network between them is banned, by hand.
func TestNeighbourDiscoveryWithABannedNetwork(t *testing.T) {
	t.Parallel()
	l := newTrap(t, trapSpec())
	bystanders := l.both()
	var records []Record
	for _, p := range []string{"192.0.2.0/24", "2001:db8::/64"} {
		records = append(records, Record{Source: prefix(p), Banned: true, Timeout: time.Hour, Remaining: time.Hour})
	}
	if refused, err := l.open().Put(records); err != nil || refused != nil {
		t.Fatal(refused, err)
	}
	for range 3 {
		l.Link.LearnNeighbours()
		l.Served(bystanders...)
		l.Cut(l.Link.A.IPv4, l.Link.A.IPv6)
	}
	// And it is reachable by us.
	l.Internet.Listen("tcp", "[::]:443")
	l.Link.LearnNeighbours()
	for _, a := range []netip.Addr{l.Link.A.IPv4, l.Link.A.IPv6} {
		if err := l.Host.Exchange("tcp", netip.Addr{}, at(a, 443), lab.Patience); err != nil {
			t.Errorf("from the host to a neighbour that is banned: %v", err)
		}
	}
}
