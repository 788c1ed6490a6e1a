package netnstest

import (
	"fmt"
	"strings"
	"time"
)

// Sniffer sees the packets on an interface of a host, from the moment it is
// made. The kernel keeps them until they are asked for: some ten thousand, or a
// few hundred where only root may have more. One goroutine at a time may use
// it.
type Sniffer struct {
	dev string
	*packetSocket
}

// Sniff captures the packets that pass the interface dev, "" standing for all:
// those that come in before the firewall sees them and whomever they are for,
// and those that the host sends, with Packet.Outgoing. Look for what you expect
// among them: hosts send IPv6 multicast listener reports when it pleases them,
// for seconds after an address was added. The sniffer is closed when the test
// ends.
func (h *Host) Sniff(dev string) *Sniffer {
	h.t.Helper()
	index := 0
	if dev != "" {
		link, err := h.rtnl.LinkByName(dev)
		if err != nil {
			h.check(fmt.Errorf("sniff on %s: %w", dev, err))
		}
		index = link.Attrs().Index
	}
	s, err := h.packetSocket(index, 0)
	if err != nil {
		h.check(fmt.Errorf("sniff on %q: %w", dev, err))
	}
	sniffer := &Sniffer{dev, s}
	h.t.Cleanup(sniffer.Close)
	return sniffer
}

// Close ends the capture. It may be called again.
func (s *Sniffer) Close() { _ = s.conn.Close() }

// Await returns the next packet for which match is true, of those that are
// there and of those that come within timeout. Packets before it are gone then.
// If there is none, the error is os.ErrDeadlineExceeded, with the last packets
// that did not match.
func (s *Sniffer) Await(match func(Packet) bool, timeout time.Duration) (Packet, error) {
	deadline := time.Now().Add(timeout)
	var others []string
	for count := 0; ; {
		frame, outgoing, err := s.receive(deadline)
		if err != nil {
			lost, _ := s.lost()
			return Packet{}, fmt.Errorf("await packet on %q: %w, %d packets lost, %d others%s",
				s.dev, err, lost, count, strings.Join(others, ""))
		}
		p, ok := decode(frame)
		if !ok {
			continue // ARP and others
		}
		p.Outgoing = outgoing
		if match(p) {
			return p, nil
		}
		count++
		others = append(others[max(0, len(others)-4):], fmt.Sprintf("\n\t%v", p))
	}
}
