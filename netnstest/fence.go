package netnstest

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
)

// fenceAddr is an address that every host has on its loopback interface, so
// that a fence has something to ask for on links without IPv4 too. It is the
// dummy address of RFC 7600, 4.8, that no host on the internet has.
var fenceAddr = netip.AddrFrom4([4]byte{192, 0, 0, 8})

// rounds is how often a fence asks. Each time, question and answer cross a link
// once; what is behind them in the queue cannot be seen after them. So a fence
// is behind all packets that cross up to 2*rounds links there and back: those
// answered by a host seven routers away, or fewer if neighbours must be
// discovered first.
const rounds = 8

// watch sees the packets that come in to a host, on any interface, from just
// before the first was sent.
type watch struct {
	mu sync.Mutex // held by a fence or probe from its first frame to its last
	*capture
}

// watcher returns the host's watch, opened at its first use and closed with the
// host: the kernel takes milliseconds to close a packet socket.
func (h *Host) watcher() (*watch, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.watch != nil {
		return h.watch, nil
	}
	c, err := h.capture(0, false)
	if err != nil {
		return nil, err
	}
	h.watch = &watch{capture: c}
	return h.watch, nil
}

// fence returns when all that was sent on the CPU of the caller has been
// processed.
func (w *watch) fence(out *wire) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.drain(); err != nil {
		return err
	}
	for range rounds {
		if err := w.round(out, func([]byte) {}); err != nil {
			return err
		}
	}
	return nil
}

// round asks the far end of a wire for fenceAddr and calls see for every frame
// that comes in until the answer does.
//
// The question is an ARP probe (RFC 5227): the kernel answers it at once, like
// a packet to any address of its own, but no ip, ip6 or inet rule sees it, so
// that whatever the firewall under test does, it is answered. Its sender's IP
// address is zero, hence the far end learns no neighbour from it.
func (w *watch) round(out *wire, see func(frame []byte)) error {
	mark := nextMark()
	probe, err := arpProbe(out, mark)
	if err == nil {
		err = out.transmit(probe)
	}
	if err != nil {
		return err
	}
	deadline := time.Now().Add(patience)
	for {
		frame, _, err := w.next(deadline)
		if err != nil {
			return fmt.Errorf("await ARP answer of %s on %s: %w", out.end.peer.Host.name, out.end.Dev, err)
		}
		if isARPReply(frame, mark) {
			return nil
		}
		see(frame)
	}
}

// drain forgets what came in while nobody looked, and that some of it may have
// been lost.
func (w *watch) drain() error {
	for {
		_, _, err := w.next(time.Time{}.Add(1))
		if errors.Is(err, os.ErrDeadlineExceeded) {
			break
		}
		if err != nil {
			return fmt.Errorf("drain packet socket: %w", err)
		}
	}
	_, err := w.lost()
	return err
}

var marks atomic.Uint32

// nextMark returns a MAC address that no interface has, and no other fence: by
// it an answer is told from others.
func nextMark() (m MAC) {
	m[0] = 0x02 // locally administered
	binary.BigEndian.PutUint32(m[2:], marks.Add(1))
	return m
}

// arpProbe returns a frame that asks for fenceAddr in the name of mark.
func arpProbe(out *wire, mark MAC) ([]byte, error) {
	buf := gopacket.NewSerializeBuffer()
	err := gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true}, out.ethernet(layers.EthernetTypeARP), &layers.ARP{
		AddrType: layers.LinkTypeEthernet, Protocol: layers.EthernetTypeIPv4, Operation: layers.ARPRequest,
		SourceHwAddress: mark[:], SourceProtAddress: make([]byte, 4),
		DstHwAddress: make([]byte, 6), DstProtAddress: fenceAddr.AsSlice(),
	})
	return buf.Bytes(), err
}

func isARPReply(frame []byte, mark MAC) bool {
	var (
		ether layers.Ethernet
		arp   layers.ARP
	)
	return ether.DecodeFromBytes(frame, gopacket.NilDecodeFeedback) == nil && ether.EthernetType == layers.EthernetTypeARP &&
		arp.DecodeFromBytes(ether.Payload, gopacket.NilDecodeFeedback) == nil &&
		arp.Operation == layers.ARPReply && bytes.Equal(arp.DstHwAddress, mark[:])
}
