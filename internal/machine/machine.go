package machine

import (
	"fmt"
	"iter"

	"github.com/portmon/portmon/nftset"
	"github.com/portmon/portmon/ruleset"
)

// Machine evaluates a table.
type Machine struct {
	chains   []ruleset.Chain
	sets     map[string]*Set
	names    []string // of the sets, in the order of the table
	counters map[string]*counter
}

// Set is a set of a machine.
type Set struct {
	nftset.Set
	set set
}

// New returns a machine for a table. Its sets hold only the elements that the
// configuration has.
func New(t *ruleset.Table) (*Machine, error) {
	m := &Machine{chains: t.Chains, sets: make(map[string]*Set), counters: make(map[string]*counter)}
	for _, name := range t.Counters {
		m.counters[name] = &counter{by: new(counters)}
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
	_, err := compile([]*Machine{m})
	return m, err
}

// Add adds an element to a set, as a program would. Machines on one host share
// the sets that no packet adds to, if they are the same.
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
		return c.by.get(c.lane)
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
