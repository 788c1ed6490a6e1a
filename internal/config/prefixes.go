package config

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/portmon/portmon/internal/text"
	"github.com/portmon/portmon/nftset"
)

var (
	errEntry = errors.New("want an address, a prefix such as 192.0.2.0/24 or 2001:db8::/32, " +
		"or a range such as 192.0.2.10-192.0.2.20")
	errName = errors.New("names are not resolved: there is no DNS when the table is loaded at boot, " +
		"and whoever runs the name could whitelist anybody; want an address, a prefix or a range")
	errZone = errors.New("zones are not possible, as a whitelist holds on every interface; " +
		"want the address without the percent sign and what follows")
	errPrefix6 = errors.New("want an IPv6 prefix such as 2001:db8::/32")
	errIPv4    = errors.New("IPv4 addresses are banned one by one anyway: want an IPv6 prefix such as 2001:db8::/32")
)

func errLength(a netip.Addr) error {
	return fmt.Errorf("want a prefix length from 0 to %d after the slash", a.BitLen())
}

// appendEntry appends the prefixes that an entry of a whitelist stands for,
// without host bits, and IPv4 as such. The notes say how the entry was
// understood if that may come as a surprise. The error says what is wrong and
// what is allowed, and does not repeat s.
func appendEntry(prefixes []netip.Prefix, s string) (_ []netip.Prefix, notes []string, err error) {
	if strings.Contains(s, "%") {
		return prefixes, nil, errZone
	}
	before := len(prefixes)
	if first, last, isRange := strings.Cut(s, "-"); isRange {
		prefixes, notes, err = appendRange(prefixes, first, last)
	} else {
		prefixes, notes, err = appendPrefix(prefixes, s)
	}
	if errors.Is(err, errEntry) && isName(s) {
		return prefixes, nil, errName
	}
	for _, p := range prefixes[before:] {
		if p.Bits() == 0 {
			notes = append(notes, fmt.Sprintf("this is all of %s: no source of that family will ever be banned", family(p.Addr())))
		}
	}
	return prefixes, notes, err
}

// appendPrefix appends an address, as a prefix of its full length, or a prefix.
func appendPrefix(prefixes []netip.Prefix, s string) (_ []netip.Prefix, notes []string, err error) {
	host, _, hasLength := strings.Cut(s, "/")
	addr, err := netip.ParseAddr(host)
	if err != nil {
		return prefixes, nil, errEntry
	}
	p := netip.PrefixFrom(addr, addr.BitLen())
	if hasLength {
		if p, err = netip.ParsePrefix(s); err != nil {
			return prefixes, nil, errLength(addr)
		}
	}
	if addr.Is4In6() {
		if p.Bits() < 96 {
			return prefixes, nil, errors.New("want a prefix length from 96 to 128 for IPv4 written as ::ffff:0:0/96")
		}
		p = netip.PrefixFrom(addr.Unmap(), p.Bits()-96)
		notes = append(notes, fmt.Sprintf("taken as %s: packets carry it as IPv4", text.Prefix(p)))
	}
	if network := p.Masked(); network != p {
		notes = append(notes, fmt.Sprintf("taken as %s: the address has bits set beyond the prefix length", network))
		p = network
	}
	return append(prefixes, p), notes, nil
}

// appendRange appends the fewest prefixes that hold all addresses from first to
// last and no others.
func appendRange(prefixes []netip.Prefix, first, last string) (_ []netip.Prefix, notes []string, err error) {
	from, err1 := netip.ParseAddr(first)
	to, err2 := netip.ParseAddr(last)
	if err1 != nil || err2 != nil {
		return prefixes, nil, errEntry
	}
	if from.Is4In6() && to.Is4In6() {
		from, to = from.Unmap(), to.Unmap()
		notes = append(notes, fmt.Sprintf("taken as %s-%s: packets carry it as IPv4", from, to))
	}
	switch {
	case from.Is4() != to.Is4() || from.Is4In6() != to.Is4In6():
		return prefixes, nil, errors.New("want two addresses of the same family")
	case to.Less(from):
		return prefixes, nil, fmt.Errorf("the range is reversed: want %s-%s", to, from)
	}
	all := nftset.Interval{From: nftset.AddrKey(from), To: nftset.AddrKey(to)}
	return append(prefixes, all.Prefixes()...), notes, nil
}

// singles returns the IPv6 prefixes of a list.
func (r *reader) singles(v value) ([]netip.Prefix, bool) {
	items, ok := r.list(v, "IPv6 prefixes")
	if !ok {
		return nil, false
	}
	var prefixes []netip.Prefix
	for _, item := range items {
		s, ok := r.text(item, "an IPv6 prefix in quotes")
		if !ok {
			continue
		}
		p, err := parsePrefix6(s)
		switch {
		case err != nil:
			r.fault(item.place(), "%w", err)
			continue
		case p.Bits() == 0:
			r.warn(item.place(), "this is all of IPv6: every source evades its ban with another address")
		case p != p.Masked():
			r.warn(item.place(), "taken as %s: the address has bits set beyond the prefix length", p.Masked())
		}
		prefixes = append(prefixes, p.Masked())
	}
	return prefixes, true
}

// parsePrefix6 reads an IPv6 prefix, or an address as the prefix of its full
// length. The error says what is allowed and does not repeat s.
func parsePrefix6(s string) (netip.Prefix, error) {
	host, _, hasLength := strings.Cut(s, "/")
	addr, err := netip.ParseAddr(host)
	switch {
	case err != nil || addr.Zone() != "":
		return netip.Prefix{}, errPrefix6
	case addr.Is4() || addr.Is4In6():
		return netip.Prefix{}, errIPv4
	case !hasLength:
		return netip.PrefixFrom(addr, addr.BitLen()), nil
	}
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return netip.Prefix{}, errLength(addr)
	}
	return p, nil
}

func family(a netip.Addr) string {
	if a.Is4() {
		return "IPv4"
	}
	return "IPv6"
}

// isName reports whether s could be the name of a host, and nothing else.
func isName(s string) bool {
	letters := strings.ContainsFunc(s, func(c rune) bool { return 'a' <= c|0x20 && c|0x20 <= 'z' })
	return letters && !strings.ContainsFunc(s, func(c rune) bool { return notBare(c) && c != '.' })
}
