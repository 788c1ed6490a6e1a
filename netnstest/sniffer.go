package netnstest

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Sniffer sees the packets on an interface of a host, from the moment it is
// made. The kernel keeps them until they are asked for: some ten thousand, or a
// few hundred where only root may have more. One goroutine at a time may use
// it.
type Sniffer struct {
	host *Host
	dev  string
	*capture
}

// Sniff captures the packets that come in on the interface dev, "" standing for
// all, before the firewall sees them and whomever they are for. Look for what
// you expect among them: hosts send IPv6 multicast listener reports when it
// pleases them, for seconds after an address was added. The sniffer is closed
// when the test ends.
func (h *Host) Sniff(dev string) *Sniffer {
	h.t.Helper()
	return h.sniff(dev, false)
}

// SniffBothWays is Sniff that captures also what the host sends: the packets
// with Frame.Outgoing.
func (h *Host) SniffBothWays(dev string) *Sniffer {
	h.t.Helper()
	return h.sniff(dev, true)
}

func (h *Host) sniff(dev string, outgoing bool) *Sniffer {
	h.t.Helper()
	index := 0
	if dev != "" {
		link, err := h.rtnl.LinkByName(dev)
		if err != nil {
			h.check(fmt.Errorf("sniff on %s: %w", dev, err))
		}
		index = link.Attrs().Index
	}
	c, err := h.capture(index, outgoing)
	if err != nil {
		h.check(fmt.Errorf("sniff on %q: %w", dev, err))
	}
	s := &Sniffer{h, dev, c}
	h.t.Cleanup(s.Close)
	return s
}

// Close ends the capture. It may be called again.
func (s *Sniffer) Close() { _ = s.conn.Close() }

// Next returns the next IP packet, waiting for one if there is none yet. ok is
// false if none came within timeout.
func (s *Sniffer) Next(timeout time.Duration) (p Packet, ok bool) {
	s.host.t.Helper()
	p, err := s.packet(time.Now().Add(timeout))
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return Packet{}, false
	}
	s.host.check(err)
	return p, true
}

// Await returns the next packet for which match is true. Packets before it are
// gone then. If none comes within timeout, the error is os.ErrDeadlineExceeded,
// with the last packets that did not match.
func (s *Sniffer) Await(match func(Packet) bool, timeout time.Duration) (Packet, error) {
	deadline := time.Now().Add(timeout)
	var others []Packet
	for {
		p, err := s.packet(deadline)
		if err != nil {
			return Packet{}, fmt.Errorf("await packet on %q: %w%s", s.dev, err, s.account(others))
		}
		if match(p) {
			return p, nil
		}
		others = append(others, p)
	}
}

// account tells what came instead of the packet that was awaited.
func (s *Sniffer) account(others []Packet) string {
	const last = 5
	var b bytes.Buffer
	if lost, err := s.lost(); err == nil && lost > 0 {
		fmt.Fprintf(&b, ", %d packets lost", lost)
	}
	fmt.Fprintf(&b, ", %d others", len(others))
	for _, p := range others[max(0, len(others)-last):] {
		fmt.Fprintf(&b, "\n\t%v", p)
	}
	return b.String()
}

func (s *Sniffer) packet(deadline time.Time) (p Packet, err error) {
	for {
		frame, from, err := s.next(deadline)
		if err != nil {
			return p, err
		}
		// Each packet is the caller's to keep.
		if decodeFrame(bytes.Clone(frame), &p) != nil {
			continue // ARP and others
		}
		p.Frame.Index, p.Frame.Outgoing = from.Ifindex, from.Pkttype == unix.PACKET_OUTGOING
		return p, nil
	}
}

// decodeFrame sets p to the IP packet in an Ethernet frame, of which its
// payload is a part.
func decodeFrame(frame []byte, p *Packet) error {
	if len(frame) < etherLen {
		return errShort
	}
	switch uint16(frame[12])<<8 | uint16(frame[13]) {
	case unix.ETH_P_IP, unix.ETH_P_IPV6:
		p.Frame = Frame{Dst: MAC(frame[0:6]), Src: MAC(frame[6:12])}
		return p.UnmarshalBinary(frame[etherLen:])
	}
	return errVersion
}
