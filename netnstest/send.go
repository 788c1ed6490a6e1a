package netnstest

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sync/atomic"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
)

// Send sends packets of any content, as Burst does.
func (h *Host) Send(packets ...Packet) {
	h.t.Helper()
	h.Burst(len(packets), func(i int) Packet { return packets[i] })
}

// Burst sends n packets, the i-th of which packet(i) returns, as fast as the far
// end takes them, and returns when they have been processed, by the far end and
// by the hosts behind it: what their firewalls do about them is done, and what
// their kernels answer has come in. Programs that receive them may lag behind.
// None is lost on the link; a router behind it may drop what comes too fast.
//
// They need no address, route or socket on the host, and pass none of its
// firewall. Each goes by the link on the route to its destination, or the only
// link, and all from one CPU, the same for whatever the hosts of a test send, so
// that they are processed in the order in which they were sent, whoever answers
// or forwards them.
func (h *Host) Burst(n int, packet func(i int) Packet) {
	h.t.Helper()
	h.check(h.cpu.pinned(func() error { return h.send(n, packet) }))
	h.Fence()
}

// Fence returns when all that the hosts of the test sent before has been
// processed, as Burst says. It is of use with packets that were sent while
// others were, in another goroutine.
func (h *Host) Fence() {
	h.t.Helper()
	h.mu.Lock()
	ends := h.ends
	h.mu.Unlock()
	for _, e := range ends {
		h.check(h.watch(func(s *packetSocket) error {
			return s.fence(e, func(gopacket.Packet) bool { return false })
		}))
	}
}

// send puts packets on the links of the host.
func (h *Host) send(n int, packet func(i int) Packet) error {
	s, err := h.socket()
	if err != nil {
		return err
	}
	buf := gopacket.NewSerializeBuffer()
	for i := range n {
		p, typ := packet(i), layers.EthernetTypeIPv4
		if p.Dst.Addr().Is6() {
			typ = layers.EthernetTypeIPv6
		}
		e, err := h.towards(p.Dst.Addr())
		if err != nil {
			return err
		}
		if err := p.encode(buf, e.ethernet(typ)); err != nil {
			return err
		}
		if err := s.transmit(e, buf.Bytes()); err != nil {
			return err
		}
	}
	return nil
}

// ethernet returns the header of a frame to the other end.
func (e *End) ethernet(typ layers.EthernetType) *layers.Ethernet {
	return &layers.Ethernet{SrcMAC: e.MAC, DstMAC: e.peer.MAC, EthernetType: typ}
}

// watch calls f, on the CPU that sends, with a socket of which it is the only
// reader, and in which there is only what comes in from now on.
func (h *Host) watch(f func(*packetSocket) error) error {
	s, err := h.socket()
	if err != nil {
		return err
	}
	return h.cpu.pinned(func() error {
		h.watching.Lock()
		defer h.watching.Unlock()
		if err := s.drain(); err != nil {
			return err
		}
		return f(s)
	})
}

// drain forgets what came in while nobody looked, and that some of it may have
// been lost.
func (s *packetSocket) drain() error {
	for {
		if _, _, err := s.receive(time.Time{}.Add(1)); errors.Is(err, os.ErrDeadlineExceeded) {
			break
		} else if err != nil {
			return fmt.Errorf("drain packet socket: %w", err)
		}
	}
	_, err := s.lost()
	return err
}

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

// marks counts the MAC addresses that fences ask in the name of: each of one
// that no interface has, nor another, to tell its answer from others.
var marks atomic.Uint32

// fence asks the far end of a link for fenceAddr, rounds times, and shows each
// frame that comes in until the last answer does, or, once see has returned
// true, the next.
//
// The question is an ARP probe (RFC 5227): the kernel answers it at once, like
// a packet to any address of its own, but no ip, ip6 or inet rule sees it, so
// that whatever the firewall under test does, it is answered. Its sender's IP
// address is zero, hence the far end learns no neighbour from it.
func (s *packetSocket) fence(e *End, see func(frame gopacket.Packet) (enough bool)) error {
	buf := gopacket.NewSerializeBuffer()
	for range rounds {
		mark := binary.BigEndian.AppendUint32([]byte{0x02, 0}, marks.Add(1)) // 2: locally administered
		options := gopacket.SerializeOptions{FixLengths: true}
		err := gopacket.SerializeLayers(buf, options, e.ethernet(layers.EthernetTypeARP), &layers.ARP{
			AddrType: layers.LinkTypeEthernet, Protocol: layers.EthernetTypeIPv4, Operation: layers.ARPRequest,
			SourceHwAddress: mark, SourceProtAddress: make([]byte, 4),
			DstHwAddress: make([]byte, 6), DstProtAddress: fenceAddr.AsSlice(),
		})
		if err == nil {
			err = s.transmit(e, buf.Bytes())
		}
		if err != nil {
			return err
		}
		enough := false
		for deadline := time.Now().Add(patience); ; {
			frame, _, err := s.receive(deadline)
			if err != nil {
				return fmt.Errorf("await ARP answer of %s on %s: %w", e.peer.Host.name, e.Dev, err)
			}
			arp, _ := frame.Layer(layers.LayerTypeARP).(*layers.ARP)
			if arp != nil && arp.Operation == layers.ARPReply && bytes.Equal(arp.DstHwAddress, mark) {
				break
			}
			enough = see(frame) || enough
		}
		if enough {
			return nil
		}
	}
	return nil
}
