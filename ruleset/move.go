package ruleset

import (
	"slices"
	"time"

	"github.com/portmon/portmon/nftset"
)

// displacement is what another configuration leaves no place for, or another
// place.
type displacement struct {
	// lifted are the bans of sources that are whitelisted now.
	lifted []Entry
	// toNet are the bans that move to the sets of prefixes, by family.
	toNet [len(families)][]nftset.Element
	// emptied are the sets that they are in now, and others of IPv6 sources by
	// the old prefix length: what those remember is forgotten.
	emptied []string
}

// displaced finds what a Spec displaces of the contents of a table.
func (s Spec) displaced(have *State, c Contents) displacement {
	var d displacement
	for i, f := range families {
		if have.rekeyed(s) && f.is6() {
			d.emptied = append(d.emptied, f.ban(), f.crowd(), f.hits(), f.probed(), f.score(), f.scanner())
			for step := 1; step <= MaxSteps; step++ {
				d.emptied = append(d.emptied, f.tier(step))
			}
		}
		if s.subnetOf(f) == 0 {
			d.emptied = append(d.emptied, f.subnet())
		}
		whitelist := s.whitelist(f)
		for _, b := range c.Bans {
			if b.From.Type() != f.key {
				continue
			}
			switch {
			case isCovered(whitelist, b.Interval):
				d.lifted = append(d.lifted, b)
			case slices.Contains(d.emptied, b.Set):
				d.toNet[i] = append(d.toNet[i], b.Element)
			}
		}
	}
	return d
}

// rekeyed reports whether the keys of IPv6 sources mean something else by a
// Spec.
func (s *State) rekeyed(spec Spec) bool { return s.Prefix6 != 0 && s.Prefix6 != spec.Prefix6 }

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
		gone, more := apart(have, flatten(slices.Concat(have, d.toNet[i])), compareBans)
		p.ahead.Discard(to, gone...)
		p.ahead.Add(to, more...)
		for _, r := range netRules(f) {
			if s.chain(r.chain) != nil && s.chain(r.to) != nil && len(s.netRule(r)) == 0 {
				insertRule(&p.ahead, s.Table, r.chain, r.Rule)
			}
		}
	}
	for _, name := range d.emptied {
		if set := s.Set(name); set != nil && p.Table.set(name) != nil {
			p.change(what).FlushSet(set)
		}
	}
}

// moveSteps has the last step of a ladder that is shorter now remember the
// sources of those above it, each for the longest time.
func (p *Plan) moveSteps(last int, c Contents) {
	for _, f := range families {
		there, moved := make(map[nftset.Key]time.Duration), make(map[nftset.Key]time.Duration)
		for _, el := range c.Steps[f.tier(last)] {
			there[el.From] = el.Remaining
		}
		for step := last + 1; step <= MaxSteps; step++ {
			for _, el := range c.Steps[f.tier(step)] {
				if el.Remaining > max(there[el.From], moved[el.From]) {
					moved[el.From] = el.Remaining
				}
			}
		}
		if len(moved) == 0 {
			continue
		}
		var fresh, longer []nftset.Element
		for source, remaining := range moved {
			el := nftset.Single(source).For(remaining)
			if _, ok := there[source]; ok {
				longer = append(longer, el)
			} else {
				fresh = append(fresh, el)
			}
		}
		set, tx := &p.Table.set(f.tier(last)).Set, p.change("steps of the ladder")
		tx.Add(set, fresh...)
		tx.Renew(set, longer...) // which takes three times as much
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
