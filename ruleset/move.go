package ruleset

import (
	"net/netip"
	"slices"
	"time"

	"github.com/portmon/portmon/nftset"
)

// displacement is what another configuration leaves no place for, or another
// place.
type displacement struct {
	// lifted are the bans of sources that are whitelisted now.
	lifted []Entry
	// toNet are the bans that move to the sets of prefixes, by family; from
	// are the sets that they are in now.
	toNet [len(families)][]span
	from  []string
	// steps are to be remembered by other elements than now, but for those in
	// the sets that others go to.
	steps []Entry
	// forgotten are the sets of IPv6 sources by another prefix length.
	forgotten []string
}

// displaced finds what a Spec displaces of the contents of a table.
func (s Spec) displaced(have *State, c Contents) displacement {
	var d displacement
	rekeyed := have.rekeyed(s)
	for i, f := range families {
		if rekeyed && f.is6() {
			d.from = append(d.from, f.ban())
			d.forgotten = append(d.forgotten, f.crowd(), f.hits(), f.probed(), f.score(), f.scanner())
		}
		if s.subnetOf(f) == 0 {
			d.from = append(d.from, f.subnet())
		}
		whitelist := s.whitelist(f)
		for _, b := range c.Bans {
			if b.From.Type() != f.key {
				continue
			}
			_, whitelisted := coveredBy(whitelist, b.Interval)
			switch {
			case whitelisted:
				d.lifted = append(d.lifted, b)
			case slices.Contains(d.from, b.Set):
				d.toNet[i] = append(d.toNet[i], spanOf(b.Interval, b.Timeout, b.Remaining, b.Comment))
			}
		}
	}
	for _, e := range c.Steps {
		moved := e
		moved.Step = min(e.Step, len(s.BanTime))
		if p, ok := e.Prefix(); ok && rekeyed && p.Addr().Is6() && !s.standsAlone(have, p) {
			if s.Prefix6 > p.Bits() {
				continue // which of the smaller networks it was is not known
			}
			moved.Interval = nftset.Prefix(netip.PrefixFrom(p.Addr(), s.Prefix6)).Interval
		}
		d.steps = append(d.steps, moved)
	}
	return d
}

// standsAlone reports whether an IPv6 source is an address that is banned by
// itself whatever the prefix length.
func (s Spec) standsAlone(have *State, p netip.Prefix) bool {
	if have.prefix6() < 128 {
		return p.IsSingleIP()
	}
	inSingle := func(single netip.Prefix) bool { return single.Contains(p.Addr()) }
	return s.isOwn(p.Addr()) || slices.ContainsFunc(slices.Concat(alwaysSingle, s.Single6), inSingle)
}

// rekeyed reports whether the keys of IPv6 sources mean something else by a
// Spec.
func (s *State) rekeyed(spec Spec) bool { return s.Prefix6 != 0 && s.Prefix6 != spec.Prefix6 }

// retired reports whether a set is of a step that the ladder of a Spec does not
// have.
func (s Spec) retired(set string) bool {
	role, step := RoleOf(set)
	return role == RoleStep && step > len(s.BanTime)
}

// movesSteps reports whether sources that a set remembers are to be remembered
// by others, or it is where those of a retired set go.
func (s *State) movesSteps(spec Spec, set *nftset.Set) bool {
	f := familyOf(set.Type)
	return spec.retired(set.Name) || s.rekeyed(spec) && f.is6() ||
		set.Name == f.tier(len(spec.BanTime)) && s.Set(f.tier(len(spec.BanTime)+1)) != nil
}

func (a *askedNets) set(f family)   { *a.of(f) = true }
func (a *askedNets) unset(f family) { *a.of(f) = false }

func (a *askedNets) of(f family) *bool {
	if f.is6() {
		return &a.Net6
	}
	return &a.Net4
}

// moveBans moves bans to the sets of prefixes. They get there ahead of the
// transaction that takes them from where they are. The kernel (seen on 6.18)
// makes a new generation of elements visible first and a changed set of
// intervals a moment later; in between, what moves would be in neither.
func (p *Plan) moveBans(s *State, c Contents, d displacement) {
	const what = "bans by the old prefix length"
	for i, f := range families {
		to := s.Set(f.net())
		if len(d.toNet[i]) == 0 || to == nil {
			continue
		}
		p.note(what)
		have := c.Nets[f.net()]
		gone, more := changes(have, flatten(slices.Concat(have, d.toNet[i])))
		p.ahead.Discard(to, slices.Collect(bare(intervals(gone)))...)
		p.ahead.AddSeq(to, elements(more))
		for _, r := range netRules(f) {
			if s.chain(r.chain) != nil && (r.to == "" || s.chain(r.to) != nil) && len(s.netRule(r)) == 0 {
				insertRule(&p.ahead, s.Table, r.chain, r.Rule)
			}
		}
	}
	for _, name := range d.from {
		if set := s.Set(name); set != nil && p.Table.set(name) != nil {
			p.change(what).FlushSet(set)
		}
	}
}

func intervals(spans []span) []nftset.Interval {
	out := make([]nftset.Interval, len(spans))
	for i, s := range spans {
		out[i] = s.Interval
	}
	return out
}

// moveSteps gives sources the elements by which their steps are remembered now.
func (p *Plan) moveSteps(spec Spec, s *State, d displacement) {
	const what = "steps of the ladder"
	if s.rekeyed(spec) {
		for _, set := range s.roleSets(RoleStep) {
			if set.Type == nftset.IPv6Addr && p.Table.set(set.Name) != nil {
				p.change(what).FlushSet(set)
			}
		}
		for _, name := range d.forgotten {
			if set := s.Set(name); set != nil && p.Table.set(name) != nil {
				p.change(what).FlushSet(set)
			}
		}
	}
	type place struct {
		set string
		key nftset.Key
	}
	to, have := make(map[place]time.Duration), make(map[place]time.Duration)
	for _, e := range d.steps {
		at := place{RoleStep.Set(e.From.Addr(), e.Step), e.From}
		to[at] = max(to[at], e.Remaining)
		if at.set == e.Set && !(s.rekeyed(spec) && e.From.Addr().Is6()) {
			have[at] = e.Remaining
		}
	}
	longer := make(map[string][]nftset.Element)
	known := make(map[string][]nftset.Interval) // of those, what is there for a shorter time
	for at, remaining := range to {
		if have[at] >= remaining {
			continue
		}
		iv := nftset.Single(at.key).Interval
		longer[at.set] = append(longer[at.set], nftset.Element{Interval: iv, Timeout: remaining})
		if have[at] > 0 {
			known[at.set] = append(known[at.set], iv)
		}
	}
	for i := range p.Table.Sets {
		set := &p.Table.Sets[i].Set
		slices.SortFunc(known[set.Name], nftset.Interval.Compare)
		slices.SortFunc(longer[set.Name], func(a, b nftset.Element) int { return a.Compare(b.Interval) })
		p.discard(what, set, known[set.Name])
		if len(longer[set.Name]) > 0 {
			p.change(what).Add(set, longer[set.Name]...)
		}
	}
}

// lift takes back bans of sources that are whitelisted now; the packet path
// ignores them anyway.
func (p *Plan) lift(s *State, bans []Entry) {
	p.Lifted = bans
	for _, set := range s.roleSets(RoleBan, RoleSubnet, RoleNet) {
		var gone []nftset.Interval
		for _, b := range bans {
			if b.Set == set.Name && p.Table.set(set.Name) != nil {
				gone = append(gone, b.key())
			}
		}
		p.discard(liftedBans, set, gone)
	}
}

const liftedBans = "bans of whitelisted sources"

// key returns the interval that the entry has in its set.
func (e Entry) key() nftset.Interval {
	if e.Role == RoleNet {
		return e.Interval
	}
	return nftset.Single(e.From).Interval
}
