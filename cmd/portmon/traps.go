package main

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/portmon/portmon/internal/listeners"
	"github.com/portmon/portmon/internal/text"
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
	for i, ports := range [][]string{r.TrapTCP, r.TrapUDP} {
		if len(ports) > 0 {
			all = append(all, []string{"tcp ", "udp "}[i]+strings.Join(ports, ", "))
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

	where string // "IPv4 on eth1", "192.0.2.2"
}

func newListener(s listeners.Socket) listener {
	a := s.Addr.Addr()
	l := listener{s.Proto, s.Addr.Port(), a.String(), []string{"ip6"}, s.Device, "IPv6"}
	switch {
	case a.Is4():
		l.Families, l.where = []string{"ip"}, "IPv4"
	case a.IsUnspecified() && !s.Only6:
		l.Families, l.where = []string{"ip", "ip6"}, "IPv4 and IPv6"
	}
	if !a.IsUnspecified() {
		l.where = l.Address
	}
	if l.Device != "" {
		l.where += " on " + text.Printable(l.Device)
	}
	return l
}

// listenersOn returns the listeners on trap ports, in order. If the kernel does
// not tell those of a protocol it warns, and an empty list is nil.
func (p *cli) listenersOn(traps ruleset.Traps) []listener {
	ports := map[string][]nftset.Interval{"tcp": traps.TCP, "udp": traps.UDP}
	var sockets []listeners.Socket
	all := []listener{}
	for _, proto := range []string{"tcp", "udp"} {
		if len(ports[proto]) == 0 {
			continue
		}
		found, err := p.listeners(proto)
		if err != nil {
			p.warn("listeners on trap ports are not known: %v", err)
			all = nil
		}
		sockets = append(sockets, found...)
	}
	slices.SortFunc(sockets, func(a, b listeners.Socket) int {
		return cmp.Or(
			cmp.Compare(a.Proto, b.Proto), cmp.Compare(a.Addr.Port(), b.Addr.Port()),
			a.Addr.Addr().Compare(b.Addr.Addr()), cmp.Compare(a.Device, b.Device),
		)
	})
	for _, s := range slices.Compact(sockets) { // sockets may share a port
		_, trap := nftset.Find(ports[s.Proto], nftset.PortKey(s.Addr.Port()))
		if trap && !s.Addr.Addr().IsLoopback() && s.Device != "lo" {
			all = append(all, newListener(s))
		}
	}
	return all
}

// String returns where the port is not a trap: "tcp 3389 has a listener for
// IPv4 on eth1: not a trap there while it listens".
func (l listener) String() string {
	return fmt.Sprintf("%s %d has a listener for %s: not a trap there while it listens", l.Protocol, l.Port, l.where)
}
