package netnstest

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// AddAddr adds an address with its prefix length, as "192.0.2.7/24", to the
// interface dev, and returns when it is in use. The other end of a link knows
// it as it knows those of Connect. dev may be "lo", for an address of the host
// itself.
func (h *Host) AddAddr(dev, prefix string) {
	h.t.Helper()
	p, err := netip.ParsePrefix(prefix)
	h.check(err)
	if e := h.end(dev); e != nil {
		h.check(e.addAddr(p))
		return
	}
	link, err := h.rtnl.LinkByName(dev)
	if err != nil {
		h.check(fmt.Errorf("find %s: %w", dev, err))
	}
	h.check(h.addAddr(link, p))
}

// addAddr adds p to the end and makes it known to the other.
func (e *End) addAddr(p netip.Prefix) error {
	dev := &netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: e.Index, Name: e.Dev}}
	if err := e.Host.addAddr(dev, p); err != nil {
		return err
	}
	if e.peer.learns {
		return nil
	}
	return e.peer.setNeighbour(p.Addr(), e.MAC)
}

func (h *Host) addAddr(dev netlink.Link, p netip.Prefix) error {
	addr := &netlink.Addr{IPNet: ipNet(p)}
	if p.Addr().Is6() {
		addr.Flags = unix.IFA_F_NODAD
	}
	err := h.await(p.String()+" to be in use",
		func() error { return h.rtnl.AddrAdd(dev, addr) },
		func() (bool, error) { return h.isLocal(addr.IP) })
	if err != nil {
		return fmt.Errorf("add %s to %s: %w", p, dev.Attrs().Name, err)
	}
	return nil
}

// AddRoute has the host send packets for dst, as "203.0.113.0/24", to via: the
// address of a router, or the name of an interface, all of dst being on that
// link.
//
// A host that sends from addresses it does not have sees the answers if the far
// end has a route to them via the host's own address. By the name of the
// interface the far end would ask for each by ARP or neighbour discovery, in
// vain.
func (h *Host) AddRoute(dst, via string) {
	h.t.Helper()
	p, err := netip.ParsePrefix(dst)
	h.check(err)
	route := &netlink.Route{Dst: ipNet(p.Masked())}
	if gw, err := netip.ParseAddr(via); err == nil {
		route.Gw = gw.AsSlice()
	} else {
		dev, err := h.rtnl.LinkByName(via)
		if err != nil {
			h.check(fmt.Errorf("add route to %s: %s is neither an address nor an interface: %w", dst, via, err))
		}
		route.LinkIndex, route.Scope = dev.Attrs().Index, netlink.SCOPE_LINK
	}
	if err := h.rtnl.RouteAdd(route); err != nil {
		h.check(fmt.Errorf("add route to %s via %s: %w", dst, via, err))
	}
}

// DefaultVia sends everything for which there is no other route to the routers
// given, one for each IP family at most.
func (h *Host) DefaultVia(routers ...netip.Addr) {
	h.t.Helper()
	for _, r := range routers {
		if r.Is4() {
			h.AddRoute("0.0.0.0/0", r.String())
		} else {
			h.AddRoute("::/0", r.String())
		}
	}
}

// LearnNeighbours makes both ends of the link forget each other's addresses,
// and learn them from now on as hosts do: by ARP and IPv6 neighbour discovery.
// It is for tests in which a firewall might break just these, and not to be
// called while addresses are being added.
func (l *Link) LearnNeighbours() {
	l.A.Host.t.Helper()
	for _, e := range []*End{&l.A, &l.B} {
		e.learns = true
		e.Host.check(e.forgetNeighbours())
	}
}

// forgetNeighbours removes all neighbour entries of the end, the kernel's own
// too.
func (e *End) forgetNeighbours() error {
	neighbours, err := whole(func() ([]netlink.Neigh, error) { return e.Host.rtnl.NeighList(e.Index, netlink.FAMILY_ALL) })
	if err != nil {
		return fmt.Errorf("list neighbours on %s: %w", e.Dev, err)
	}
	for _, n := range neighbours {
		if n.State&unix.NUD_NOARP != 0 {
			continue // of a multicast group
		}
		// ENOENT: the kernel collected it in between.
		if err := e.Host.rtnl.NeighDel(&n); err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("delete neighbour %s on %s: %w", n.IP, e.Dev, err)
		}
	}
	return nil
}

func (e *End) setNeighbour(addr netip.Addr, mac MAC) error {
	err := e.Host.rtnl.NeighSet(&netlink.Neigh{
		LinkIndex: e.Index, State: unix.NUD_PERMANENT, IP: addr.AsSlice(), HardwareAddr: mac[:],
	})
	if err != nil {
		return fmt.Errorf("add neighbour %s to %s: %w", addr, e.Dev, err)
	}
	return nil
}

// end returns the end of a link that dev names, nil if there is none.
func (h *Host) end(dev string) *End {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, l := range h.links {
		for _, e := range []*End{&l.A, &l.B} {
			if e.Host.machine == h.machine && e.Dev == dev {
				return e
			}
		}
	}
	return nil
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
