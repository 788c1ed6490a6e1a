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

// trapReport is what status and why report about the traps of a table.
type trapReport struct {
	TrapTCP []string `json:"trap_tcp"`
	TrapUDP []string `json:"trap_udp"`
	// ArmedInSeconds is when the traps are armed; 0 if they are.
	ArmedInSeconds seconds `json:"armed_in_seconds,omitempty"`

	traps ruleset.Traps
}

func readTraps(h *ruleset.Handle) (r trapReport, err error) {
	if r.traps, err = h.Traps(); err != nil {
		return r, err
	}
	r.TrapTCP, r.TrapUDP = portTexts(r.traps.TCP), portTexts(r.traps.UDP)
	armed, err := h.ArmedIn()
	r.ArmedInSeconds = seconds(armed)
	return r, err
}

// String lists the ports: "tcp 23, 445, 5900-5910; udp 5060".
func (r trapReport) String() string {
	var all []string
	if len(r.TrapTCP) > 0 {
		all = append(all, "tcp "+strings.Join(r.TrapTCP, ", "))
	}
	if len(r.TrapUDP) > 0 {
		all = append(all, "udp "+strings.Join(r.TrapUDP, ", "))
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

func countPorts(ports []ruleset.Ports) (n int) {
	for _, p := range ports {
		n += int(p.To-p.From) + 1
	}
	return n
}

// listener is a socket that gets packets to a trap port from other hosts. Where
// it does, the port is not a trap.
type listener struct {
	Protocol string   `json:"protocol"`
	Port     uint16   `json:"port"`
	Address  string   `json:"address"`
	Families []string `json:"families"` // of the packets that it gets: ip, ip6
	Device   string   `json:"device,omitempty"`
}

func newListener(s listeners.Socket) listener {
	a := s.Addr.Addr()
	l := listener{s.Proto, s.Addr.Port(), a.String(), []string{"ip6"}, s.Device}
	if a.Is4() {
		l.Families = []string{"ip"}
	} else if a.IsUnspecified() && !s.Only6 {
		l.Families = []string{"ip", "ip6"}
	}
	return l
}

// listenersOn returns the listeners on trap ports, in order.
func listenersOn(traps ruleset.Traps, sockets []listeners.Socket) []listener {
	sockets = slices.SortedFunc(slices.Values(sockets), func(a, b listeners.Socket) int {
		return cmp.Or(
			cmp.Compare(a.Proto, b.Proto), cmp.Compare(a.Addr.Port(), b.Addr.Port()),
			a.Addr.Addr().Compare(b.Addr.Addr()), cmp.Compare(a.Device, b.Device),
		)
	})
	all := []listener{}
	for _, s := range slices.Compact(sockets) { // sockets may share a port
		ports := traps.TCP
		if s.Proto == "udp" {
			ports = traps.UDP
		}
		_, trap := nftset.Find(ports, nftset.PortKey(s.Addr.Port()))
		if trap && !s.Addr.Addr().IsLoopback() && s.Device != "lo" {
			all = append(all, newListener(s))
		}
	}
	return all
}

// onAnyAddress reports whether the listener gets packets to any address.
func (l listener) onAnyAddress() bool { return l.Address == "0.0.0.0" || l.Address == "::" }

// where returns which packets the listener gets: "IPv4 on eth1", "192.0.2.2".
func (l listener) where() string {
	where := l.Address
	if l.onAnyAddress() {
		where = map[string]string{"ip": "IPv4", "ip ip6": "IPv4 and IPv6", "ip6": "IPv6"}[strings.Join(l.Families, " ")]
	}
	if l.Device != "" {
		where += " on " + l.Device
	}
	return where
}

// String returns where the port is not a trap: "tcp 3389 has a listener for
// IPv4 on eth1: not a trap there while it listens".
func (l listener) String() string {
	preposition := "at"
	if l.onAnyAddress() {
		preposition = "for"
	}
	return fmt.Sprintf("%s %d has a listener %s %s: not a trap there while it listens",
		l.Protocol, l.Port, preposition, l.where())
}
