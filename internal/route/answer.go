package route

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Answer is how this host would answer an address.
type Answer struct {
	// Own reports that the routes take the address for one of this host. Routes
	// of type local do so for addresses that no interface has, and the packet
	// path asks the routes.
	Own bool
	// Found reports that there is a route, by the interface that was asked for.
	Found bool
	// Device is the interface by which the answer would leave, and Local the
	// address that it would come from.
	Device string
	Local  netip.Addr
}

// Back asks how an answer to an address would leave the network namespace of
// the calling thread, and whether that is by the interface iif; by any if that
// is "". It is what the packet path asks, for a packet without a mark.
func Back(to netip.Addr, iif string) (Answer, error) {
	r, err := ask(to, 0, 0)
	if err != nil {
		return Answer{}, err
	}
	a := Answer{Own: r.kind == unix.RTN_LOCAL, Found: r.kind != unix.RTN_UNREACHABLE, Local: r.local}
	if len(r.devices) > 0 {
		if dev, err := net.InterfaceByIndex(int(r.devices[0])); err == nil {
			a.Device = dev.Name
		}
	}
	if iif == "" {
		return a, nil
	}
	dev, err := net.InterfaceByName(iif)
	if err != nil {
		return Answer{}, fmt.Errorf("no such device: %s", iif)
	}
	if index := uint32(dev.Index); a.Found && !slices.Contains(r.devices, index) {
		// For IPv6 the packet path asks for a route by that interface; for IPv4,
		// whether the route, which may lead by several, has it.
		if to.Is6() {
			r, err = ask(to, index, 0)
		} else {
			r, err = ask(to, 0, unix.RTM_F_FIB_MATCH)
		}
		a.Found = slices.Contains(r.devices, index)
	}
	return a, err
}

// IsFree reports whether nothing is known of an address: it is not this host's
// own, and no route leads to it but a default route, or one that leads nowhere.
func IsFree(a netip.Addr) (bool, error) {
	r, err := ask(a, 0, unix.RTM_F_FIB_MATCH)
	return r.kind == unix.RTN_UNREACHABLE || r.kind == unix.RTN_UNICAST && r.bits <= wide, err
}

// found is what the kernel says of a route.
type found struct {
	kind    byte // RTN_*, RTN_UNREACHABLE for all that lead nowhere
	bits    byte // of its destination, if that was asked for
	devices []uint32
	local   netip.Addr
}

// ask asks for the route to an address, by an interface unless oif is 0.
func ask(to netip.Addr, oif, flags uint32) (found, error) {
	conn, err := netlink.Dial(unix.NETLINK_ROUTE, nil)
	if err != nil {
		return found{}, fmt.Errorf("open netlink socket: %w", err)
	}
	defer conn.Close()
	header := make([]byte, unix.SizeofRtMsg)
	header[0], header[1] = unix.AF_INET, byte(to.BitLen())
	if to.Is6() {
		header[0] = unix.AF_INET6
	}
	native.PutUint32(header[8:], flags)
	ae := netlink.NewAttributeEncoder()
	ae.Bytes(unix.RTA_DST, to.AsSlice())
	if oif > 0 {
		ae.Uint32(unix.RTA_OIF, oif)
	}
	attrs, err := ae.Encode()
	if err != nil {
		return found{}, err
	}
	msgs, err := conn.Execute(netlink.Message{
		Header: netlink.Header{Type: unix.RTM_GETROUTE, Flags: netlink.Request},
		Data:   append(header, attrs...),
	})
	for _, none := range []error{unix.ENETUNREACH, unix.EHOSTUNREACH, unix.EACCES, unix.EINVAL} {
		if errors.Is(err, none) {
			return found{kind: unix.RTN_UNREACHABLE}, nil
		}
	}
	if err == nil && len(msgs) == 1 && len(msgs[0].Data) >= unix.SizeofRtMsg {
		return parseRoute(msgs[0].Data)
	}
	return found{}, fmt.Errorf("look for a route to %s: %w", to, cmp.Or(err, errors.New("an answer without a route")))
}

// parseRoute reads a struct rtmsg and the attributes behind it.
func parseRoute(b []byte) (found, error) {
	f := found{kind: b[7], bits: b[1]}
	switch f.kind {
	case unix.RTN_UNREACHABLE, unix.RTN_BLACKHOLE, unix.RTN_PROHIBIT:
		return found{kind: unix.RTN_UNREACHABLE}, nil
	}
	ad, err := netlink.NewAttributeDecoder(b[unix.SizeofRtMsg:])
	if err != nil {
		return found{}, err
	}
	for ad.Next() {
		switch ad.Type() {
		case unix.RTA_OIF:
			f.devices = append(f.devices, ad.Uint32())
		case unix.RTA_PREFSRC:
			f.local, _ = netip.AddrFromSlice(ad.Bytes())
		case unix.RTA_MULTIPATH:
			for _, hop := range nexthops(ad.Bytes()) {
				f.devices = append(f.devices, hop.device)
			}
		}
	}
	return f, ad.Err()
}

// nexthop is one of the ways that a multipath route leads.
type nexthop struct {
	device uint32
	attributes
}

// nexthops reads a list of struct rtnexthop, each of which attributes follow.
func nexthops(b []byte) (hops []nexthop) {
	for len(b) >= unix.SizeofRtNexthop {
		size := min(max(int(native.Uint16(b)), unix.SizeofRtNexthop), len(b))
		// Attributes that cannot be read are as good as none.
		all, _ := netlink.UnmarshalAttributes(b[unix.SizeofRtNexthop:size])
		hops = append(hops, nexthop{native.Uint32(b[4:]), attributesOf(all)})
		b = b[min((size+3)&^3, len(b)):]
	}
	return hops
}
