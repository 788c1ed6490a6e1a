package listeners

import (
	"cmp"
	"net/netip"
	"slices"
)

// Users returns a function that says to which service of this host addresses of
// a prefix are connected, by its port; 0 if to none, or if that is not known.
func Users() func(netip.Prefix) uint16 {
	waiting, _ := Read("tcp")
	connected, _ := Connected()
	return UsersAmong(slices.DeleteFunc(connected, func(c Socket) bool {
		return !slices.ContainsFunc(waiting, func(w Socket) bool { return w.Takes(c.Addr, c.Device) })
	}))
}

// UsersAmong is [Users] for given connections to services. It sorts them,
// because there may be many of them and many prefixes.
func UsersAmong(connected []Socket) func(netip.Prefix) uint16 {
	address := func(s Socket) netip.Addr { return s.Peer.Addr().WithZone("") }
	slices.SortFunc(connected, func(a, b Socket) int {
		return cmp.Or(address(a).Compare(address(b)), cmp.Compare(a.Addr.Port(), b.Addr.Port()))
	})
	return func(p netip.Prefix) uint16 {
		i, _ := slices.BinarySearchFunc(connected, p.Masked().Addr(), func(s Socket, first netip.Addr) int {
			return address(s).Compare(first)
		})
		if i < len(connected) && p.Contains(address(connected[i])) {
			return connected[i].Addr.Port()
		}
		return 0
	}
}
