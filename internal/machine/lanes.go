package machine

import (
	"fmt"
	"iter"
	"math/bits"
	"reflect"
	"slices"

	"github.com/google/nftables/expr"

	"github.com/portmon/portmon/ruleset"
)

// lanes are some of the machines of a host, a bit for each. Tables that are
// compared differ in little: what a rule asks of the packet is asked once for
// all of them, and only sets, limits and counters are of one machine.
type lanes uint32

const maxMachines = 32

func (ls lanes) has(lane int) bool { return ls&(1<<lane) != 0 }

func (ls lanes) first() int { return bits.TrailingZeros32(uint32(ls)) }

// when returns the lanes, or none.
func (ls lanes) when(ok bool) lanes {
	if ok {
		return ls
	}
	return 0
}

func (ls lanes) each() iter.Seq[int] {
	return func(yield func(int) bool) {
		for ; ls != 0; ls &= ls - 1 {
			if !yield(bits.TrailingZeros32(uint32(ls))) {
				return
			}
		}
	}
}

// step is a part of a rule. It returns the lanes in which the rule goes on.
type step func(p *Packet, ls lanes) lanes

// rule is a rule of some machines, compiled for a class.
type rule struct {
	lanes   lanes
	steps   []step
	verdict expr.VerdictKind
	to      *chain
}

// source is a rule of some machines, which differ at most in its limits and
// timeouts.
type source struct {
	lanes lanes
	shape string
	of    []*ruleset.Rule // by lane
}

// first returns the rule of the first machine that has it.
func (s *source) first() *ruleset.Rule { return s.of[s.lanes.first()] }

// chain is the chain of one name of all machines: the rules of each are in their
// order.
type chain struct {
	name     string
	priority int32 // of a base chain
	sources  []source
	rules    [len(classes)][]rule
}

// run takes a packet through a chain, in some lanes. In those that it returns
// there is a verdict; the others have come to the end.
func (c *chain) run(p *Packet, ls lanes) (accepted, dropped lanes) {
	rules := c.rules[p.class]
	for i := range rules {
		r := &rules[i]
		matched := ls & r.lanes
		for _, s := range r.steps {
			if matched == 0 {
				break
			}
			matched = s(p, matched)
		}
		if matched == 0 {
			continue
		}
		switch r.verdict {
		case expr.VerdictContinue:
			continue
		case expr.VerdictAccept:
			accepted |= matched
		case expr.VerdictDrop:
			dropped |= matched
		case expr.VerdictGoto, expr.VerdictJump:
			a, d := r.to.run(p, matched)
			accepted, dropped = accepted|a, dropped|d
			if r.verdict == expr.VerdictJump {
				matched = a | d
			}
		}
		if ls &^= matched; ls == 0 {
			break
		}
	}
	return accepted, dropped
}

// merge adds the rules of a machine: to those of others of the same shape, as
// far as the order allows.
func (c *chain) merge(m *Machine, lane int, rules []ruleset.Rule) {
	at := 0
	for i := range rules {
		shape := m.shape(&rules[i])
		if n := slices.IndexFunc(c.sources[at:], func(s source) bool { return s.shape == shape }); n >= 0 {
			at += n
		} else {
			c.sources = slices.Insert(c.sources, at, source{shape: shape, of: make([]*ruleset.Rule, maxMachines)})
		}
		c.sources[at].lanes |= 1 << lane
		c.sources[at].of[lane] = &rules[i]
		at++
	}
}

// shape writes down a rule without its limits and timeouts. A set that no packet
// adds to is known by where it is, see share.
func (m *Machine) shape(r *ruleset.Rule) (all string) {
	for _, e := range r.Exprs {
		switch e := e.(type) {
		case *expr.Limit:
			all += "limit\n"
		case *expr.Dynset:
			d := *e
			d.Timeout, d.Exprs = 0, make([]expr.Any, len(e.Exprs))
			all += fmt.Sprintf("%+v\n", d)
		case *expr.Lookup:
			all += fmt.Sprintf("%+v", *e)
			if s := m.sets[e.SetName]; s != nil && s.isStatic() {
				all += fmt.Sprintf(" %p", s.set)
			}
			all += "\n"
		default:
			all += fmt.Sprintf("%T%+v\n", e, e)
		}
	}
	return all
}

// isStatic reports whether no packet adds to the set.
func (s *Set) isStatic() bool {
	switch s.set.(type) {
	case *bitmap, *intervals:
		return true
	}
	return false
}

// share has the sets of each name of several machines share a store, or be the
// same if no packet adds to them and they are alike.
func share(machines []*Machine) {
	for _, name := range names(machines) {
		short, long := make([]*hash[uint64], len(machines)), make([]*hash[words], len(machines))
		var static []*Set
		for lane, m := range machines {
			s := m.sets[name]
			if s == nil {
				continue
			}
			switch inner := s.set.(type) {
			case *hash[uint64]:
				short[lane] = inner
			case *hash[words]:
				long[lane] = inner
			default:
				if i := slices.IndexFunc(static, func(o *Set) bool { return reflect.DeepEqual(o.set, inner) }); i >= 0 {
					s.set = static[i].set
				}
				static = append(static, s)
			}
		}
		newStore(short...)
		newStore(long...)
	}
	for lane, m := range machines {
		for name, c := range m.counters {
			if i := slices.IndexFunc(machines, func(o *Machine) bool { return o.counters[name] != nil }); i < lane {
				c.by = machines[i].counters[name].by
			}
			c.lane = lane
		}
	}
}

func names(machines []*Machine) (all []string) {
	for _, m := range machines {
		all = append(all, m.names...)
	}
	slices.Sort(all)
	return slices.Compact(all)
}
