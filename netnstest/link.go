package netnstest

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

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
	MAC   net.HardwareAddr
	// IPv4 and IPv6 are the addresses of the first network of each family, not
	// valid if the link has none.
	IPv4, IPv6 netip.Addr

	peer  *End
	addrs []netip.Addr // all that the end has; under the lock of its host
}

// Connect lays a cable between a and b. Each network, as "192.0.2.0/24" or
// "2001:db8::/64", gives a its first address and b its second, of that prefix
// length; so does fe80::/64, on every link. More are added with AddAddr. On
// return both ends are up and the addresses are in use. It may be called with
// hosts that are connected already, to each other too. A cable stays for as
// long as its hosts do.
//
// Each end knows the other's addresses by permanent neighbour entries, so that
// no packet of a test waits for discovery, nor is lost to what a firewall does
// to it; LearnNeighbours takes these away.
func Connect(t testing.TB, a, b *Host, networks ...string) *Link {
	t.Helper()
	l := &Link{A: End{Host: a.With(t)}, B: End{Host: b.With(t)}}
	l.A.peer, l.B.peer = &l.B, &l.A
	err := l.create()
	for _, n := range append([]string{"fe80::/64"}, networks...) {
		if err == nil {
			err = l.number(n)
		}
	}
	if err != nil {
		t.Fatalf("netnstest: connect %s to %s: %v", a.name, b.name, err)
	}
	return l
}

// create makes the pair and returns when both of its ends pass packets.
func (l *Link) create() error {
	for _, e := range []*End{&l.A, &l.B} {
		e.Host.mu.Lock()
		e.Dev = fmt.Sprintf("eth%d", len(e.Host.ends))
		e.Host.ends = append(e.Host.ends, e)
		e.Host.mu.Unlock()
	}
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
		e.Index, e.MAC = dev.Attrs().Index, dev.Attrs().HardwareAddr
		if err := e.Host.rtnl.LinkSetUp(dev); err != nil {
			return fmt.Errorf("set up %s: %w", e.Dev, err)
		}
	}
	for _, e := range []*End{&l.A, &l.B} {
		// An interface that was up before its peer drops what it is to send
		// until the kernel's link watch has come round to it.
		err := await("carrier of "+e.Dev, func() (bool, error) {
			dev, err := e.Host.rtnl.LinkByIndex(e.Index)
			return err == nil && dev.Attrs().OperState == netlink.OperUp, err
		})
		if err != nil {
			return err
		}
	}
	return nil
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
		if err := e.Host.addAddr(e.Dev, netip.PrefixFrom(addr, p.Bits())); err != nil {
			return err
		}
		switch {
		case addr.Is4() && !e.IPv4.IsValid():
			e.IPv4 = addr
		case addr.Is6() && !e.IPv6.IsValid() && !addr.IsLinkLocalUnicast():
			e.IPv6 = addr
		}
	}
	return nil
}

// patience is how long is waited for what the kernel does in the background:
// long, since it ends a test that fails. One test makes it shorter.
var patience = 30 * time.Second

// await returns as soon as done says true. It asks over and over: rtnetlink
// answers requests before all of their effect is there, and announces some of
// it before that can be found.
func await(what string, done func() (bool, error)) error {
	for deadline := time.Now().Add(patience); ; time.Sleep(100 * time.Microsecond) {
		if ok, err := done(); ok || err != nil {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("wait for %s: %w", what, os.ErrDeadlineExceeded)
		}
	}
}
