package main

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/portmon/portmon/internal/listeners"
	"github.com/portmon/portmon/nftset"
	"github.com/portmon/portmon/ruleset"
)

// traps are the trap ports.
type traps struct{ tcp, udp []nftset.Interval }

// trapsOf returns the trap ports of a table that is to be.
func trapsOf(t *ruleset.Table) traps {
	var ports traps
	for i := range t.Sets {
		switch t.Sets[i].Name {
		case setTrapTCP:
			ports.tcp = t.Sets[i].Elements
		case setTrapUDP:
			ports.udp = t.Sets[i].Elements
		}
	}
	return ports
}

// readTraps asks the kernel for the trap ports that are in force.
func readTraps(c *nftset.Conn, s *ruleset.State) (traps, error) {
	var ports traps
	for name, into := range map[string]*[]nftset.Interval{setTrapTCP: &ports.tcp, setTrapUDP: &ports.udp} {
		set := s.Set(name)
		if set == nil {
			continue
		}
		for el, err := range c.Elements(set) {
			if err != nil {
				return traps{}, err
			}
			*into = append(*into, el.Interval)
		}
	}
	return ports, nil
}

// String names the ports: "tcp 23, 445, 5900-5910; udp 5060".
func (t traps) String() string {
	var all []string
	for _, proto := range []struct {
		name  string
		ports []nftset.Interval
	}{{"tcp", t.tcp}, {"udp", t.udp}} {
		if len(proto.ports) > 0 {
			all = append(all, proto.name+" "+strings.Join(portTexts(proto.ports), ", "))
		}
	}
	return strings.Join(all, "; ")
}

func portTexts(ports []nftset.Interval) []string {
	texts := make([]string, 0, len(ports)) // [] in JSON, not null
	for _, iv := range ports {
		texts = append(texts, iv.String())
	}
	return texts
}

// count returns how many ports there are.
func count(ports []nftset.Interval) int {
	n := 0
	for _, iv := range ports {
		n += int(iv.To.Port()-iv.From.Port()) + 1
	}
	return n
}

// heard returns the sockets, in order, that take packets to trap ports from elsewhere. There the ports are no traps.
func (t traps) heard(sockets []listeners.Socket) []listeners.Socket {
	sorted := slices.SortedFunc(slices.Values(sockets), func(a, b listeners.Socket) int {
		return cmp.Or(
			cmp.Compare(a.Proto, b.Proto),
			cmp.Compare(a.Addr.Port(), b.Addr.Port()),
			a.Addr.Addr().Compare(b.Addr.Addr()),
		)
	})
	return slices.DeleteFunc(sorted, func(s listeners.Socket) bool {
		ports := t.tcp
		if s.Proto == "udp" {
			ports = t.udp
		}
		_, isTrap := nftset.Find(ports, nftset.PortKey(s.Addr.Port()))
		return !isTrap || s.Addr.Addr().IsLoopback()
	})
}

// hearing says, in a line for each port, which trap ports are none at the moment.
func hearing(heard []listeners.Socket) []string {
	type port struct {
		proto  string
		number uint16
	}
	addrs := make(map[port][]string)
	everywhere := make(map[port]bool)
	var order []port
	for _, s := range heard {
		at := port{s.Proto, s.Addr.Port()}
		if addrs[at] == nil {
			order = append(order, at)
		}
		addrs[at] = append(addrs[at], s.Addr.Addr().String())
		everywhere[at] = everywhere[at] || s.Addr.Addr().IsUnspecified()
	}
	var lines []string
	for _, at := range order {
		if everywhere[at] {
			lines = append(lines, fmt.Sprintf("%s %d has a listener: not a trap while it listens", at.proto, at.number))
		} else {
			lines = append(lines, fmt.Sprintf("%s %d has a listener on %s: not a trap there while it listens",
				at.proto, at.number, strings.Join(addrs[at], ", ")))
		}
	}
	return lines
}
