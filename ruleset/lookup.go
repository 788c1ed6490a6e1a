package ruleset

import (
	"errors"
	"net/netip"
	"os"

	"github.com/portmon/portmon/nftset"
)

// Standing is what the table has to say about an address.
type Standing struct {
	// Whitelisted is the whitelist's interval around the address; nil if there is none.
	Whitelisted *nftset.Interval
	// Bans are all bans that the address is under, the longest tier first, then prefixes. If it is whitelisted they are without effect.
	Bans []Ban
}

// Banned reports whether packets from the address are dropped.
func (st Standing) Banned() bool { return st.Whitelisted == nil && len(st.Bans) > 0 }

// Lookup asks the kernel about one address, in some 10 µs for each set. IPv4-mapped addresses are taken as IPv4.
func (s *State) Lookup(c *nftset.Conn, addr netip.Addr) (Standing, error) {
	var st Standing
	key := nftset.AddrKey(addr)
	f := familyOf(key.Type())
	if set := s.Set(f.whitelist()); set != nil {
		el, err := c.Get(set, key)
		switch {
		case err == nil:
			st.Whitelisted = &el.Interval
		case !errors.Is(err, os.ErrNotExist):
			return st, err
		}
	}
	for _, set := range s.banSets() {
		if set.Type != f.key {
			continue
		}
		_, tier, _ := tierOf(set.Name)
		el, err := c.Get(set, s.tierKey(tier, addr))
		switch {
		case err == nil:
			st.Bans = append(st.Bans, s.ban(set, tier, el))
		case !errors.Is(err, os.ErrNotExist):
			return st, err
		}
	}
	return st, nil
}

// tierKey returns the key that stands for an address in the sets of a tier.
func (s *State) tierKey(tier int, addr netip.Addr) nftset.Key {
	addr = addr.Unmap().WithZone("")
	if tier > 0 && addr.Is6() {
		return nftset.AddrKey(s.Source(addr).Addr())
	}
	return nftset.AddrKey(addr)
}

// Source returns the prefix by which an address is banned: itself alone, or for IPv6 the network that it is in.
func (s *State) Source(addr netip.Addr) netip.Prefix {
	addr = addr.Unmap().WithZone("")
	bits := addr.BitLen()
	if addr.Is6() && s.Prefix6 > 0 {
		bits = s.Prefix6
	}
	return netip.PrefixFrom(addr, bits).Masked()
}
