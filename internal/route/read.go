package route

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/internal/text"
)

// A default route has at most wide bits, and a network on the link at least
// narrow ones: a shorter prefix is for what lies behind a tunnel, or a mistake.
const wide, narrow = 3, 48

const (
	toTable = 1  // FR_ACT_TO_TBL of linux/fib_rules.h
	nhID    = 30 // RTA_NH_ID of linux/rtnetlink.h
)

var native = binary.NativeEndian

// reader collects what the kernel lists.
type reader struct {
	conn        *netlink.Conn
	interrupted bool
	names       map[uint32]string // of interfaces, but for loopback
	own, onLink []netip.Prefix    // of IPv6; own addresses have the length of their network
	addrs       []netip.Addr      // own ones, of both families
	onLink4     []netip.Prefix
	gateways    []netip.Addr
	ways        map[byte]*Ways           // by family, as is all that follows
	tables      map[byte]map[uint32]bool // to which rules lead: true if one of them does so for all packets
	defaults    map[choice][]hops
}

// choice is what two default routes have in common if packets take one of them.
type choice struct {
	family, tos byte
	table       uint32 // 0 for those that are asked for all packets
	src         string
}

// hops is where a route leads.
type hops struct {
	dst           netip.Prefix
	table, metric uint32
	devices       []uint32
}

// attributes are those of a message, by type.
type attributes map[uint16][]byte

func (a attributes) number(kind uint16, otherwise uint32) uint32 {
	if b := a[kind]; len(b) == 4 {
		return native.Uint32(b)
	}
	return otherwise
}

func (a attributes) have(kinds ...uint16) bool {
	return slices.ContainsFunc(kinds, func(k uint16) bool { return a[k] != nil })
}

func attributesOf(all []netlink.Attribute) attributes {
	a := make(attributes, len(all))
	for _, one := range all {
		a[one.Type] = one.Data
	}
	return a
}

func (r *reader) read() error {
	r.names, r.defaults = map[uint32]string{}, map[choice][]hops{}
	r.ways = map[byte]*Ways{unix.AF_INET: {}, unix.AF_INET6: {}}
	r.tables = map[byte]map[uint32]bool{unix.AF_INET: {}, unix.AF_INET6: {}}
	err := errors.Join(
		r.list("interfaces", unix.RTM_GETLINK, unix.AF_UNSPEC, unix.SizeofIfInfomsg, r.link),
		r.list("addresses", unix.RTM_GETADDR, unix.AF_INET, unix.SizeofIfAddrmsg, r.address),
		r.list("addresses", unix.RTM_GETADDR, unix.AF_INET6, unix.SizeofIfAddrmsg, r.address))
	for family, tables := range r.tables {
		rules := r.list("routing rules", unix.RTM_GETRULE, family, unix.SizeofRtMsg, r.rule)
		if errors.Is(rules, unix.EOPNOTSUPP) || errors.Is(rules, unix.EAFNOSUPPORT) {
			rules, tables[unix.RT_TABLE_MAIN] = nil, true // a kernel without them
		}
		err = errors.Join(err, rules, r.list("routes", unix.RTM_GETROUTE, family, unix.SizeofRtMsg, r.route))
	}
	return err
}

// list takes a list of objects, whose messages begin with a header. That of the
// request is as long, and its first byte is the family.
func (r *reader) list(
	what string, kind netlink.HeaderType, family byte, header int, take func([]byte, attributes),
) error {
	request := netlink.Message{
		Header: netlink.Header{Type: kind, Flags: netlink.Request | netlink.Dump},
		Data:   append([]byte{family}, make([]byte, header-1)...),
	}
	if _, err := r.conn.Send(request); err != nil {
		return fmt.Errorf("list %s: %w", what, err)
	}
	for m, err := range r.conn.ReceiveIter() {
		if err != nil {
			return fmt.Errorf("list %s: %w", what, err)
		}
		r.interrupted = r.interrupted || m.Header.Flags&netlink.DumpInterrupted != 0
		// A kernel without a family lists all the others in its place. There
		// are a million routes on some hosts, and nearly all end here.
		if len(m.Data) < header || m.Data[0] != family || kind == unix.RTM_GETROUTE && !matters(m.Data) {
			continue
		}
		all, err := netlink.UnmarshalAttributes(m.Data[header:])
		if err != nil {
			return fmt.Errorf("list %s: %w", what, err)
		}
		take(m.Data[:header], attributesOf(all))
	}
	return nil
}

// matters reports whether a route is of any interest, by its struct rtmsg.
func matters(h []byte) bool {
	return h[7] == unix.RTN_UNICAST && (h[0] == unix.AF_INET6 || h[1] <= wide)
}

// link takes a struct ifinfomsg.
func (r *reader) link(h []byte, a attributes) {
	if native.Uint32(h[8:])&unix.IFF_LOOPBACK == 0 {
		r.names[native.Uint32(h[4:])] = unix.ByteSliceToString(a[unix.IFLA_IFNAME])
	}
}

// address takes a struct ifaddrmsg. On a link from point to point IFA_ADDRESS is
// that of the far end, and the network is that.
func (r *reader) address(h []byte, a attributes) {
	addr, ok := netip.AddrFromSlice(a[unix.IFA_ADDRESS])
	local, own := netip.AddrFromSlice(a[unix.IFA_LOCAL])
	if !own {
		local = addr
	}
	if own || ok {
		r.addrs = append(r.addrs, local)
	}
	if !ok || h[3] != unix.RT_SCOPE_UNIVERSE || r.names[native.Uint32(h[4:])] == "" {
		return
	}
	switch p := netip.PrefixFrom(addr, int(h[1])); {
	case addr.Is6():
		r.own = append(r.own, p)
	case !p.IsSingleIP():
		r.onLink4 = append(r.onLink4, p.Masked())
	}
}

// rule takes a struct fib_rule_hdr.
func (r *reader) rule(h []byte, a attributes) {
	if h[7] != toTable {
		return
	}
	w, tables := r.ways[h[0]], r.tables[h[0]]
	marks, ports := a.have(unix.FRA_FWMARK, unix.FRA_FWMASK), a.have(unix.FRA_SPORT_RANGE, unix.FRA_DPORT_RANGE)
	w.Marks, w.Ports = w.Marks || marks, w.Ports || ports
	some := marks || ports || h[1] > 0 || h[2] > 0 ||
		a.have(unix.FRA_IIFNAME, unix.FRA_OIFNAME, unix.FRA_IP_PROTO, unix.FRA_UID_RANGE)
	table := a.number(unix.FRA_TABLE, uint32(h[4]))
	tables[table] = tables[table] || !some
}

// route takes a struct rtmsg.
func (r *reader) route(h []byte, a attributes) {
	table := a.number(unix.RTA_TABLE, uint32(h[4]))
	all, asked := r.tables[h[0]][table]
	addr, _ := netip.AddrFromSlice(a[unix.RTA_DST]) // invalid if there is none
	if !asked || addr.IsLinkLocalUnicast() {
		return
	}
	by := hops{netip.PrefixFrom(addr, int(h[1])), table, a.number(unix.RTA_PRIORITY, 0), nil}
	if a.have(unix.RTA_OIF) {
		by.add(a.number(unix.RTA_OIF, 0))
	}
	several := nexthops(a[unix.RTA_MULTIPATH])
	for _, hop := range several {
		by.add(hop.device)
	}
	// Where net.ipv4.nexthop_compat_mode is off, all we hear is the number of a
	// nexthop object, which can be several.
	unknown := len(by.devices) == 0 && a.have(nhID)
	w := r.ways[h[0]]
	w.Multipath = w.Multipath || unknown || len(by.devices) > 1
	switch {
	case h[1] <= wide:
		if all {
			table = 0
		}
		r.addDefault(w, choice{h[0], h[3], table, string(a[unix.RTA_SRC])}, by)
		r.addGateway(a)
		for _, hop := range several {
			r.addGateway(hop.attributes)
		}
	case narrow <= h[1] && h[1] < 128 && !a.have(unix.RTA_GATEWAY) && len(by.devices) == 1 && r.names[by.devices[0]] != "":
		r.onLink = append(r.onLink, by.dst)
	}
}

func (h *hops) add(device uint32) {
	if !slices.Contains(h.devices, device) {
		h.devices = append(h.devices, device)
	}
}

// addDefault adds a default route, and compares it with those in its place.
func (r *reader) addDefault(w *Ways, c choice, by hops) {
	for _, id := range by.devices {
		if name := r.names[id]; name != "" && !slices.Contains(w.Devices, name) {
			w.Devices = append(w.Devices, name)
		}
	}
	for _, other := range r.defaults[c] {
		if !slices.Equal(other.devices, by.devices) {
			w.Several = true
			w.Equal = w.Equal || other.dst == by.dst && other.table == by.table && other.metric == by.metric
		}
	}
	r.defaults[c] = append(r.defaults[c], by)
}

// addGateway adds the gateway of a default route, if it has one. Its family may
// be another than that of the route: then it is in a struct rtvia.
func (r *reader) addGateway(a attributes) {
	b := a[unix.RTA_GATEWAY]
	if via := a[unix.RTA_VIA]; len(via) > 2 {
		b = via[2:]
	}
	if addr, ok := netip.AddrFromSlice(b); ok {
		r.gateways = append(r.gateways, addr)
	}
}

// facts draws the conclusions.
func (r *reader) facts() Facts {
	for _, w := range r.ways {
		slices.Sort(w.Devices)
	}
	f := Facts{IPv4: *r.ways[unix.AF_INET], IPv6: *r.ways[unix.AF_INET6]}
	f.NoReversePath4 = f.IPv4.blind(unix.AF_INET) != ""
	f.NoReversePath6 = f.IPv6.blind(unix.AF_INET6) != ""
	for _, p := range r.own {
		if narrow <= p.Bits() && p.Bits() < 128 {
			f.OnLink6 = append(f.OnLink6, p.Masked())
		}
	}
	// An address by DHCPv6 has 128 bits. That its network is on the link is
	// told by the router, and is a route.
	for _, p := range r.onLink {
		if slices.ContainsFunc(r.own, func(own netip.Prefix) bool { return p.Contains(own.Addr()) }) {
			f.OnLink6 = append(f.OnLink6, p)
		}
	}
	slices.SortFunc(f.OnLink6, text.ComparePrefixes)
	f.OnLink6 = slices.Compact(f.OnLink6)
	slices.SortFunc(r.onLink4, text.ComparePrefixes)
	f.OnLink4 = slices.Compact(r.onLink4)
	for to, addrs := range map[*[]netip.Addr][]netip.Addr{&f.Own: r.addrs, &f.Gateways: r.gateways} {
		slices.SortFunc(addrs, netip.Addr.Compare)
		*to = slices.Compact(addrs)
	}
	return f
}
