package netnstest

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"syscall"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/mdlayher/socket"
	"golang.org/x/sys/unix"
)

// packetSocket is a packet(7) socket of a host. What it sends goes on a link as
// it is: neither routes nor neighbours nor firewall of the host have a say. It
// receives before the firewall. One goroutine at a time may receive.
type packetSocket struct {
	conn *socket.Conn
	raw  syscall.RawConn
	buf  []byte
}

// packetSocket opens a socket that receives what comes in on an interface of the
// host, with index 0 on any, and unless ignoreOutgoing is 1, what goes out.
func (m *machine) packetSocket(index, ignoreOutgoing int) (*packetSocket, error) {
	// As its protocol is 0, it receives nothing until it is bound to another.
	conn, err := socket.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0, "packet", &socket.Config{NetNS: int(m.ns)})
	if err != nil {
		return nil, fmt.Errorf("open packet socket: %w", err)
	}
	raw, err := conn.SyscallConn()
	if err == nil {
		err = conn.SetsockoptInt(unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, ignoreOutgoing)
	}
	if err == nil {
		err = conn.SetReadBuffer(8 << 20)
	}
	if err == nil {
		all := binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, unix.ETH_P_ALL)) // in network byte order
		err = conn.Bind(&unix.SockaddrLinklayer{Protocol: all, Ifindex: index})
	}
	if err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("open packet socket: %w", err)
	}
	return &packetSocket{conn, raw, make([]byte, 1<<17)}, nil
}

// socket returns the socket for all links of the host, which sees what comes
// in. It is opened at its first use and closed with the host: the kernel takes
// milliseconds to close a packet socket.
func (m *machine) socket() (_ *packetSocket, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.sock != nil {
		return m.sock, nil
	}
	m.sock, err = m.packetSocket(0, 1)
	return m.sock, err
}

// transmit sends a frame to the other end of a link. ENOBUFS is the far end's
// backlog being full: the veth did not deliver, and the frame is sent again
// once the kernel has worked some of it off.
func (s *packetSocket) transmit(e *End, frame []byte) error {
	for giveUp := time.Now().Add(patience); ; runtime.Gosched() {
		err := s.conn.Sendto(context.Background(), frame, 0, &unix.SockaddrLinklayer{Ifindex: e.Index})
		if err == nil {
			return nil
		}
		if !errors.Is(err, unix.ENOBUFS) || time.Now().After(giveUp) {
			return fmt.Errorf("send on %s: %w", e.Dev, err)
		}
	}
}

// receive returns the next frame and whether the host sent it. A frame that is
// there is returned even if the deadline has passed; if there is none by then,
// the error is os.ErrDeadlineExceeded.
func (s *packetSocket) receive(deadline time.Time) (frame gopacket.Packet, outgoing bool, err error) {
	var (
		n    int
		from unix.Sockaddr
	)
	receive := func(fd uintptr) (done bool) {
		n, from, err = unix.Recvfrom(int(fd), s.buf, unix.MSG_DONTWAIT)
		return !errors.Is(err, unix.EAGAIN)
	}
	// Read would not even try with a deadline that has passed, and setting one
	// costs more than trying.
	controlErr := s.raw.Control(func(fd uintptr) { receive(fd) })
	if controlErr == nil && errors.Is(err, unix.EAGAIN) {
		if controlErr = s.conn.SetReadDeadline(deadline); controlErr == nil {
			controlErr = s.raw.Read(receive)
		}
	}
	if controlErr != nil {
		return nil, false, controlErr
	}
	if err != nil {
		return nil, false, os.NewSyscallError("recvfrom", err)
	}
	ll, _ := from.(*unix.SockaddrLinklayer)
	return gopacket.NewPacket(s.buf[:n], layers.LayerTypeEthernet, gopacket.Lazy), ll.Pkttype == unix.PACKET_OUTGOING, nil
}

// lost returns how many frames did not fit into the socket since it was last
// asked.
func (s *packetSocket) lost() (uint32, error) {
	stats, err := s.conn.GetsockoptTpacketStats(unix.SOL_PACKET, unix.PACKET_STATISTICS)
	if err != nil {
		return 0, fmt.Errorf("read packet socket statistics: %w", err)
	}
	return stats.Drops, nil
}
