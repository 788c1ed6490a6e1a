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
	h.check(h.addAddr(dev, p))
}

func (h *Host) addAddr(dev string, p netip.Prefix) error {
	link, err := h.rtnl.LinkByName(dev)
	if err != nil {
		return fmt.Errorf("find %s: %w", dev, err)
	}
	addr := &netlink.Addr{IPNet: ipNet(p)}
	if p.Addr().Is6() {
		addr.Flags = unix.IFA_F_NODAD
	}
	if err = h.rtnl.AddrAdd(link, addr); err == nil {
		err = await(p.String()+" to be in use", func() (bool, error) { return h.isLocal(addr.IP) })
	}
	if err != nil {
		return fmt.Errorf("add %s to %s: %w", p, dev, err)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, e := range h.ends {
		if e.Dev != dev {
			continue
		}
		e.addrs = append(e.addrs, p.Addr())
		if err := e.peer.Host.rtnl.NeighSet(e.neighbour(p.Addr())); err != nil {
			return fmt.Errorf("add neighbour %s to %s: %w", p.Addr(), e.peer.Dev, err)
		}
	}
	return nil
}

// isLocal reports whether the host takes packets to ip for its own. An IPv6
// address gets there some time after it was added: the kernel leaves that to a
// work queue, even without duplicate address detection.
func (h *Host) isLocal(ip net.IP) (bool, error) {
	routes, err := h.rtnl.RouteGet(ip)
	if errors.Is(err, unix.ENETUNREACH) || errors.Is(err, unix.EHOSTUNREACH) {
		return false, nil
	}
	return err == nil && routes[0].Type == unix.RTN_LOCAL, err
}

// neighbour returns the entry by which the other end knows an address of this
// one.
func (e *End) neighbour(addr netip.Addr) *netlink.Neigh {
	return &netlink.Neigh{LinkIndex: e.peer.Index, State: unix.NUD_PERMANENT, IP: addr.AsSlice(), HardwareAddr: e.MAC}
}

// LearnNeighbours makes both ends of the link forget each other's addresses,
// and learn them from now on as hosts do: by ARP and IPv6 neighbour discovery.
// It is for tests in which a firewall might break just these. Addresses that
// are added later are known again.
func (l *Link) LearnNeighbours() {
	l.A.Host.t.Helper()
	for _, e := range []*End{&l.A, &l.B} {
		for _, addr := range e.addrs {
			// ENOENT: it was not learned, or the kernel collected it.
			if err := e.peer.Host.rtnl.NeighDel(e.neighbour(addr)); err != nil && !errors.Is(err, unix.ENOENT) {
				e.peer.Host.check(fmt.Errorf("delete neighbour %s on %s: %w", addr, e.peer.Dev, err))
			}
		}
	}
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
		h.AddRoute(netip.PrefixFrom(r, 0).Masked().String(), r.String())
	}
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
