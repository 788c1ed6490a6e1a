package netnstest

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
)

// errLost says that a probe may have missed its answer.
var errLost = errors.New("packets came in too fast to be looked at")

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
// of the servers of ListenUDP. What other programs answer, and when, no packet
// can tell: use DialTCP or ExchangeUDP for it. Nor is it certain with queueing
// disciplines on the way, or namespaces that NewHost did not make. If another
// goroutine floods this host, so that packets are lost while Probe watches, the
// test fails.
func (h *Host) Probe(p Packet) Answer {
	h.t.Helper()
	a, err := h.probe(p, rounds)
	if err != nil {
		h.check(fmt.Errorf("probe with %v: %w", p, err))
	}
	return a
}

func (h *Host) probe(p Packet, rounds int) (Answer, error) {
	out, err := h.towards(p.Dst.Addr())
	if err != nil {
		return Answer{}, err
	}
	w, err := h.watcher()
	if err != nil {
		return Answer{}, err
	}
	if p.Src.Port() == 0 && (p.Proto == TCP || p.Proto == UDP) {
		p.Src = netip.AddrPortFrom(p.Src.Addr(), h.nextPort())
	}
	a := Answer{}
	err = pinned(func() error { return w.ask(out, p, rounds, &a) })
	return a, err
}

// ask sends p and sets a to the answer that came in before the last of the
// rounds was over.
func (w *watch) ask(out *wire, p Packet, rounds int, a *Answer) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.drain(); err != nil {
		return err
	}
	send := func(p Packet) error { return out.send(1, func(int) Packet { return p }) }
	if err := send(p); err != nil {
		return err
	}
	if err := w.listen(out, p, rounds, a); err != nil {
		return err
	}
	if a.Kind == NoAnswer && p.Proto == UDP {
		// Whatever the kernels had to do is done: if p has reached a server, it
		// is in the queue of its socket.
		if err := answerDatagrams(); err != nil {
			return err
		}
		if err := w.listen(out, p, rounds, a); err != nil {
			return err
		}
	}
	switch a.Kind {
	case NoAnswer:
		lost, err := w.lost()
		if err == nil && lost > 0 {
			err = fmt.Errorf("watch for the answer: %w: %d", errLost, lost)
		}
		return err
	case AnswerSYNACK:
		return send(Packet{Proto: TCP, Src: p.Src, Dst: p.Dst, Flags: FlagRST, Seq: a.Packet.Ack})
	}
	return nil
}

// listen sets a to the first answer to p that comes in during the rounds, and
// returns after the one that brought it.
func (w *watch) listen(out *wire, p Packet, rounds int, a *Answer) error {
	for range rounds {
		err := w.round(out, func(frame []byte) {
			if a.Kind != NoAnswer {
				return
			}
			var q Packet
			if decodeFrame(frame, &q) != nil {
				return
			}
			if kind := classify(p, q); kind != NoAnswer {
				q.Payload = bytes.Clone(q.Payload)
				*a = Answer{kind, q}
			}
		})
		if err != nil || a.Kind != NoAnswer {
			return err
		}
	}
	return nil
}

// nextPort returns a source port for a probe: each of 32768 to 65535 in turn.
func (h *Host) nextPort() uint16 {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ports++
	return 1<<15 | h.ports
}
