package bench

import (
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/internal/lab"
	"github.com/portmon/portmon/netnstest"
)

const (
	portScanned = 10_000 // the first of 20 ports that are closed, no traps, and not ignored
	portUDP     = 9000
	portFull    = 9002
)

// kind makes a packet of some kind from a source to the host of a site.
type kind func(*site, netip.Addr) netnstest.Packet

// syn goes to a TCP port. At portFull the backlog is full, so that each costs the
// same and nothing is answered.
func syn(port uint16) kind {
	return func(s *site, src netip.Addr) netnstest.Packet { return s.SYN(src, port) }
}

// datagram goes to a socket that nobody reads. Once it is full, which it is
// after a few packets, each costs the same.
func datagram(s *site, src netip.Addr) netnstest.Packet { return s.UDP(src, portUDP) }

// acknowledgement repeats the last packet of the handshake in a real
// connection, of a source that is an address of the client.
func acknowledgement(s *site, src netip.Addr) netnstest.Packet {
	sniffer := s.Host.Sniff("")
	defer sniffer.Close()
	_, err := s.Internet.Dial("tcp", src, s.To(src, lab.OpenTCP), lab.Patience)
	check(s.T, err)
	p, err := sniffer.Await(func(p netnstest.Packet) bool {
		return p.Src.Addr() == src && p.Flags == netnstest.FlagACK
	}, lab.Patience)
	check(s.T, err)
	return p
}

// injector sends the same frames over and over, as fast as one CPU does. A veth
// hands each to the other end within the call that sends it, so that the time
// of the sending thread is the time of sending and receiving, and differs only
// by what the receiver does.
type injector struct {
	t      testing.TB
	fd     int
	frames [][]byte
}

// injector sends a packet of each source over the link to the host.
func (s *site) injector(sources []netip.Addr, packet kind) *injector {
	in := &injector{t: s.T}
	var err error
	s.Internet.Do(func() { in.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0) })
	check(s.T, err)
	s.T.Cleanup(func() { unix.Close(in.fd) })
	check(s.T, unix.SetsockoptInt(in.fd, unix.SOL_PACKET, unix.PACKET_QDISC_BYPASS, 1))
	check(s.T, unix.Bind(in.fd, &unix.SockaddrLinklayer{Ifindex: s.Link.A.Index}))
	for _, src := range sources {
		p, etherType := packet(s, src), "\x08\x00"
		if src.Is6() {
			etherType = "\x86\xdd"
		}
		if p.Src.Port() == 0 {
			p.Src = netip.AddrPortFrom(src, 40_000)
		}
		frame, err := p.AppendBinary([]byte(string(s.Link.B.MAC[:]) + string(s.Link.A.MAC[:]) + etherType))
		check(s.T, err)
		in.frames = append(in.frames, frame)
	}
	return in
}

// send sends all frames n times over from the last CPU that this process may
// use, and returns the CPU time of one frame in nanoseconds. Where the kernel
// does not account for interrupts apart, and few do, the time of a thread
// includes the soft interrupts in which packets are received, and excludes what
// other processes take from the CPU.
func (in *injector) send(n int) float64 {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var all unix.CPUSet
	check(in.t, unix.SchedGetaffinity(0, &all))
	last := all
	for cpu := 0; last.Count() > 1; cpu++ {
		last.Clear(cpu)
	}
	check(in.t, unix.SchedSetaffinity(0, &last))
	defer func() { check(in.t, unix.SchedSetaffinity(0, &all)) }()

	begin := clock(in.t, unix.CLOCK_THREAD_CPUTIME_ID)
	for range n {
		for _, frame := range in.frames {
			if _, err := unix.Write(in.fd, frame); err != nil {
				in.t.Fatalf("send a packet: %v", err)
			}
		}
	}
	used := clock(in.t, unix.CLOCK_THREAD_CPUTIME_ID) - begin
	return float64(used.Nanoseconds()) / float64(n*len(in.frames))
}

// listen opens sockets with as little room as there is, and fills the backlog of
// the one that listens.
func (s *site) listen() {
	s.Host.Sysctl("net.core.somaxconn", "0")
	s.Host.Do(func() {
		udp, err := net.ListenUDP("udp", &net.UDPAddr{Port: portUDP})
		check(s.T, err)
		tcp, err := net.ListenTCP("tcp", &net.TCPAddr{Port: portFull})
		check(s.T, err)
		s.T.Cleanup(func() { udp.Close(); tcp.Close() })
		check(s.T, udp.SetReadBuffer(1))
	})
	_, err := s.Internet.Dial("tcp", netip.Addr{}, s.To(s.Link.A.IPv4, portFull), lab.Patience)
	check(s.T, err)
}

// passing returns how many packets pass the host's firewalls while f runs.
func (s *site) passing(f func()) (n int) {
	s.NFT("table inet passing { chain input { type filter hook input priority 100; counter; }; }")
	f()
	_, packets, _ := strings.Cut(s.NFT("", "list", "table", "inet", "passing"), "counter packets ")
	_, err := fmt.Sscan(packets, &n)
	check(s.T, err)
	s.NFT("delete table inet passing")
	return n
}
