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

// Sets and chains whose names a packet's fate depends on. They are part of
// portmon's interface.
const (
	setTrapTCP   = "trap_tcp"
	setTrapUDP   = "trap_udp"
	setIgnoreTCP = "ignore_tcp" // there if scans count
	setStarting  = "starting"   // holds the protocols whose traps are not armed yet
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
func readTraps(c *nftset.Conn, h *ruleset.Handle) (ports traps, err error) {
	ports.tcp, err = readPorts(c, h, setTrapTCP)
	if err == nil {
		ports.udp, err = readPorts(c, h, setTrapUDP)
	}
	return ports, err
}

// readPorts reads a set of ports, in order and with neighbours joined. There is
// nothing in one that is not there.
func readPorts(c *nftset.Conn, h *ruleset.Handle, name string) ([]nftset.Interval, error) {
	set := h.Set(name)
	if set == nil {
		return nil, nil
	}
	var ports []nftset.Interval
	for el, err := range c.Elements(set) {
		if err != nil {
			return nil, err
		}
		ports = append(ports, el.Interval)
	}
	return nftset.Merge(ports), nil
}

// of returns the trap ports of a protocol.
func (t traps) of(proto string) []nftset.Interval {
	if proto == "udp" {
		return t.udp
	}
	return t.tcp
}

// String names the ports: "tcp 23, 445, 5900-5910; udp 5060".
func (t traps) String() string {
	var all []string
	for _, proto := range []string{"tcp", "udp"} {
		if ports := t.of(proto); len(ports) > 0 {
			all = append(all, proto+" "+strings.Join(portTexts(ports), ", "))
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

func hasPort(ports []nftset.Interval, port uint16) bool {
	_, ok := nftset.Find(ports, nftset.PortKey(port))
	return ok
}

func countPorts(ports []ruleset.Ports) (n int) {
	for _, p := range ports {
		n += int(p.To-p.From) + 1
	}
	return n
}

// listener is a program that takes packets to a trap port from elsewhere. Where
// it does, the port is not a trap.
type listener listeners.Socket

// served returns the listeners on trap ports, in order.
func (t traps) served(sockets []listeners.Socket) []listener {
	var all []listener
	for _, s := range sockets {
		if hasPort(t.of(s.Proto), s.Addr.Port()) && !s.Addr.Addr().IsLoopback() && s.Device != "lo" {
			all = append(all, listener(s))
		}
	}
	slices.SortFunc(all, func(a, b listener) int {
		return cmp.Or(
			cmp.Compare(a.Proto, b.Proto), cmp.Compare(a.Addr.Port(), b.Addr.Port()),
			a.Addr.Addr().Compare(b.Addr.Addr()), cmp.Compare(a.Device, b.Device),
		)
	})
	return slices.Compact(all) // sockets may share a port
}

// families returns the families of the packets that the listener takes.
func (l listener) families() []string {
	switch a := l.Addr.Addr(); {
	case a.Is4():
		return []string{"ip"}
	case a.IsUnspecified() && !l.Only6:
		return []string{"ip", "ip6"}
	}
	return []string{"ip6"}
}

// where says which packets the listener takes: "IPv4 on eth1", "192.0.2.2".
func (l listener) where() string {
	where := l.Addr.Addr().String()
	if l.Addr.Addr().IsUnspecified() {
		where = map[string]string{"ip": "IPv4", "ip6": "IPv6"}[l.families()[0]]
		if len(l.families()) > 1 {
			where = "IPv4 and IPv6"
		}
	}
	if l.Device != "" {
		where += " on " + l.Device
	}
	return where
}

// String says where the trap is none: "tcp 3389 has a listener for IPv4 on
// eth1, and is not a trap there while it listens".
func (l listener) String() string {
	preposition := "at"
	if l.Addr.Addr().IsUnspecified() {
		preposition = "for"
	}
	return fmt.Sprintf("%s %d has a listener %s %s: not a trap there while it listens", l.Proto, l.Addr.Port(), preposition, l.where())
}
