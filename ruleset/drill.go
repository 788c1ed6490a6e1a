package ruleset

import (
	"net/netip"

	"github.com/portmon/portmon/nftset"
)

// ForgetVisit forgets what a source that was unbanned has left in the table all
// the same, by packets to a service of this host: that there is a listener, and
// that the source was connected to it; that its subnet has offended; and that
// the network of the service is one of this host's own. It is for addresses that
// are made up and in use for a moment: of others, the same may be true.
func (h *Handle) ForgetVisit(src netip.Addr, service netip.AddrPort) error {
	f := familyOfAddr(src)
	left := map[string]nftset.Key{
		f.crowd():  networkKey(src, f.subnetLen),
		f.served(): nftset.AddrPortKey(service),
		f.cut():    nftset.AddrPortKey(netip.AddrPortFrom(src, service.Port())),
	}
	if f.is6() {
		left[setOwn6] = networkKey(service.Addr(), ownLen)
	}
	for name, key := range left {
		if set := h.Set(name); set != nil {
			if err := h.remove(set, []nftset.Interval{nftset.Single(key).Interval}); err != nil {
				return err
			}
		}
	}
	return nil
}
