// Package route reads what the routes of a network namespace mean for the
// packet path: which strangers share a network with this host, and whether the
// kernel can tell that a source has no route back.
//
// The packet path asks "fib saddr . mark . iif oif missing": would an answer
// leave by another interface than the packet came in by? The section "The route
// back" of docs/kernel.md says where that is right and where it is not.
package route

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Facts are what the routes of a network namespace mean.
type Facts struct {
	// Own are the addresses of all interfaces, and Gateways those of default
	// routes, sorted.
	Own, Gateways []netip.Addr
	// OnLink4 are the IPv4 networks of this host's own addresses, sorted; not
	// those of loopback, and of addresses that are alone.
	OnLink4 []netip.Prefix
	// OnLink6 are the IPv6 networks of this host's own addresses, of 48 to 127
	// bits, sorted; not those of link-local addresses and of loopback.
	OnLink6 []netip.Prefix
	// IPv4 and IPv6 say how packets get out.
	IPv4, IPv6 Ways
	// NoReversePath4 and NoReversePath6 say that the test for a route back is
	// wrong in that family, so that it would keep sources from being banned.
	NoReversePath4, NoReversePath6 bool
}

// Ways is how the packets of one family get out. Only tables to which a routing
// rule leads count.
type Ways struct {
	// Devices are the interfaces by which default routes lead, sorted. A route
	// for an eighth of all addresses or more is a default route: VPNs use two
	// for a half each, and IPv6 has 2000::/3.
	Devices []string
	// Multipath says that a route leads by several interfaces at once: a
	// default route in IPv4, any route in IPv6.
	Multipath bool
	// Several says that there are default routes by different interfaces, of
	// which the more special one or the one with the better metric is taken;
	// Equal, that neither tells some of them apart.
	Several, Equal bool
	// Marks and Ports say that there are rules that ask for the mark of a
	// packet, and for ports.
	Marks, Ports bool
}

// Read returns the facts about the network namespace of a file descriptor, or
// about that of the calling thread if it is 0.
func Read(netns int) (Facts, error) {
	conn, err := netlink.Dial(unix.NETLINK_ROUTE, &netlink.Config{NetNS: netns})
	if err != nil {
		return Facts{}, fmt.Errorf("open netlink socket: %w", err)
	}
	defer conn.Close()
	// A list may have holes if something changed meanwhile. Routers that change
	// their routes all the time get what there is.
	for try := 1; ; try++ {
		r := reader{conn: conn}
		if err := r.read(); err != nil {
			return Facts{}, err
		}
		if !r.interrupted || try == 3 {
			return r.facts(), nil
		}
	}
}

// blind names what makes the test for a route back wrong, if anything does.
func (w Ways) blind(family byte) string {
	switch {
	case w.Multipath && family == unix.AF_INET6:
		return "multipath routes" // of which the test asks one, by a hash
	case w.Equal && family == unix.AF_INET:
		return "several default routes of one metric" // answers take any, the test the first
	case w.Ports && len(w.Devices) > 1:
		return "routing rules by port" // and the test has no port
	}
	return ""
}

// Doubts returns what an administrator should know about the test for a route
// back, without capital initials and full stops; nothing where all is well.
func (f Facts) Doubts() []string {
	return append(f.IPv4.doubts("IPv4", unix.AF_INET), f.IPv6.doubts("IPv6", unix.AF_INET6)...)
}

func (w Ways) doubts(name string, family byte) (all []string) {
	if reason := w.blind(family); reason != "" {
		return []string{fmt.Sprintf("%s has %s, where the kernel cannot tell whether there is a route back to a source: "+
			"that test is left out, and forged sources can be banned", name, reason)}
	}
	by := strings.Join(w.Devices, ", ")
	if w.Several {
		all = append(all, fmt.Sprintf("%s has default routes by %s: an offence that comes in by "+
			"another interface than an answer would leave by is dropped, but its source is not banned", name, by))
	}
	if w.Marks && len(w.Devices) > 1 {
		all = append(all, fmt.Sprintf("%s has default routes by %s and routing rules by mark: sources are banned only if "+
			"their packets get the mark (meta mark, not ct mark alone) in prerouting before priority -99", name, by))
	}
	return all
}
