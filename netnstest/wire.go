package netnstest

import (
	"errors"
	"fmt"
	"runtime"
	"sync"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/mdlayher/socket"
	"golang.org/x/sys/unix"
)

// etherLen is the length of an Ethernet header in bytes.
const etherLen = 14

// wire puts frames on the link of an end, to the other end, for whatever
// addresses are in them: neither routes nor neighbours nor firewall of the host
// have a say.
type wire struct {
	end  *End
	conn *socket.Conn

	mu     sync.Mutex // held while the buffer is in use
	buffer gopacket.SerializeBuffer
}

// newWire opens the packet socket of an end.
func newWire(e *End) (*wire, error) {
	conn, err := e.Host.packetSocket()
	if err != nil {
		return nil, err
	}
	if err := conn.Bind(&unix.SockaddrLinklayer{Ifindex: e.Index}); err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("open packet socket: %w", err)
	}
	return &wire{end: e, conn: conn, buffer: gopacket.NewSerializeBuffer()}, nil
}

// send sends n packets, the i-th of which packet returns, as fast as the far
// end takes them.
func (w *wire) send(n int, packet func(i int) Packet) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := range n {
		p := packet(i)
		if err := p.encode(w.buffer, w.ethernet(etherType(p))); err != nil {
			return err
		}
		if err := w.transmit(w.buffer.Bytes()); err != nil {
			return err
		}
	}
	return nil
}

// transmit sends a frame. ENOBUFS is the far end's backlog being full: the veth
// did not deliver, and the frame is sent again once the kernel has worked some
// of it off.
func (w *wire) transmit(frame []byte) error {
	var giveUp time.Time
	for {
		_, err := w.conn.Write(frame)
		switch {
		case err == nil:
			return nil
		case !errors.Is(err, unix.ENOBUFS) || !giveUp.IsZero() && time.Now().After(giveUp):
			return fmt.Errorf("send on %s: %w", w.end.Dev, err)
		case giveUp.IsZero():
			giveUp = time.Now().Add(patience)
		}
		runtime.Gosched()
	}
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
