package main

import (
	"net"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/netnstest"
)

// sources is how many addresses each flow comes from. All go out in one system call.
const sources = 64

var (
	innocents  = netip.MustParsePrefix("198.51.100.0/24")
	innocents6 = netip.MustParsePrefix("2001:db8:1::/48")
	banned     = netip.MustParsePrefix("203.0.113.0/24")
)

const (
	portUDP  = 9000
	portTCP  = 9001
	portFull = 9002
)

// flow is a kind of packet.
type flow struct {
	name   string
	frames func(*scope, *lane) ([][]byte, error)
	// reach tells whether the packets get to the server's sockets, if the table has the bans.
	reach bool
	// counter is the one in /proc/net/snmp, or snmp6, which counts packets that did.
	counter []string
}

var (
	countUDP  = []string{"Udp InDatagrams", "Udp InErrors"}
	countUDP6 = []string{"Udp6InDatagrams", "Udp6InErrors"}
	countTCP  = []string{"Tcp InSegs"}
)

var flows = []flow{
	{"UDP to an open port", udpFrames, true, countUDP},
	{"the same by IPv6", udp6Frames, true, countUDP6},
	{"TCP, established", tcpFrames, true, countTCP},
	{"TCP, SYN to an open port", synFrames, true, countTCP},
	{"TCP, SYN of a banned source", bannedFrames, false, countTCP},
}

// encode makes one frame for each source of a prefix.
func (l *lane) encode(from netip.Prefix, packet func(src netip.Addr) (netnstest.Packet, error)) ([][]byte, error) {
	var frames [][]byte
	for i := range sources {
		p, err := packet(nth(from, i+1))
		if err != nil {
			return nil, err
		}
		f, err := frame(l.link, p)
		if err != nil {
			return nil, err
		}
		frames = append(frames, f)
	}
	return frames, nil
}

// frame returns a packet as it goes over a link, from A to B.
func frame(link *netnstest.Link, p netnstest.Packet) ([]byte, error) {
	etherType := []byte{0x08, 0x00}
	if p.Src.Addr().Is6() {
		etherType = []byte{0x86, 0xdd}
	}
	return p.AppendBinary(append(append(append([]byte{}, link.B.MAC[:]...), link.A.MAC[:]...), etherType...))
}

// udpFrames opens a socket that nobody reads. Once it is full, which it is after a few packets, each costs the same.
func udpFrames(t *scope, l *lane) ([][]byte, error) {
	if err := l.listen(t, unix.SOCK_DGRAM, portUDP); err != nil {
		return nil, err
	}
	return l.datagrams(innocents, l.link.B.IPv4)
}

func udp6Frames(_ *scope, l *lane) ([][]byte, error) { return l.datagrams(innocents6, l.link.B.IPv6) }

func (l *lane) datagrams(from netip.Prefix, to netip.Addr) ([][]byte, error) {
	return l.encode(from, func(src netip.Addr) (netnstest.Packet, error) {
		p := netnstest.Datagram(src, netip.AddrPortFrom(to, portUDP), "a payload of 26 bytes long")
		p.Src = netip.AddrPortFrom(src, 40000)
		return p, nil
	})
}

// tcpFrames opens real connections and repeats the last acknowledgement of the client.
func tcpFrames(_ *scope, l *lane) ([][]byte, error) {
	server := l.link.B.Host.ListenTCP(netip.AddrPortFrom(l.link.B.IPv4, portTCP).String())
	return l.encode(innocents, func(src netip.Addr) (netnstest.Packet, error) {
		conn, err := l.link.A.Host.Dial("tcp", src, server.Addr(), 5*time.Second)
		if err != nil {
			return netnstest.Packet{}, err
		}
		p := netnstest.Packet{
			Proto: netnstest.TCP, Flags: netnstest.FlagACK,
			Src: conn.LocalAddr().(*net.TCPAddr).AddrPort(), Dst: server.Addr(),
		}
		p.Seq, p.Ack, err = sequence(conn.(*net.TCPConn))
		return p, err
	})
}

// sequence returns the numbers of the next segment that a connection sends.
func sequence(conn *net.TCPConn) (seq, ack uint32, err error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, 0, err
	}
	queue := func(fd, which int) (n int) {
		if err == nil {
			err = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_REPAIR_QUEUE, which)
		}
		if err == nil {
			n, err = unix.GetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_QUEUE_SEQ)
		}
		return n
	}
	controlErr := raw.Control(func(fd uintptr) {
		const recvQueue, sendQueue, noProbe = 1, 2, -1 // TCP_RECV_QUEUE, TCP_SEND_QUEUE, TCP_REPAIR_OFF_NO_WP
		if err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_REPAIR, 1); err != nil {
			return
		}
		ack, seq = uint32(queue(int(fd), recvQueue)), uint32(queue(int(fd), sendQueue))
		if err == nil {
			err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_REPAIR, noProbe)
		}
	})
	if controlErr != nil {
		return 0, 0, controlErr
	}
	return seq, ack, os.NewSyscallError("read TCP sequence numbers", err)
}

// synFrames sends to a port whose backlog is full, so that each costs the same and nothing is answered.
func synFrames(t *scope, l *lane) ([][]byte, error) {
	if err := l.listen(t, unix.SOCK_STREAM, portFull); err != nil {
		return nil, err
	}
	to := netip.AddrPortFrom(l.link.B.IPv4, portFull)
	if _, err := l.link.A.Host.Dial("tcp", netip.Addr{}, to, 5*time.Second); err != nil {
		return nil, err
	}
	return l.syns(innocents)
}

func bannedFrames(_ *scope, l *lane) ([][]byte, error) { return l.syns(banned) }

func (l *lane) syns(from netip.Prefix) ([][]byte, error) {
	return l.encode(from, func(src netip.Addr) (netnstest.Packet, error) {
		p := netnstest.SYN(src, netip.AddrPortFrom(l.link.B.IPv4, portFull))
		p.Src = netip.AddrPortFrom(src, 40000)
		return p, nil
	})
}

// listen opens a socket of both families on the server with as little room as there is.
func (l *lane) listen(t *scope, typ, port int) (err error) {
	l.link.B.Host.Do(func() {
		var fd int
		if fd, err = unix.Socket(unix.AF_INET6, typ|unix.SOCK_CLOEXEC, 0); err != nil {
			return
		}
		t.Cleanup(func() { unix.Close(fd) })
		if err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 1); err != nil {
			return
		}
		if err = unix.Bind(fd, &unix.SockaddrInet6{Port: port}); err == nil && typ == unix.SOCK_STREAM {
			err = unix.Listen(fd, 0)
		}
	})
	return os.NewSyscallError("listen", err)
}
