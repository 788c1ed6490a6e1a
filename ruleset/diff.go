package ruleset

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/portmon/portmon/nftset"
)

// ConflictError tells that something stands in the table that cannot be made what it must be without losing it.
type ConflictError struct {
	Object     string // "set inet portmon ban4"
	Have, Want string
}

func (e *ConflictError) Error() string {
	return fmt.Sprintf("%s is there with %s, but it must have %s", e.Object, e.Have, e.Want)
}

// Contents are those elements that a plan depends on, by the name of their set.
type Contents struct {
	// Static are the intervals of the sets whose contents the Spec gives.
	Static map[string][]nftset.Interval
	// Bans are needed only if the whitelist or the prefix length changed.
	Bans []Ban
}

// Diff makes the plan that turns what the kernel holds into the table. It fails with *ConflictError.
func Diff(t *Table, s *State, c Contents) (*Plan, error) {
	p := &Plan{Table: t, generation: s.Generation, Created: !s.Exists}
	if !s.Exists || s.Dormant {
		p.addTable()
		p.ops[0].ahead = s.Dormant // the kernel takes no chain in the transaction that wakes a table
	}
	for _, name := range t.Counters {
		if _, ok := s.Counters[name]; !ok {
			p.addCounter(name)
		}
	}
	if err := p.diffSets(s, c); err != nil {
		return nil, err
	}
	p.diffChains(s)
	p.dropSets(s)
	p.liftWhitelisted(s, c)
	if s.Prefix6 != 0 && s.Prefix6 != t.Prefix6 {
		p.rekey(s, c)
	}
	return p, nil
}

func (p *Plan) diffSets(s *State, c Contents) error {
	var errs []error
	for i := range p.Table.Sets {
		want := &p.Table.Sets[i]
		have := s.Set(want.Name)
		switch {
		case have == nil:
			p.putSet("set "+want.Name, &want.Set)
		case have.Type != want.Type || have.Flags != want.Flags:
			errs = append(errs, &ConflictError{
				Object: "set " + have.String(),
				Have:   fmt.Sprintf("type %s, flags %s", have.Type, flagsText(have.Flags)),
				Want:   fmt.Sprintf("type %s, flags %s", want.Type, flagsText(want.Flags)),
			})
			continue
		case sameTimeout(have.Timeout, want.Timeout) && have.Size == want.Size:
		case s.Digest == p.Table.Digest:
			// The table was made of this very configuration: the kernel is one that does not change a live set, and asking it
			// again would be in vain.
			p.Stuck = append(p.Stuck, stuck(have, want))
		case have.Size == want.Size:
			p.putSet("timeout of "+want.Name, &want.Set)
		default:
			p.putSet("size of "+want.Name, &want.Set)
		}
		if !want.Static {
			continue
		}
		if have == nil {
			p.addIntervals(&want.Set, want.Elements)
		} else {
			p.edit(want, c.Static[want.Name])
		}
	}
	return errors.Join(errs...)
}

// edit gives a set the elements that it must have. Those that are there already are left alone, rather than flushed and added again:
// in a large set that takes a twentieth of the time, and up to Linux 6.12 packets may miss what is deleted and added again
// in one transaction, or be taken for what is beside it.
func (p *Plan) edit(want *Set, have []nftset.Interval) {
	gone, missing := apart(have, want.Elements)
	p.deleteIntervals(&want.Set, gone)
	p.addIntervals(&want.Set, missing)
}

// apart returns what only one of two sorted lists has.
func apart(a, b []nftset.Interval) (onlyA, onlyB []nftset.Interval) {
	for len(a) > 0 || len(b) > 0 {
		switch {
		case len(b) == 0 || len(a) > 0 && a[0].Compare(b[0]) < 0:
			onlyA, a = append(onlyA, a[0]), a[1:]
		case len(a) == 0 || a[0].Compare(b[0]) > 0:
			onlyB, b = append(onlyB, b[0]), b[1:]
		default:
			a, b = a[1:], b[1:]
		}
	}
	return onlyA, onlyB
}

// stuck says what a set keeps that it should not, and what follows.
func stuck(have *nftset.Set, want *Set) string {
	if !sameTimeout(have.Timeout, want.Timeout) {
		return fmt.Sprintf("set %s keeps the timeout %s: this kernel does not change that of a live set (new bans get %s all the same)",
			have.Name, nftDuration(have.Timeout), nftDuration(want.Timeout))
	}
	return fmt.Sprintf("set %s keeps the size %d instead of %d: this kernel does not change that of a live set",
		have.Name, have.Size, want.Size)
}

func (p *Plan) diffChains(s *State) {
	// All rules go before any chain, and chains come before any rule: chains are deleted only when nothing leads to them.
	var stale []*Chain
	rebuild := make(map[string]bool)
	for i := range p.Table.Chains {
		c := &p.Table.Chains[i]
		have := s.chain(c.Name)
		moved := have != nil && !sameHook(c.Hook, have)
		if have == nil || moved || !c.matches(p.Table.Family, have.Rules) {
			stale = append(stale, c)
			rebuild[c.Name] = moved
			if have != nil && len(have.Rules) > 0 {
				p.flushChain(c.Name)
			}
		}
	}
	var foreign []string // chains of an older portmon
	for _, have := range s.Chains {
		if p.Table.chain(have.Name) == nil {
			foreign = append(foreign, have.Name)
			if len(have.Rules) > 0 {
				p.flushChain(have.Name)
			}
		}
	}
	for _, c := range stale {
		if rebuild[c.Name] {
			p.deleteChain(c.Name) // the kernel changes neither hook nor priority of a chain
		}
		if rebuild[c.Name] || s.chain(c.Name) == nil {
			p.addChain(c)
		}
	}
	for _, c := range stale {
		p.addRules(c)
	}
	for _, name := range foreign {
		p.deleteChain(name)
	}
}

// dropSets deletes what the table no longer needs. Sets of bans are only left out of a Table once they are empty; those that
// portmon does not know are somebody's own and stay.
func (p *Plan) dropSets(s *State) {
	for i := range s.Sets {
		have := &s.Sets[i]
		if p.Table.set(have.Name) != nil {
			continue
		}
		_, _, ban := tierOf(have.Name)
		if ban || have.Name == families[0].hits() || have.Name == families[1].hits() {
			p.deleteSet(have)
		}
	}
}

// liftWhitelisted takes back the bans of sources that are whitelisted as a whole; the packet path would not heed them anyway.
func (p *Plan) liftWhitelisted(s *State, c Contents) {
	for _, b := range c.Bans {
		if p.whitelisted(b) {
			p.Lifted = append(p.Lifted, b)
		}
	}
	p.discard("bans of whitelisted sources", s, p.Lifted)
}

func (p *Plan) whitelisted(b Ban) bool {
	w := p.Table.set(familyOf(b.From.Type()).whitelist())
	iv, ok := nftset.Find(w.Elements, b.From)
	return ok && iv.Covers(b.Interval)
}

// rekey moves the bans of IPv6 sources by the old prefix length to the set of prefixes: as keys of the new length they would mean
// something else, or nothing. That set takes no overlaps, so bans that overlap become one, which lasts as long as the longest.
//
// They get there ahead of the transaction that takes them out of the tiers. The kernel (seen on 6.18) makes a new generation of
// elements visible first and a changed interval set a moment later; in between, what moves would be in neither.
func (p *Plan) rekey(s *State, c Contents) {
	bans := slices.DeleteFunc(slices.Clone(c.Bans), func(b Ban) bool { return b.From.Type() != nftset.IPv6Addr || p.whitelisted(b) })
	slices.SortStableFunc(bans, func(a, b Ban) int { return a.Compare(b.Interval) })
	var fromNet, toNet, fromTiers []Ban
	for n := 0; len(bans) > 0; bans = bans[n:] {
		one := bans[0]
		for n = 1; n < len(bans) && bans[n].From.Compare(one.To) <= 0; n++ {
			one = one.join(bans[n])
		}
		there := false
		for _, b := range bans[:n] {
			switch {
			case b.Tier > 0:
				fromTiers = append(fromTiers, b)
			case b.Interval == one.Interval && sameExpiry(b.Expires, one.Expires):
				there = true
			default:
				fromNet = append(fromNet, b)
			}
		}
		if !there {
			toNet = append(toNet, one)
		}
	}

	const what = "bans by the old prefix length"
	start := len(p.ops)
	p.discard(what, s, fromNet) // before what overlaps it comes
	p.addBans(what, &p.Table.set(families[1].net()).Set, toNet)
	if s.Set(families[1].net()) != nil {
		for i := range p.ops[start:] {
			p.ops[start+i].ahead = true
		}
	}
	p.discard(what, s, fromTiers)
}

// sameExpiry allows for the time that reading takes, which [State.allBans] allows for as well but for the kernel's own delays.
func sameExpiry(a, b time.Duration) bool {
	return (a-b).Abs() <= time.Second && (a == 0) == (b == 0)
}

// join returns the ban of all that is between two bans, for the longer of their times.
func (b Ban) join(o Ban) Ban {
	if b.To.Compare(o.To) < 0 {
		b.To = o.To
	}
	if b.Expires != 0 && (o.Expires == 0 || o.Expires > b.Expires) {
		b.Timeout, b.Expires, b.Comment = o.Timeout, o.Expires, o.Comment
	}
	return b
}

// sameTimeout allows for the ticks that the kernel rounds to, 10 ms at most.
func sameTimeout(have, want time.Duration) bool {
	return (have-want).Abs() <= 10*time.Millisecond && (have == 0) == (want == 0)
}

func sameHook(want *Hook, have *ChainState) bool {
	if want == nil || have.Hook == nil {
		return want == nil && have.Hook == nil
	}
	return have.Plain && want.Number == have.Hook.Number && want.Priority == have.Hook.Priority
}
