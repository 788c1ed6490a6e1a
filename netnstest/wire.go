package netnstest

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/mdlayher/socket"
	"golang.org/x/sys/unix"
)

// etherLen is the length of an Ethernet header in bytes.
const etherLen = 14

// batch is how many frames go to the kernel in one call: more save little, as a
// packet costs some microseconds there.
const batch = 64

// wire puts frames on the link of an end, to the other end, for whatever
// addresses are in them: neither routes nor neighbours nor firewall of the host
// have a say.
type wire struct {
	end *End

	mu     sync.Mutex // held while the fields below are in use
	conn   *socket.Conn
	raw    syscall.RawConn
	buffer gopacket.SerializeBuffer
	// The kernel reads frames by pointers through vectors and msgs, all three
	// parts of the wire.
	frames  [batch][]byte
	vectors [batch]unix.Iovec
	msgs    [batch]mmsghdr
}

// mmsghdr is struct mmsghdr of <linux/socket.h>, which x/sys/unix does not
// have.
type mmsghdr struct {
	header unix.Msghdr // msg_hdr
	length uint32      // msg_len: bytes sent
}

// newWire opens the packet socket of an end.
func newWire(e *End) (*wire, error) {
	conn, err := e.Host.packetSocket()
	if err != nil {
		return nil, err
	}
	raw, err := conn.SyscallConn()
	if err == nil {
		err = conn.Bind(&unix.SockaddrLinklayer{Ifindex: e.Index})
	}
	if err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("open packet socket: %w", err)
	}
	return &wire{end: e, conn: conn, raw: raw, buffer: gopacket.NewSerializeBuffer()}, nil
}

// send sends n packets, the i-th of which packet returns, as fast as the far
// end takes them.
func (w *wire) send(n int, packet func(i int) Packet) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	for done := 0; done < n; {
		k := min(batch, n-done)
		for j := range k {
			p := packet(done + j)
			if err := p.encode(w.buffer, w.ethernet(etherType(p))); err != nil {
				return err
			}
			w.frames[j] = append(w.frames[j][:0], w.buffer.Bytes()...)
		}
		if err := w.flush(k); err != nil {
			return fmt.Errorf("send on %s: %w", w.end.Dev, err)
		}
		done += k
	}
	return nil
}

// sendFrame sends one frame whose header is there already.
func (w *wire) sendFrame(frame []byte) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.frames[0] = append(w.frames[0][:0], frame...)
	if err := w.flush(1); err != nil {
		return fmt.Errorf("send on %s: %w", w.end.Dev, err)
	}
	return nil
}

// flush sends the first n frames. ENOBUFS is the far end's backlog being full:
// the veth did not deliver, and the frame is sent again once the kernel has
// worked some of it off.
func (w *wire) flush(n int) error {
	for i := range n {
		w.vectors[i].Base = &w.frames[i][0]
		w.vectors[i].SetLen(len(w.frames[i]))
		w.msgs[i].header.Iov = &w.vectors[i]
		w.msgs[i].header.SetIovlen(1)
	}
	var giveUp time.Time
	for sent := 0; sent < n; {
		k, err := w.sendmmsg(w.msgs[sent:n])
		switch {
		case err == nil:
			sent += k
			giveUp = time.Time{}
		case !errors.Is(err, unix.ENOBUFS):
			return err
		case giveUp.IsZero():
			giveUp = time.Now().Add(patience)
		case time.Now().After(giveUp):
			return err
		default:
			runtime.Gosched()
		}
	}
	return nil
}

// sendmmsg returns how many messages were sent, at least one if the error is
// nil.
func (w *wire) sendmmsg(msgs []mmsghdr) (n int, err error) {
	controlErr := w.raw.Write(func(fd uintptr) (done bool) {
		r, _, errno := unix.Syscall6(unix.SYS_SENDMMSG, fd, uintptr(unsafe.Pointer(&msgs[0])), uintptr(len(msgs)), 0, 0, 0)
		if errno == unix.EAGAIN {
			return false
		}
		if n = int(r); errno != 0 {
			n, err = 0, os.NewSyscallError("sendmmsg", errno)
		}
		return true
	})
	if controlErr != nil {
		return 0, controlErr
	}
	return n, err
}

// ethernet returns the header of a frame to the other end.
func (w *wire) ethernet(typ layers.EthernetType) *layers.Ethernet {
	return &layers.Ethernet{SrcMAC: w.end.MAC[:], DstMAC: w.end.peer.MAC[:], EthernetType: typ}
}

func etherType(p Packet) layers.EthernetType {
	if p.Dst.Addr().Is4() {
		return layers.EthernetTypeIPv4
	}
	return layers.EthernetTypeIPv6
}

// htons returns v in network byte order, in which the protocol of a packet
// socket is.
func htons(v uint16) uint16 { return v<<8 | v>>8 }
