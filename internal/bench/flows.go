package main

import (
	"net"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/netnstest"
)

var (
	innocents  = netip.MustParsePrefix("198.51.100.0/24")
	innocents6 = netip.MustParsePrefix("2001:db8:1::/48")
	banned     = netip.MustParsePrefix("203.0.113.0/24")
	crowd      = netip.MustParsePrefix("198.18.0.0/15")
	crowd6     = netip.MustParsePrefix("2001:db8:2::/48")
)

const (
	portUDP    = 9000
	portTCP    = 9001
	portFull   = 9002
	portClosed = 9003
)

// flow is a kind of packet.
type flow struct {
	name    string
	from    netip.Prefix
	sources int
	frames  func(*lane, []netip.Addr) ([][]byte, error)
	// counter is the one in /proc/net/snmp, or snmp6, which counts packets that
	// got to the server's sockets, or would have if there were one.
	counter []string
}

var (
	countUDP  = []string{"Udp InDatagrams", "Udp InErrors"}
	countUDP6 = []string{"Udp6InDatagrams", "Udp6InErrors"}
	countTCP  = []string{"Tcp InSegs"}
)

// few sources are always in the caches, and go out in one system call.
const few = 64

var warmFlows = []flow{
	{"UDP to an open port", innocents, few, datagrams, countUDP},
	{"the same by IPv6", innocents6, few, datagrams, countUDP6},
	{"TCP, established", innocents, few, acknowledgements, countTCP},
	{"SYN to an open port", innocents, few, syns(portFull), countTCP},
	{"the same by IPv6", innocents6, few, syns(portFull), countTCP},
	{"SYN to a closed port", innocents, few, syns(portClosed), countTCP},
	{"SYN of a banned source", banned, few, syns(portFull), countTCP},
}

// many sources are not.
const many = 4096

var coldFlows = []flow{
	{"UDP to an open port", crowd, many, datagrams, countUDP},
	{"the same by IPv6", crowd6, many, datagrams, countUDP6},
	{"SYN to an open port", crowd, many, syns(portFull), countTCP},
	{"the same by IPv6", crowd6, many, syns(portFull), countTCP},
}

// frame returns a packet as it goes over a link, from A to B.
func frame(link *netnstest.Link, p netnstest.Packet) ([]byte, error) {
	etherType := []byte{0x08, 0x00}
	if p.Src.Addr().Is6() {
		etherType = []byte{0x86, 0xdd}
	}
	return p.AppendBinary(append(append(append([]byte{}, link.B.MAC[:]...), link.A.MAC[:]...), etherType...))
}

// datagrams go to a socket that nobody reads. Once it is full, which it is
// after a few packets, each costs the same.
func datagrams(l *lane, from []netip.Addr) ([][]byte, error) {
	return each(from, func(src netip.Addr) ([]byte, error) {
		p := netnstest.Datagram(src, netip.AddrPortFrom(l.address(src), portUDP), "a payload of 26 bytes long")
		p.Src = netip.AddrPortFrom(src, 40000)
		return frame(l.link, p)
	})
}

// syns go to one port. If it is open its backlog is full, so that each costs
// the same and nothing is answered.
func syns(port uint16) func(*lane, []netip.Addr) ([][]byte, error) {
	return func(l *lane, from []netip.Addr) ([][]byte, error) { return l.syns(from, port) }
}

func (g *target) syns(from []netip.Addr, port uint16) ([][]byte, error) {
	return each(from, func(src netip.Addr) ([]byte, error) {
		p := netnstest.SYN(src, netip.AddrPortFrom(g.address(src), port))
		p.Src = netip.AddrPortFrom(src, 40000)
		return frame(g.link, p)
	})
}

// acknowledgements repeat the last one of the client in real connections.
func acknowledgements(l *lane, from []netip.Addr) ([][]byte, error) {
	server := l.link.B.Host.ListenTCP(netip.AddrPortFrom(l.link.B.IPv4, portTCP).String())
	return each(from, func(src netip.Addr) ([]byte, error) {
		conn, err := l.link.A.Host.Dial("tcp", src, server.Addr(), 5*time.Second)
		if err != nil {
			return nil, err
		}
		p := netnstest.Packet{
			Proto: netnstest.TCP, Flags: netnstest.FlagACK,
			Src: conn.LocalAddr().(*net.TCPAddr).AddrPort(), Dst: server.Addr(),
		}
		if p.Seq, p.Ack, err = sequence(conn.(*net.TCPConn)); err != nil {
			return nil, err
		}
		return frame(l.link, p)
	})
}

func each(from []netip.Addr, encode func(netip.Addr) ([]byte, error)) ([][]byte, error) {
	frames := make([][]byte, len(from))
	for i, src := range from {
		var err error
		if frames[i], err = encode(src); err != nil {
			return nil, err
		}
	}
	return frames, nil
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
