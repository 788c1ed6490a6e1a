package netnstest

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"
)

// Link is a cable between two hosts: a veth pair.
type Link struct {
	A, B End
}

// End is one end of a Link: an interface of a host.
type End struct {
	Host *Host
	// Dev is the name of the interface in Host: eth0 for the first link of a
	// host, then eth1 and so on.
	Dev string
	// Index is the number of the interface in Host.
	Index int
	MAC   MAC
	// IPv4 and IPv6 are the addresses of the first network of each family, not
	// valid if the link has none.
	IPv4, IPv6 netip.Addr
	// LinkLocal is the address in fe80::/10 that the kernel gave the interface.
	LinkLocal netip.Addr

	peer *End
	// learns is set if the end learns the other's addresses by neighbour
	// discovery, not by decree.
	learns bool
}

// Connect lays a cable between a and b. Each network, as "192.0.2.0/24" or
// "2001:db8::/64", gives a its first address and b its second, of that prefix
// length; more are added with AddAddr. On return both ends are up and the
// addresses are in use. It may be called with hosts that are connected already,
// to each other too. A cable stays for as long as its hosts do.
//
// Each end knows the other's addresses by permanent neighbour entries, so that
// no packet of a test waits for discovery, nor is lost to what a firewall does
// to it; LearnNeighbours takes these away.
func Connect(t testing.TB, a, b *Host, networks ...string) *Link {
	t.Helper()
	l := &Link{A: End{Host: a.With(t)}, B: End{Host: b.With(t)}}
	l.A.peer, l.B.peer = &l.B, &l.A
	if err := l.create(); err != nil {
		t.Fatalf("netnstest: connect %s to %s: %v", a.name, b.name, err)
	}
	for _, n := range networks {
		if err := l.number(n); err != nil {
			t.Fatalf("netnstest: connect %s to %s: %v", a.name, b.name, err)
		}
	}
	return l
}

// create makes the pair and returns when both of its ends pass packets.
func (l *Link) create() error {
	l.A.plug(l)
	l.B.plug(l)
	veth := &netlink.Veth{
		LinkAttrs:     netlink.LinkAttrs{Name: l.A.Dev},
		PeerName:      l.B.Dev,
		PeerNamespace: netlink.NsFd(l.B.Host.FD()),
	}
	if err := l.A.Host.rtnl.LinkAdd(veth); err != nil {
		return fmt.Errorf("create veth pair %s, %s: %w", l.A.Dev, l.B.Dev, err)
	}
	for _, e := range []*End{&l.A, &l.B} {
		dev, err := e.Host.rtnl.LinkByName(e.Dev)
		if err != nil {
			return fmt.Errorf("find %s: %w", e.Dev, err)
		}
		e.Index, e.MAC = dev.Attrs().Index, MAC(dev.Attrs().HardwareAddr)
		if err := e.Host.rtnl.LinkSetUp(dev); err != nil {
			return fmt.Errorf("set up %s: %w", e.Dev, err)
		}
	}
	for _, e := range []*End{&l.A, &l.B} {
		if err := e.Host.await("carrier of "+e.Dev, nil, e.running); err != nil {
			return err
		}
		if err := e.peer.setNeighbour(e.LinkLocal, e.MAC); err != nil {
			return err
		}
	}
	return nil
}

// plug gives the end the next free name of its host.
func (e *End) plug(l *Link) {
	e.Host.mu.Lock()
	defer e.Host.mu.Unlock()
	e.Dev = fmt.Sprintf("eth%d", len(e.Host.links))
	e.Host.links = append(e.Host.links, l)
}

// running reports whether the end passes packets and has its link-local
// address. An interface that was up before its peer drops what it is to send
// until the kernel's link watch has come round to it.
func (e *End) running() (bool, error) {
	dev, err := e.Host.rtnl.LinkByIndex(e.Index)
	if err != nil {
		return false, fmt.Errorf("find %s: %w", e.Dev, err)
	}
	if dev.Attrs().OperState != netlink.OperUp {
		return false, nil
	}
	addrs, err := whole(func() ([]netlink.Addr, error) { return e.Host.rtnl.AddrList(dev, netlink.FAMILY_V6) })
	if err != nil {
		return false, fmt.Errorf("list addresses of %s: %w", e.Dev, err)
	}
	for _, a := range addrs {
		if a.IP.IsLinkLocalUnicast() {
			e.LinkLocal, _ = netip.AddrFromSlice(a.IP)
			return e.Host.isLocal(a.IP)
		}
	}
	return false, nil
}

// number gives the ends the first two addresses of a network.
func (l *Link) number(network string) error {
	p, err := netip.ParsePrefix(network)
	if err != nil {
		return err
	}
	if p != p.Masked() {
		return fmt.Errorf("network %s: is an address in %s", p, p.Masked())
	}
	addr := p.Addr()
	for _, e := range []*End{&l.A, &l.B} {
		if addr = addr.Next(); !p.Contains(addr) {
			return fmt.Errorf("network %s: has no room for two hosts", p)
		}
		if err := e.addAddr(netip.PrefixFrom(addr, p.Bits())); err != nil {
			return err
		}
		switch {
		case addr.Is4() && !e.IPv4.IsValid():
			e.IPv4 = addr
		case addr.Is6() && !e.IPv6.IsValid():
			e.IPv6 = addr
		}
	}
	return nil
}
