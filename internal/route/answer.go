package route

import (
	"encoding/binary"
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
	want := 0
	if iif != "" {
		dev, err := net.InterfaceByName(iif)
		if err != nil {
			return Answer{}, fmt.Errorf("no such device: %s", iif)
		}
		want = dev.Index
	}
	conn, err := netlink.Dial(unix.NETLINK_ROUTE, nil)
	if err != nil {
		return Answer{}, fmt.Errorf("open netlink socket: %w", err)
	}
	defer conn.Close()
	found, err := askRoute(conn, to, 0, 0)
	if err != nil && !unreachable(err) {
		return Answer{}, fmt.Errorf("look for a route to %s: %w", to, err)
	}
	a := Answer{Found: err == nil, Local: found.local}
	if len(found.devices) > 0 {
		if dev, err := net.InterfaceByIndex(int(found.devices[0])); err == nil {
			a.Device = dev.Name
		}
	}
	if want == 0 || !a.Found || found.has(want) {
		return a, nil
	}
	// For IPv6 the packet path asks for a route by that interface; for IPv4,
	// whether the route, which may lead by several, has it.
	if to.Is6() {
		found, err = askRoute(conn, to, want, 0)
	} else {
		found, err = askRoute(conn, to, 0, unix.RTM_F_FIB_MATCH)
	}
	a.Found = err == nil && found.has(want)
	return a, nil
}

// IsLocal reports whether the routes of the network namespace of the calling
// thread take an address for one of this host. Routes of type local do so for
// addresses that no interface has, and the packet path asks the routes.
func IsLocal(addr netip.Addr) (bool, error) {
	conn, err := netlink.Dial(unix.NETLINK_ROUTE, nil)
	if err != nil {
		return false, fmt.Errorf("open netlink socket: %w", err)
	}
	defer conn.Close()
	found, err := askRoute(conn, addr, 0, 0)
	if err != nil && !unreachable(err) {
		return false, fmt.Errorf("look for a route to %s: %w", addr, err)
	}
	return found.kind == unix.RTN_LOCAL, nil
}

// unreachable reports whether an error says that there is no route.
func unreachable(err error) bool {
	for _, e := range []error{unix.ENETUNREACH, unix.EHOSTUNREACH, unix.EACCES, unix.EINVAL} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// found is what the kernel says of a route.
type found struct {
	kind    byte // RTN_*
	devices []uint32
	local   netip.Addr
}

func (f found) has(index int) bool { return slices.Contains(f.devices, uint32(index)) }

// askRoute asks for the route to an address, by an interface unless oif is 0.
func askRoute(conn *netlink.Conn, to netip.Addr, oif int, flags uint32) (f found, err error) {
	header := make([]byte, unix.SizeofRtMsg)
	header[0], header[1] = unix.AF_INET, byte(to.BitLen())
	if to.Is6() {
		header[0] = unix.AF_INET6
	}
	binary.NativeEndian.PutUint32(header[8:], flags)
	ae := netlink.NewAttributeEncoder()
	ae.Bytes(unix.RTA_DST, to.AsSlice())
	if oif > 0 {
		ae.Uint32(unix.RTA_OIF, uint32(oif))
	}
	attrs, err := ae.Encode()
	if err != nil {
		return f, err
	}
	msgs, err := conn.Execute(netlink.Message{
		Header: netlink.Header{Type: unix.RTM_GETROUTE, Flags: netlink.Request},
		Data:   append(header, attrs...),
	})
	if err != nil || len(msgs) == 0 || len(msgs[0].Data) < unix.SizeofRtMsg {
		return f, err
	}
	switch f.kind = msgs[0].Data[7]; f.kind {
	case unix.RTN_UNREACHABLE, unix.RTN_BLACKHOLE, unix.RTN_PROHIBIT:
		return f, unix.ENETUNREACH
	}
	ad, err := netlink.NewAttributeDecoder(msgs[0].Data[unix.SizeofRtMsg:])
	if err != nil {
		return f, err
	}
	for ad.Next() {
		switch ad.Type() {
		case unix.RTA_OIF:
			f.devices = append(f.devices, ad.Uint32())
		case unix.RTA_PREFSRC:
			f.local, _ = netip.AddrFromSlice(ad.Bytes())
		case unix.RTA_MULTIPATH:
			f.devices = append(f.devices, nexthops(ad.Bytes())...)
		}
	}
	return f, ad.Err()
}

// nexthops returns the devices of a list of struct rtnexthop, each of which
// attributes follow.
func nexthops(b []byte) (devices []uint32) {
	for len(b) >= unix.SizeofRtNexthop {
		devices = append(devices, binary.NativeEndian.Uint32(b[4:]))
		size := (int(binary.NativeEndian.Uint16(b)) + 3) &^ 3
		b = b[min(max(size, unix.SizeofRtNexthop), len(b)):]
	}
	return devices
}
