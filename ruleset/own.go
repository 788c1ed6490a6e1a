package ruleset

import (
	"net/netip"
	"slices"

	"github.com/portmon/portmon/nftset"
)

// own returns the keys by which the networks of this host's own addresses stand
// in their set, sorted.
func (s Spec) own() []nftset.Interval {
	var out []nftset.Interval
	for _, p := range s.Own6 {
		if p.Bits() <= ownLen {
			out = append(out, nftset.Addr(p.Addr()).Interval)
		}
	}
	slices.SortFunc(out, nftset.Interval.Compare)
	return slices.Compact(out)
}

// isOwn reports whether an address is in a network of this host.
func (s Spec) isOwn(a netip.Addr) bool {
	key := nftset.Addr(netip.PrefixFrom(a, ownLen).Masked().Addr()).Interval
	_, found := slices.BinarySearchFunc(s.own(), key, nftset.Interval.Compare)
	return found
}

// learnOwn adds the networks of this host that the table does not know, as far
// as there is room. Those that it knows from offences stay.
func (p *Plan) learnOwn(spec Spec, c Contents) {
	if set := p.Table.set(setOwn6); set != nil {
		_, missing := apart(c.Own, spec.own())
		room := max(0, int(set.Size)-len(c.Own))
		p.addIntervals(&set.Set, missing[:min(room, len(missing))])
	}
}

// OnlyLearns reports whether all that the plan does is to tell the table of
// networks of this host that it does not know: the table does all that it
// should, but for sources in them, and nobody has done anything to it.
func (p *Plan) OnlyLearns() bool { return slices.Equal(p.Summary(), []string{setOwn6}) }
