package machine

import (
	"fmt"
	"iter"

	"github.com/google/nftables/expr"

	"github.com/portmon/portmon/nftset"
	"github.com/portmon/portmon/ruleset"
)

// Machine evaluates a table.
type Machine struct {
	base     []*chain // in the order of the kernel
	sets     map[string]*Set
	names    []string // of the sets, in the order of the table
	counters map[string]*ruleset.Counter
}

// Set is a set of a machine.
type Set struct {
	nftset.Set
	set set
}

// Added is an element that a packet has added to a set of bans.
type Added struct {
	set *Set
	key words
}

// New returns a machine for a table. Its sets hold only the elements that the
// configuration has.
func New(t *ruleset.Table) (*Machine, error) {
	m := &Machine{sets: make(map[string]*Set), counters: make(map[string]*ruleset.Counter)}
	for _, name := range t.Counters {
		m.counters[name] = new(ruleset.Counter)
	}
	for i := range t.Sets {
		s := &t.Sets[i]
		inner, err := newSet(s)
		if err != nil {
			return nil, err
		}
		m.sets[s.Name] = &Set{s.Set, inner}
		m.names = append(m.names, s.Name)
		for _, iv := range s.Elements {
			if err := m.Add(s.Name, nftset.Element{Interval: iv}, 0); err != nil {
				return nil, err
			}
		}
	}
	if err := m.compile(t.Chains); err != nil {
		return nil, err
	}
	return m, nil
}

// Add adds an element to a set, as a program would.
func (m *Machine) Add(name string, el nftset.Element, now int64) error {
	s := m.sets[name]
	if s == nil {
		return fmt.Errorf("there is no set %q", name)
	}
	return s.set.add(el, now)
}

// Counter returns what a counter of the table has counted.
func (m *Machine) Counter(name string) ruleset.Counter {
	if c := m.counters[name]; c != nil {
		return *c
	}
	return ruleset.Counter{}
}

// Sets returns the sets, in the order of the table.
func (m *Machine) Sets() iter.Seq[*Set] {
	return func(yield func(*Set) bool) {
		for _, name := range m.names {
			if !yield(m.sets[name]) {
				return
			}
		}
	}
}

// Elements returns the elements that have not expired, in no order.
func (s *Set) Elements(now int64) iter.Seq[nftset.Element] { return s.set.elements(now) }

// Peak returns the most elements that the set has held at a time.
func (s *Set) Peak() int {
	switch s := s.set.(type) {
	case *hash[uint64]:
		return s.peak
	case *hash[words]:
		return s.peak
	}
	return 0
}

// Verdict is what a table does with a packet.
type Verdict struct {
	Dropped bool
	Log     string     // the prefix of the message to the log group, "" if there was none
	Set     string     // the set to which the packet added a ban, "" if it added none
	Ban     nftset.Key // the ban
}

// conntrackPriority is NF_IP_PRI_CONNTRACK of
// include/uapi/linux/netfilter_ipv4.h. Before it, no packet has a connection.
const conntrackPriority = -200

// run takes a packet through the base chains before conntrack, or those after
// it, and reports whether it was accepted.
func (m *Machine) run(p *Packet, tracked bool) (accepted bool) {
	for _, c := range m.base {
		if (c.priority > conntrackPriority) == tracked && c.run(p) == expr.VerdictDrop {
			return false
		}
	}
	return true
}

// run returns the verdict of a chain, VerdictContinue at its end.
func (c *chain) run(p *Packet) expr.VerdictKind {
again:
	for i := range c.rules {
		r := &c.rules[i]
		if !r.matches(p) {
			continue
		}
		switch r.verdict {
		case expr.VerdictContinue:
		case expr.VerdictReturn:
			return expr.VerdictContinue
		case expr.VerdictGoto:
			c = r.to
			goto again
		case expr.VerdictJump:
			if v := r.to.run(p); v != expr.VerdictContinue {
				return v
			}
		default:
			return r.verdict
		}
	}
	return expr.VerdictContinue
}

func (r *rule) matches(p *Packet) bool {
	for _, s := range r.steps {
		if !s(p) {
			return false
		}
	}
	return true
}

// verdict returns the verdict, and what the packet has done.
func (p *Packet) verdict(accepted bool) Verdict {
	v := Verdict{Dropped: !accepted, Log: p.logged}
	if s := p.added.set; s != nil {
		v.Set, v.Ban = s.Name, p.added.key.key(s.Type)
	}
	return v
}
