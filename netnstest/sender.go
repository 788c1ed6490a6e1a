package netnstest

import (
	"fmt"
	"net/netip"
)

// Sender sends packets of any content on one link of a host. What it sends
// needs no address, route or socket on the host, and passes none of its
// firewall.
//
// All packets go out from one CPU, the same for all senders and probes of the
// process, so that they are processed in the order in which they were sent,
// whoever answers or forwards them.
type Sender struct {
	host *Host
	wire *wire
}

// Sender returns the sender of the link on the interface dev; "" stands for the
// only one. It needs no closing.
func (h *Host) Sender(dev string) *Sender {
	h.t.Helper()
	e := h.end(dev)
	if ends := h.ends(); dev == "" && len(ends) == 1 {
		e = ends[0]
	}
	if e == nil {
		h.check(fmt.Errorf("find link %q: the host has %d", dev, len(h.ends())))
	}
	w, err := h.wire(e)
	h.check(err)
	return &Sender{h, w}
}

// Send sends packets and returns when they have been processed, by the far end
// and by the hosts behind it: what their firewalls do about them is done, and
// what their kernels answer has come in. Programs that receive them may lag
// behind.
func (s *Sender) Send(packets ...Packet) {
	s.host.t.Helper()
	s.Burst(len(packets), func(i int) Packet { return packets[i] })
}

// Burst sends n packets as fast as the far end takes them, the i-th of which
// packet(i) returns, and returns when they have been processed, as Send does.
// None is lost on the link; a router behind it may drop what comes too fast.
func (s *Sender) Burst(n int, packet func(i int) Packet) {
	s.host.t.Helper()
	s.host.check(s.host.burst(s.wire, n, packet))
}

// Send sends a packet by the link that the route to its destination takes, or
// the only one, as Sender.Send does.
func (h *Host) Send(p Packet) {
	h.t.Helper()
	w, err := h.towards(p.Dst.Addr())
	h.check(err)
	h.check(h.burst(w, 1, func(int) Packet { return p }))
}

// Fence returns when all that was sent before, by senders and probes of this
// process, has been processed as Send says. It is of use with packets that were
// sent while others were, in another goroutine.
func (h *Host) Fence() {
	h.t.Helper()
	for _, e := range h.ends() {
		w, err := h.wire(e)
		h.check(err)
		h.check(h.burst(w, 0, nil))
	}
}

func (h *Host) burst(w *wire, n int, packet func(i int) Packet) error {
	watch, err := h.watcher()
	if err != nil {
		return err
	}
	return pinned(func() error {
		if err := w.send(n, packet); err != nil {
			return err
		}
		return watch.fence(w)
	})
}

// ends returns the host's ends of its links.
func (h *Host) ends() []*End {
	h.mu.Lock()
	defer h.mu.Unlock()
	var ends []*End
	for _, l := range h.links {
		for _, e := range []*End{&l.A, &l.B} {
			if e.Host.machine == h.machine {
				ends = append(ends, e)
			}
		}
	}
	return ends
}

// towards returns the wire by which packets to dst go: that of the only link,
// or else of the one on the route.
func (h *Host) towards(dst netip.Addr) (*wire, error) {
	ends := h.ends()
	if len(ends) == 1 {
		return h.wire(ends[0])
	}
	routes, err := h.rtnl.RouteGet(dst.AsSlice())
	if err != nil {
		return nil, fmt.Errorf("look up route to %s: %w", dst, err)
	}
	for _, r := range routes {
		for _, e := range ends {
			if e.Index == r.LinkIndex {
				return h.wire(e)
			}
		}
	}
	return nil, fmt.Errorf("look up route to %s: not by a link", dst)
}

// wire returns the wire of an end of the host, opened at its first use.
func (h *Host) wire(e *End) (*wire, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if w := h.wires[e.Dev]; w != nil {
		return w, nil
	}
	w, err := newWire(e)
	if err != nil {
		return nil, err
	}
	h.wires[e.Dev] = w
	return w, nil
}
