package config

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/portmon/portmon/ruleset"
)

var errPorts = errors.New(`want a port from 1 to 65535, or a range of ports in quotes such as "5900-5910"`)

// parsePorts reads "22" or "5900-5910". The error says what is allowed and does
// not repeat s.
func parsePorts(s string) (ruleset.Ports, error) {
	first, last, isRange := strings.Cut(s, "-")
	if !isRange {
		last = first
	}
	from, ok1 := parsePort(first)
	to, ok2 := parsePort(last)
	switch {
	case !ok1 || !ok2:
		return ruleset.Ports{}, errPorts
	case to < from:
		return ruleset.Ports{}, fmt.Errorf(`the range is reversed: want "%d-%d"`, to, from)
	}
	return ruleset.Ports{From: from, To: to}, nil
}

// parsePort reads the number of a port, from 1 to 65535, without sign or
// leading zeros.
func parsePort(s string) (uint16, bool) {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || s[0] == '0' {
		return 0, false
	}
	return uint16(n), true
}

// port is an element of a list of ports.
type port struct {
	ruleset.Ports
	value value
}

// ports returns a list of ports, in the order of the file. A port in two
// elements of the list is a fault.
func (r *reader) ports(v value) ([]ruleset.Ports, bool) {
	items, ok := r.list(v, "ports")
	if !ok {
		return nil, false
	}
	var ports []ruleset.Ports
	var good []port
	for _, item := range items {
		p, err := r.port(item)
		if err != nil {
			r.fault(item.place(), "%w", err)
			continue
		}
		ports = append(ports, p)
		good = append(good, port{p, item})
	}
	r.overlaps(good)
	return ports, true
}

func (r *reader) port(v value) (ruleset.Ports, error) {
	switch v.kind {
	case aString:
		return parsePorts(v.text)
	case anInteger:
		n, ok := parseInteger(v.text)
		if !ok || n < 1 || n > 65535 {
			return ruleset.Ports{}, errPorts
		}
		return ruleset.Ports{From: uint16(n), To: uint16(n)}, nil
	case aDate:
		// TOML reads four digits and a hyphen as the beginning of a date.
		if p, err := parsePorts(v.text); err == nil {
			return p, fmt.Errorf("a range of ports needs quotes: %q", v.text)
		}
	}
	return ruleset.Ports{}, fmt.Errorf("%w, not %s", errPorts, v.kind)
}

// overlaps reports every element that has ports of another, at the one further
// down in the file.
func (r *reader) overlaps(ports []port) {
	// In the order of their first ports an overlap shows beside the range that
	// reaches furthest, with one look at each. The sort is stable: of
	// duplicates, the first one in the file stays first.
	slices.SortStableFunc(ports, func(a, b port) int { return cmp.Compare(a.From, b.From) })
	for i, furthest := 1, 0; i < len(ports); i++ {
		p, q := ports[furthest], ports[i]
		if p.To < q.To {
			furthest = i
		}
		if q.From > p.To {
			continue
		}
		if after(p.value.at, q.value.at) {
			p, q = q, p
		}
		if p.Ports == q.Ports {
			r.fault(q.value.place(), "is listed twice, first at %s", position(p.value.at))
		} else {
			r.fault(q.value.place(), "overlaps %s at %s", p.value.source(), position(p.value.at))
		}
	}
}
