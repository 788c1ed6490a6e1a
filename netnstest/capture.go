package netnstest

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"github.com/mdlayher/socket"
	"golang.org/x/sys/unix"
)

// capture is a packet socket that receives. One goroutine at a time may use it.
type capture struct {
	conn *socket.Conn
	raw  syscall.RawConn
	buf  []byte
}

// capture opens a packet socket that receives what comes in on an interface of
// the host, with index 0 on all, and if outgoing is set, what goes out too.
func (h *Host) capture(index int, outgoing bool) (*capture, error) {
	conn, err := h.packetSocket()
	if err != nil {
		return nil, err
	}
	raw, err := conn.SyscallConn()
	if err == nil && !outgoing {
		err = conn.SetsockoptInt(unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1) // since Linux 4.20
	}
	if err == nil {
		err = conn.SetReadBuffer(8 << 20)
	}
	if err == nil {
		// The socket receives from here on, so that nothing else than what was
		// asked for is in it.
		err = conn.Bind(&unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_ALL), Ifindex: index})
	}
	if err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("open packet socket: %w", err)
	}
	return &capture{conn, raw, make([]byte, etherLen+1<<16)}, nil
}

// packetSocket opens a packet(7) socket for frames in the host's namespace. As
// its protocol is 0, it receives nothing until it is bound to another.
func (h *Host) packetSocket() (*socket.Conn, error) {
	conn, err := socket.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0, "packet", &socket.Config{NetNS: h.FD()})
	if err != nil {
		return nil, fmt.Errorf("open packet socket: %w", err)
	}
	return conn, nil
}

// next returns the next frame, which is good until it is called again, and
// where it came from. A frame that is there is returned even if the deadline
// has passed; if there is none by then, the error is os.ErrDeadlineExceeded.
func (c *capture) next(deadline time.Time) (frame []byte, from *unix.SockaddrLinklayer, err error) {
	var (
		n    int
		addr unix.Sockaddr
	)
	receive := func(fd uintptr) (done bool) {
		n, addr, err = unix.Recvfrom(int(fd), c.buf, unix.MSG_DONTWAIT)
		return !errors.Is(err, unix.EAGAIN)
	}
	// Read would not even try with a deadline that has passed, and setting one
	// costs more than trying.
	controlErr := c.raw.Control(func(fd uintptr) { receive(fd) })
	if controlErr == nil && errors.Is(err, unix.EAGAIN) {
		if controlErr = c.conn.SetReadDeadline(deadline); controlErr == nil {
			controlErr = c.raw.Read(receive)
		}
	}
	if controlErr != nil {
		return nil, nil, controlErr
	}
	if err != nil {
		return nil, nil, os.NewSyscallError("recvfrom", err)
	}
	from, _ = addr.(*unix.SockaddrLinklayer)
	return c.buf[:n], from, nil
}

// lost returns how many frames did not fit into the socket since it was last
// asked.
func (c *capture) lost() (uint32, error) {
	stats, err := c.conn.GetsockoptTpacketStats(unix.SOL_PACKET, unix.PACKET_STATISTICS)
	if err != nil {
		return 0, fmt.Errorf("read packet socket statistics: %w", err)
	}
	return stats.Drops, nil
}
