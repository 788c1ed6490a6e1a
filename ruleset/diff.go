package ruleset

import (
	"errors"
	"fmt"
	"slices"
	"time"

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
	Nets map[string][]span
	// Own are the networks of this host that the table knows, sorted.
	Own []nftset.Interval
	// Bans are all bans. They are needed only if the whitelist or the prefix
	// length changed, or subnets are not banned any more.
	Bans []Entry
	// Steps are the elements of steps that the ladder does not have any more,
	// with those of the step that they move to, and all of IPv6 if the prefix
	// length changed.
	Steps []Entry
}

// Diff makes the plan that turns what the kernel holds into the table of a
// Spec. It fails with *ConflictError.
func Diff(spec Spec, f Features, s *State, c Contents) (*Plan, error) {
	m := spec.displaced(s, c)
	asked := Asked{}
	for i, of := range families {
		lifted := 0
		for _, b := range m.lifted {
			if b.Set == of.net() {
				lifted++
			}
		}
		if len(c.Nets[of.net()])-lifted+len(m.toNet[i]) > 0 {
			asked.set(of)
		}
	}
	p, err := diff(spec, f, s, c, m, asked)
	if still := (Asked{asked.Net4 || s.asked().Net4, asked.Net6 || s.asked().Net6}); err == nil && still != asked {
		if same, err := diff(spec, f, s, c, m, still); err == nil {
			p.tidies = same.Empty()
		}
	}
	return p, err
}

// diff is Diff, with what is displaced and what is to be asked.
func diff(spec Spec, f Features, s *State, c Contents, m displacement, asked Asked) (*Plan, error) {
	p := &Plan{Table: Compile(spec, f, asked), generation: s.Generation, Created: !s.Exists}
	if !s.Exists || s.Dormant {
		p.addTable()
		p.ops[0].ahead = s.Dormant // the kernel takes no chain in the transaction that wakes a table
	}
	for _, name := range p.Table.Counters {
		if _, ok := s.Counters[name]; !ok {
			p.addCounter(name)
		}
	}
	replaced := p.replaced(s)
	if len(replaced) > 0 {
		for _, ch := range s.Chains {
			if len(ch.Rules) > 0 {
				p.flushChain(ch.Name)
			}
		}
	}
	p.moveBans(s, c, m)
	if err := p.diffSets(s, c); err != nil {
		return nil, err
	}
	p.learnOwn(spec, c)
	p.diffChains(s, len(replaced) > 0)
	p.moveSteps(spec, s, m)
	p.dropSets(s)
	p.lift(s, m.lifted)
	if p.Created && spec.Grace > 0 {
		p.delayTraps(spec.Grace)
	}
	return p, nil
}

// replaced returns the sets whose contents the Spec gives and that must be made
// anew, because a set cannot be given other flags.
func (p *Plan) replaced(s *State) []*nftset.Set {
	var out []*nftset.Set
	for i := range p.Table.Sets {
		want := &p.Table.Sets[i]
		if have := s.Set(want.Name); have != nil && want.Static && have.Type == want.Type && have.Flags != want.Flags {
			out = append(out, have)
		}
	}
	return out
}

func (p *Plan) diffSets(s *State, c Contents) error {
	var errs []error
	for i := range p.Table.Sets {
		want := &p.Table.Sets[i]
		have := s.Set(want.Name)
		switch {
		case have == nil:
			p.putSet("set "+want.Name, &want.Set)
		case want.Static && have.Type == want.Type && have.Flags != want.Flags:
			p.deleteSet(have)
			p.putSet("set "+want.Name, &want.Set)
			have = nil
		case have.Type != want.Type || have.Flags != want.Flags:
			errs = append(errs, &ConflictError{
				Object: "set " + have.String(),
				Have:   fmt.Sprintf("type %s, flags %s", have.Type, have.Flags),
				Want:   fmt.Sprintf("type %s, flags %s", want.Type, want.Flags),
			})
			continue
		case sameTimeout(have.Timeout, want.Timeout) && have.Size == want.Size:
		case s.Digest == p.Table.Digest:
			// The table was made of this very configuration: the kernel is one
			// that does not change a live set, and asking it again would be in
			// vain.
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

// edit gives a set the elements that it must have. Those that are there already
// are left alone, rather than flushed and added again: in a large set that
// takes a twentieth of the time, and up to Linux 6.12 packets may miss what is
// deleted and added again in one transaction, or be taken for what is beside
// it.
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
		return fmt.Sprintf(
			"set %s keeps the timeout %s: this kernel does not change that of a live set (new bans get %s all the same)",
			have.Name, text.Duration(have.Timeout), text.Duration(want.Timeout))
	}
	return fmt.Sprintf("set %s keeps the size %d instead of %d: this kernel does not change that of a live set",
		have.Name, have.Size, want.Size)
}

// diffChains makes the chains what they must be. flushed is set if they have
// been emptied already.
func (p *Plan) diffChains(s *State, flushed bool) {
	// All rules go before any chain, and chains come before any rule: chains
	// are deleted only when nothing leads to them.
	var stale []*Chain
	rebuild := make(map[string]bool)
	for i := range p.Table.Chains {
		c := &p.Table.Chains[i]
		have := s.chain(c.Name)
		moved := have != nil && !sameHook(c.Hook, have)
		if have == nil || moved || flushed || !c.matches(p.Table.Family, have.Rules) {
			stale = append(stale, c)
			rebuild[c.Name] = moved
			if have != nil && len(have.Rules) > 0 && !flushed {
				p.flushChain(c.Name)
			}
		}
	}
	var foreign []string // chains of an older portmon
	for _, have := range s.Chains {
		if p.Table.chain(have.Name) == nil {
			foreign = append(foreign, have.Name)
			if len(have.Rules) > 0 && !flushed {
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

// dropSets deletes the sets that another configuration needed. Sets that
// portmon never makes belong to someone else and stay.
func (p *Plan) dropSets(s *State) {
	for i := range s.Sets {
		if have := &s.Sets[i]; p.Table.set(have.Name) == nil && isOurs(have.Name) {
			p.deleteSet(have)
		}
	}
}

// isOurs reports whether a configuration could make a set of that name.
func isOurs(set string) bool {
	if role, _ := RoleOf(set); role != RoleNone {
		return true
	}
	for _, f := range families {
		if slices.Contains([]string{
			f.whitelist(), f.cut(), f.crowd(), f.hits(), f.probed(), f.score(), f.served(),
			f.grace(unix.IPPROTO_TCP), f.grace(unix.IPPROTO_UDP),
		}, set) {
			return true
		}
	}
	return slices.Contains([]string{setTrapTCP, setTrapUDP, setIgnoreTCP, setSingle6, setOwn6, setStarting}, set)
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

// learnOwn adds the networks of this host that the table does not know, as far
// as there is room. Those that it knows from offences stay.
func (p *Plan) learnOwn(spec Spec, c Contents) {
	if set := p.Table.set(setOwn6); set != nil {
		_, missing := apart(c.Own, spec.own())
		room := max(0, int(set.Size)-len(c.Own))
		p.addIntervals(&set.Set, missing[:min(room, len(missing))])
	}
}
