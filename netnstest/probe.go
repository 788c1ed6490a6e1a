package netnstest

import (
	"fmt"
	"net/netip"

	"github.com/gopacket/gopacket"
)

// Probe sends a packet and returns the first answer to it, or none. It does not
// wait for a time to pass, and none is certain: once the packet is sent, the
// far end of the link is asked, again and again, something that it answers
// whatever its firewall does. All of this goes through one queue, in which
// nothing overtakes; so an answer that was not there before the last of those
// is not to come. It takes some hundred microseconds.
//
// The packet goes out by the link on the route to its destination, or the only
// one. Its source may be any address: for answers to be seen, the far end must
// have a route to it by this host. A source port 0 of TCP or UDP is replaced by
// one that no recent probe had. A SYN+ACK is answered with a reset, so that
// nothing stays half open.
//
// Certain are the answers that kernels give, up to eight links away, and those
// of the servers of Listen for UDP. What other programs answer, and when, no
// packet can tell: use Exchange for it. Nor is it certain with queueing
// disciplines on the way, or namespaces that NewHost did not make. If another
// goroutine floods this host, so that packets are lost while Probe watches, the
// test fails.
func (h *Host) Probe(p Packet) Answer {
	h.t.Helper()
	a, err := h.probe(p)
	if err != nil {
		h.check(fmt.Errorf("probe with %v: %w", p, err))
	}
	return a
}

func (h *Host) probe(p Packet) (a Answer, err error) {
	e, err := h.towards(p.Dst.Addr())
	if err != nil {
		return a, err
	}
	if p.Src.Port() == 0 && (p.Proto == TCP || p.Proto == UDP) {
		// Each of 32768 to 65535 in turn.
		p.Src = netip.AddrPortFrom(p.Src.Addr(), 1<<15|uint16(h.ports.Add(1)))
	}
	send := func(p Packet) error { return h.send(1, func(int) Packet { return p }) }
	see := func(frame gopacket.Packet) bool {
		if q, ok := decode(frame); ok && a.Kind == NoAnswer && classify(p, q) != NoAnswer {
			a = Answer{classify(p, q), q}
		}
		return a.Kind != NoAnswer
	}
	err = h.watch(func(s *packetSocket) error {
		err := send(p)
		if err == nil {
			err = s.fence(e, see)
		}
		if err == nil && a.Kind == NoAnswer && p.Proto == UDP {
			// Whatever the kernels had to do is done: if p has reached a server,
			// it is in the queue of its socket.
			if err = h.cpu.answerDatagrams(); err == nil {
				err = s.fence(e, see)
			}
		}
		switch {
		case err != nil:
			return err
		case a.Kind == AnswerSYNACK:
			return send(Packet{Proto: TCP, Src: p.Src, Dst: p.Dst, Flags: FlagRST, Seq: a.Packet.Ack})
		case a.Kind != NoAnswer:
			return nil
		}
		lost, err := s.lost()
		if err == nil && lost > 0 {
			err = fmt.Errorf("watch for the answer: %d packets came in too fast to be looked at", lost)
		}
		return err
	})
	return a, err
}
