package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// routeInfo is how this host would answer an address.
type routeInfo struct {
	found  bool   // there is a route, by the interface that was asked for
	text   string // what the route is, or why there is none
	device string
	local  netip.Addr // the address that the answer would come from
}

// routeBack asks how an answer to an address would leave, and whether that is by
// the interface iif; by any if that is "". The mark of the packet is not known
// and taken as 0.
func routeBack(to netip.Addr, iif string) (routeInfo, error) {
	want := 0
	if iif != "" {
		dev, err := net.InterfaceByName(iif)
		if err != nil {
			return routeInfo{}, fmt.Errorf("--iif %s: there is no such device", iif)
		}
		want = dev.Index
	}
	conn, err := netlink.Dial(unix.NETLINK_ROUTE, nil)
	if err != nil {
		return routeInfo{}, err
	}
	defer conn.Close()
	found, err := askRoute(conn, to, 0, 0)
	r := routeInfo{local: found.local, found: err == nil}
	if err != nil && !unreachable(err) {
		return routeInfo{}, fmt.Errorf("look for a route to %s: %w", to, err)
	}
	if dev, err := net.InterfaceByIndex(int(found.device())); err == nil {
		r.device, r.text = dev.Name, "by "+dev.Name
	}
	if want == 0 || !r.found || found.has(want) {
		return r, nil
	}
	// IPv6 is asked for a route by that interface; IPv4 whether the route, which
	// may have several, has it.
	if to.Is6() {
		found, err = askRoute(conn, to, want, 0)
	} else {
		found, err = askRoute(conn, to, 0, unix.RTM_F_FIB_MATCH)
	}
	r.found = err == nil && found.has(want)
	return r, nil
}

// unreachable reports whether an error tells that there is no route.
func unreachable(err error) bool {
	for _, e := range []error{unix.ENETUNREACH, unix.EHOSTUNREACH, unix.EACCES, unix.EINVAL} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// kernelRoute is what the kernel says of a route.
type kernelRoute struct {
	devices []uint32
	local   netip.Addr
}

func (r kernelRoute) device() uint32 {
	if len(r.devices) == 0 {
		return 0
	}
	return r.devices[0]
}

func (r kernelRoute) has(index int) bool {
	for _, d := range r.devices {
		if int(d) == index {
			return true
		}
	}
	return false
}

// askRoute asks for the route to an address, by an interface unless oif is 0.
func askRoute(conn *netlink.Conn, to netip.Addr, oif int, flags uint32) (r kernelRoute, err error) {
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
		return r, err
	}
	msgs, err := conn.Execute(netlink.Message{
		Header: netlink.Header{Type: unix.RTM_GETROUTE, Flags: netlink.Request},
		Data:   append(header, attrs...),
	})
	if err != nil || len(msgs) == 0 || len(msgs[0].Data) < unix.SizeofRtMsg {
		return r, err
	}
	switch msgs[0].Data[7] {
	case unix.RTN_UNREACHABLE, unix.RTN_BLACKHOLE, unix.RTN_PROHIBIT:
		return r, unix.ENETUNREACH
	}
	ad, err := netlink.NewAttributeDecoder(msgs[0].Data[unix.SizeofRtMsg:])
	if err != nil {
		return r, err
	}
	for ad.Next() {
		switch ad.Type() {
		case unix.RTA_OIF:
			r.devices = append(r.devices, ad.Uint32())
		case unix.RTA_PREFSRC:
			r.local, _ = netip.AddrFromSlice(ad.Bytes())
		case unix.RTA_MULTIPATH:
			for b := ad.Bytes(); len(b) >= unix.SizeofRtNexthop; {
				r.devices = append(r.devices, binary.NativeEndian.Uint32(b[4:]))
				size := (int(binary.NativeEndian.Uint16(b)) + 3) &^ 3
				b = b[min(max(size, unix.SizeofRtNexthop), len(b)):]
			}
		}
	}
	return r, ad.Err()
}
