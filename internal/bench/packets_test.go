package bench

import (
	"net/netip"
	"runtime"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/netnstest"
)

// injector sends the same frames over and over, as fast as one CPU does. A veth
// hands each to the other end within the call that sends it, so that the time
// of the sending thread is the time of sending and receiving, and differs only
// by what the receiver does.
type injector struct {
	b    *testing.B
	fd   int
	msgs []mmsghdr
}

// mmsghdr is struct mmsghdr of <linux/socket.h>, which x/sys/unix does not
// have.
type mmsghdr struct {
	header unix.Msghdr // msg_hdr
	length uint32      // msg_len
}

func (s *site) injector(frames [][]byte) *injector {
	in := &injector{s.b, -1, make([]mmsghdr, len(frames))}
	var err error
	s.link.A.Host.Do(func() { in.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0) })
	check(s.b, err)
	s.b.Cleanup(func() { unix.Close(in.fd) })
	check(s.b, unix.SetsockoptInt(in.fd, unix.SOL_PACKET, unix.PACKET_QDISC_BYPASS, 1))
	check(s.b, unix.Bind(in.fd, &unix.SockaddrLinklayer{Ifindex: s.link.A.Index}))
	for i, f := range frames {
		in.msgs[i].header.Iov = &unix.Iovec{Base: &f[0], Len: uint64(len(f))}
		in.msgs[i].header.SetIovlen(1)
	}
	return in
}

// part is the injector of some of the frames.
func (in *injector) part(from, to int) *injector { return &injector{in.b, in.fd, in.msgs[from:to]} }

// send sends all frames n times over and returns the CPU time of one frame in
// nanoseconds. It must run pinned. Where the kernel does not account for
// interrupts apart, and few do, the time of a thread includes the soft interrupts
// in which packets are received, and excludes what other processes take from the
// CPU.
func (in *injector) send(n int) float64 {
	begin := clock(in.b, unix.CLOCK_THREAD_CPUTIME_ID)
	for range n {
		for sent := 0; sent < len(in.msgs); {
			k, _, errno := unix.RawSyscall6(unix.SYS_SENDMMSG, uintptr(in.fd),
				uintptr(unsafe.Pointer(&in.msgs[sent])), uintptr(len(in.msgs)-sent), 0, 0, 0)
			if errno != 0 {
				in.b.Fatalf("sendmmsg: %v", errno)
			}
			sent += int(k)
		}
	}
	return float64(clock(in.b, unix.CLOCK_THREAD_CPUTIME_ID)-begin) / float64(n*len(in.msgs))
}

// pin keeps the caller on the last CPU that this process may use, until the
// function that it returns is called.
func pin(b *testing.B) (unpin func()) {
	runtime.LockOSThread()
	var all unix.CPUSet
	check(b, unix.SchedGetaffinity(0, &all))
	last := all
	for cpu := 0; last.Count() > 1; cpu++ {
		last.Clear(cpu)
	}
	check(b, unix.SchedSetaffinity(0, &last))
	return func() {
		_ = unix.SchedSetaffinity(0, &all)
		runtime.UnlockOSThread()
	}
}

// burst sends frames once, as fast as one CPU does, and returns the CPU time of
// one frame in nanoseconds.
func (s *site) burst(frames [][]byte) float64 {
	defer pin(s.b)()
	return s.injector(frames).send(1)
}

const (
	portTrap    = 23     // one of the trap ports
	portScanned = 10_000 // the first of 20 ports that are closed, no traps, and not ignored
	portUDP     = 9000
	portTCP     = 9001
	portFull    = 9002
	portClosed  = 9003
)

// frames returns a packet of each source as it goes over the link to the host.
func (s *site) frames(from []netip.Addr, port uint16, packet func(src netip.Addr, dst netip.AddrPort) netnstest.Packet) [][]byte {
	frames := make([][]byte, len(from))
	for i, src := range from {
		dst, etherType := s.link.B.IPv4, []byte{0x08, 0x00}
		if src.Is6() {
			dst, etherType = s.link.B.IPv6, []byte{0x86, 0xdd}
		}
		p := packet(src, netip.AddrPortFrom(dst, port))
		if p.Src.Port() == 0 {
			p.Src = netip.AddrPortFrom(src, 40_000)
		}
		var err error
		frames[i], err = p.AppendBinary(append(append(append([]byte{}, s.link.B.MAC[:]...), s.link.A.MAC[:]...), etherType...))
		check(s.b, err)
	}
	return frames
}

func (s *site) syns(from []netip.Addr, port uint16) [][]byte {
	return s.frames(from, port, netnstest.SYN)
}

// synsTo go to one port. If it is open its backlog is full, so that each costs
// the same and nothing is answered.
func synsTo(port uint16) func(*site, []netip.Addr) [][]byte {
	return func(s *site, from []netip.Addr) [][]byte { return s.syns(from, port) }
}

// datagrams go to a socket that nobody reads. Once it is full, which it is
// after a few packets, each costs the same.
func datagrams(s *site, from []netip.Addr) [][]byte {
	return s.frames(from, portUDP, func(src netip.Addr, dst netip.AddrPort) netnstest.Packet {
		return netnstest.Datagram(src, dst, "a payload of 26 bytes long")
	})
}

// acknowledgements repeat the last packet of the handshake in real connections.
// No timestamps, which would tell the repeated packets from new ones.
func acknowledgements(s *site, from []netip.Addr) [][]byte {
	s.host.ListenTCP(netip.AddrPortFrom(s.link.B.IPv4, portTCP).String())
	client := s.link.A.Host
	client.AddAddr("lo", innocents.String()) // all of the network is the client's: it is on lo
	client.Sysctl("net.ipv4.tcp_timestamps", "0")
	sniffer := s.host.Sniff("")
	defer sniffer.Close()
	return s.frames(from, portTCP, func(src netip.Addr, dst netip.AddrPort) netnstest.Packet {
		conn, err := client.Dial("tcp", src, dst, 5*time.Second)
		check(s.b, err)
		s.b.Cleanup(func() { conn.Close() })
		p, err := sniffer.Await(func(p netnstest.Packet) bool {
			return p.Src.Addr() == src && p.Flags == netnstest.FlagACK
		}, 5*time.Second)
		check(s.b, err)
		return p
	})
}
