package ruleset

import (
	"time"

	"github.com/portmon/portmon/nftset"
)

// Idle returns why a table that exists drops nothing, "" if it is in force as
// far as that can be seen without its configuration.
func (s *State) Idle() string {
	if s.Dormant {
		return "the table is dormant, and sees no packets"
	}
	for _, name := range []string{chainEarly, chainEarlyOpening, chainEarlyBanned, chainGuard, chainBanned} {
		switch ch := s.chain(name); {
		case ch == nil:
			return "chain " + name + " is missing"
		case len(ch.Rules) == 0:
			return "chain " + name + " has no rules"
		}
	}
	return ""
}

// Ladder returns the durations of the ladder of the table, and how long a step
// is remembered after its ban; nil without a ladder. It is what the packet path
// does, whatever the configuration says by now.
func (s *State) Ladder() (bans []time.Duration, forget time.Duration) {
	f := families[0]
	ban, first := s.Set(f.ban()), s.Set(f.tier(1))
	if ban == nil || first == nil {
		return nil, 0
	}
	forget = first.Timeout - ban.Timeout
	for step := 1; step <= MaxSteps; step++ {
		if set := s.Set(f.tier(step)); set != nil {
			bans = append(bans, set.Timeout-forget)
		}
	}
	return bans, forget
}

// ArmedIn returns in what time the traps are armed; 0 if they are.
func (h *Handle) ArmedIn() (d time.Duration, err error) {
	set := h.Set(setStarting)
	if set == nil {
		return 0, nil
	}
	for el, err := range h.c.Elements(set) {
		if err != nil {
			return 0, err
		}
		d = max(d, el.Remaining)
	}
	return d, nil
}

// Traps are trap ports, in order and with neighbours joined.
type Traps struct{ TCP, UDP []nftset.Interval }

// Traps asks the kernel for the trap ports that are in force.
func (h *Handle) Traps() (t Traps, err error) {
	for name, ports := range map[string]*[]nftset.Interval{setTrapTCP: &t.TCP, setTrapUDP: &t.UDP} {
		set := h.Set(name)
		if set == nil {
			continue
		}
		ivs, err := h.intervals(set)
		if err != nil {
			return t, err
		}
		*ports = nftset.Merge(ivs)
	}
	return t, nil
}

// Traps returns the trap ports of a table that is to be.
func (t *Table) Traps() (ports Traps) {
	if set := t.set(setTrapTCP); set != nil {
		ports.TCP = set.Elements
	}
	if set := t.set(setTrapUDP); set != nil {
		ports.UDP = set.Elements
	}
	return ports
}

// Whitelists reports whether a table that is to be whitelists all of an
// interval of addresses.
func (t *Table) Whitelists(iv nftset.Interval) bool {
	set := t.set(familyOf(iv.From.Type()).whitelist())
	return set != nil && isCovered(set.Elements, iv)
}

// Mode names a mode: "observe" or "enforce".
func Mode(observe bool) string {
	if observe {
		return "observe"
	}
	return "enforce"
}

// Mode returns the mode of the table. One that is not portmon's work is taken to
// enforce.
func (s *State) Mode() string { return Mode(s.Observe) }
