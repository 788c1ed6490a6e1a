package ruleset

import (
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/internal/text"
	"github.com/portmon/portmon/nftset"
)

// ConflictError reports an object of the table that cannot be made what it must
// be without losing it.
type ConflictError struct {
	Object     string // "set inet portmon ban4"
	Have, Want string
}

func (e *ConflictError) Error() string {
	return fmt.Sprintf("%s exists with %s, but it must have %s", e.Object, e.Have, e.Want)
}

// Contents are those elements that a plan depends on.
type Contents struct {
	// Static are the intervals of the sets whose contents the Spec gives, by
	// the name of the set.
	Static map[string][]nftset.Interval
	// Nets are what the sets of prefixes hold, by their name.
	Nets map[string][]nftset.Element
	// Own are the networks of this host that the table knows, sorted.
	Own []nftset.Interval
	// Bans are all bans. They are needed only if the whitelist or the prefix
	// length changed, or subnets are not banned any more.
	Bans []Entry
	// Steps are the elements of steps that the ladder does not have any more,
	// and those of the step that they move to, by the name of the set.
	Steps map[string][]nftset.Element
	// Staying is what stays of what was observed. It is needed only if that is
	// forgotten, and Bans and Steps are not then.
	Staying []Record

	refill map[string][]nftset.Element // what sets that are made anew are to hold, by their names
}

// Diff makes the plan that turns what the kernel holds into the table of a
// Spec. It fails with *ConflictError.
func Diff(spec Spec, s *State, c Contents) (*Plan, error) {
	if spec.forgets(s) {
		c.refill = spec.elements(c.Staying)
		c.Nets, c.Bans, c.Steps = c.refill, nil, nil
	}
	m := spec.displaced(s, c)
	asked := askedNets{}
	for i, of := range families {
		lifted := 0
		for _, b := range m.lifted {
			if b.Set == of.net() {
				lifted++
			}
		}
		if len(c.Nets[of.net()])-lifted+len(m.toNet[i]) > 0 {
			asked[i] = true
		}
	}
	p, err := diff(spec, s, c, m, asked)
	if err == nil && !p.Empty() {
		still := s.asked()
		same, err := diff(spec, s, c, m, askedNets{asked[0] || still[0], asked[1] || still[1]})
		p.tidies = err == nil && same.Empty()
	}
	return p, err
}

// diff is Diff, with what is displaced and what is to be asked.
func diff(spec Spec, s *State, c Contents, m displacement, asked askedNets) (*Plan, error) {
	p := &Plan{Table: compile(spec, asked), Created: !s.Exists, Forgets: spec.forgets(s)}
	p.ahead.Generation, p.rest.Generation = s.Generation, s.Generation
	switch t := p.Table.Table; {
	case !s.Exists:
		p.change("table").AddTable(t)
	case s.Dormant: // the kernel takes no chain in the transaction that wakes a table
		p.note("table")
		p.ahead.AddTable(t)
	}
	if s.Exists && s.Observe != spec.Observe {
		p.note(ChangeMode)
	}
	for _, name := range p.Table.Counters {
		if _, ok := s.Counters[name]; !ok {
			addCounter(p.change("counter "+name), p.Table.Table, name)
		}
	}
	old := s.Chains
	if p.replaces(s) {
		for i := range old {
			if len(old[i].Rules) > 0 {
				flushChain(p.change("rules"), s.Table, old[i].Name)
			}
		}
		old = emptied(old)
	}
	p.moveBans(s, c, m)
	if err := p.diffSets(s, c); err != nil {
		return nil, err
	}
	p.learnOwn(spec, c)
	p.diffChains(old)
	p.moveSteps(len(spec.BanTime), c)
	for i := range s.Sets { // those that another configuration needed; sets that portmon never makes stay
		if have := &s.Sets[i]; p.Table.set(have.Name) == nil && isOurs(have.Name) {
			p.change("set " + have.Name).DeleteSet(have)
		}
	}
	if _, ok := s.Counters[CounterFleet]; ok && !slices.Contains(p.Table.Counters, CounterFleet) {
		deleteCounter(p.change("counter "+CounterFleet), p.Table.Table, CounterFleet)
	}
	p.lift(s, m.lifted)
	if p.Created && spec.Grace > 0 {
		p.delayTraps(spec.Grace)
	}
	return p, nil
}

// emptied returns the chains without their rules.
func emptied(chains []Chain) []Chain {
	chains = slices.Clone(chains)
	for i := range chains {
		chains[i].Rules = nil
	}
	return chains
}

// forgets reports whether what a table has observed is to have no consequence
// now that it drops.
func (s Spec) forgets(have *State) bool { return have.Observe && !s.Observe && !s.KeepObserved }

// reshaped reports whether a set whose contents the Spec gives must be made
// anew, because a set cannot be given other flags.
func (s *Set) reshaped(have *nftset.Set) bool {
	return have != nil && s.Static && have.Type == s.Type && have.Flags != s.Flags
}

// replaces reports whether sets must be made anew, for which no rule may use
// them.
func (p *Plan) replaces(s *State) bool {
	return slices.ContainsFunc(p.Table.Sets, func(want Set) bool { return p.remakes(&want, s.Set(want.Name)) })
}

// remakes reports whether a set must be made anew: it is reshaped, or some of
// what it remembers is to be forgotten. Flushed, it would keep what a packet adds
// to it before the transaction is committed.
func (p *Plan) remakes(want *Set, have *nftset.Set) bool {
	return want.reshaped(have) || p.Forgets && have != nil && remembers(want.Name)
}

// remembers reports whether a set is about what sources have done.
func remembers(set string) bool {
	role, _ := RoleOf(set)
	return role != RoleNone && role != RoleFleet && !role.Allows() || slices.ContainsFunc(families[:], func(f family) bool {
		return slices.Contains([]string{f.cut(), f.crowd(), f.hits(), f.probed(), f.score()}, set)
	})
}

func (p *Plan) diffSets(s *State, c Contents) error {
	var errs []error
	for i := range p.Table.Sets {
		want := &p.Table.Sets[i]
		have := s.Set(want.Name)
		what := "set " + want.Name
		if p.remakes(want, have) {
			if !want.reshaped(have) {
				what = "what was observed"
			}
			p.change(what).DeleteSet(have)
			have = nil
		}
		switch {
		case have == nil:
			p.change(what).AddSet(&want.Set)
			if want.Static {
				p.edit(&want.Set, nil, want.Elements)
			}
			p.rest.Add(&want.Set, c.refill[want.Name]...)
			continue
		case have.Type != want.Type || have.Flags != want.Flags:
			errs = append(errs, &ConflictError{
				Object: "set " + have.String(),
				Have:   fmt.Sprintf("type %s, flags %s", have.Type, have.Flags),
				Want:   fmt.Sprintf("type %s, flags %s", want.Type, want.Flags),
			})
			continue
		}
		switch differing := want.differing(have); {
		case len(differing) == 0:
		case s.Digest == p.Table.Digest:
			// The table was made of this very configuration: the kernel is one
			// that does not change a live set, and asking it again would be in
			// vain.
			p.Stuck = append(p.Stuck, differing...)
		default:
			for _, k := range differing {
				p.note(k.change())
			}
			p.rest.AddSet(&want.Set)
		}
		if want.Static {
			gone, missing := apart(c.Static[want.Name], want.Elements, nftset.Interval.Compare)
			p.edit(&want.Set, gone, missing)
		}
	}
	return errors.Join(errs...)
}

// differing returns which of timeout and size a set of the kernel has otherwise.
func (s *Set) differing(have *nftset.Set) (out []Stuck) {
	if !sameTimeout(have.Timeout, s.Timeout) {
		out = append(out, Stuck{s.Name, "timeout", text.Duration(have.Timeout), text.Duration(s.Timeout)})
	}
	if have.Size != s.Size {
		out = append(out, Stuck{s.Name, "size", fmt.Sprint(have.Size), fmt.Sprint(s.Size)})
	}
	return out
}

// diffChains makes the chains what they must be. All rules go before any chain,
// and chains come before any rule: chains are deleted only when nothing leads
// to them.
func (p *Plan) diffChains(old []Chain) {
	t := p.Table.Table
	stale := make(map[string]bool)
	for _, have := range old {
		want := findChain(p.Table.Chains, have.Name)
		stale[have.Name] = want == nil || !want.same(&have)
		if stale[have.Name] && len(have.Rules) > 0 {
			flushChain(p.change("rules"), t, have.Name)
		}
	}
	for i := range p.Table.Chains {
		c := &p.Table.Chains[i]
		have := findChain(old, c.Name)
		if have != nil && !c.sameHook(have) { // the kernel changes neither hook nor priority of a chain
			deleteChain(p.change("chain "+c.Name), t, c.Name)
			have = nil
		}
		if have == nil {
			stale[c.Name] = true
			addChain(p.change("chain "+c.Name), t, c)
		}
	}
	for _, c := range p.Table.Chains {
		if stale[c.Name] {
			for _, r := range c.Rules {
				addRule(p.change("rules"), t, c.Name, r)
			}
		}
	}
	for _, have := range old { // of an older portmon, or of others
		if findChain(p.Table.Chains, have.Name) == nil {
			deleteChain(p.change("chain "+have.Name), t, have.Name)
		}
	}
}

// isOurs reports whether a configuration could make a set of that name.
func isOurs(set string) bool {
	if role, _ := RoleOf(set); role != RoleNone {
		return true
	}
	for _, f := range families {
		for stage := 1; stage < MaxKnocks; stage++ {
			if set == f.knock(stage) {
				return true
			}
		}
		if slices.Contains([]string{
			f.whitelist(), f.cut(), f.crowd(), f.hits(), f.probed(), f.score(), f.served(),
			f.grace(unix.IPPROTO_TCP), f.grace(unix.IPPROTO_UDP),
		}, set) {
			return true
		}
	}
	return slices.Contains([]string{setTrapTCP, setTrapUDP, setIgnoreTCP, setKnockTCP, setSingle6, setOwn6, setStarting}, set)
}

// learnOwn adds the networks of this host that the table does not know, as far
// as there is room. Those that it knows from offences stay.
func (p *Plan) learnOwn(spec Spec, c Contents) {
	if set := p.Table.set(setOwn6); set != nil {
		_, missing := apart(c.Own, spec.own(), nftset.Interval.Compare)
		room := max(0, int(set.Size)-len(c.Own))
		p.edit(&set.Set, nil, missing[:min(room, len(missing))])
	}
}
