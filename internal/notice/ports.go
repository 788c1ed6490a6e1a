package notice

import (
	"cmp"
	"slices"
	"strings"

	"github.com/portmon/portmon/internal/text"
)

const (
	// maxPorts is how many ports are counted one by one. Who scans chooses
	// them, so there must be an end.
	maxPorts = 4096
	// maxShown is how many are shown.
	maxShown = 5
)

type port struct {
	proto  uint8
	number uint16
}

// portCounts counts offences by port.
type portCounts struct {
	by    map[port]int
	other int // offences at further ports, and at ports not known
}

func (c *portCounts) add(proto uint8, number uint16) {
	p := port{proto, number}
	if _, known := c.by[p]; number == 0 || !known && len(c.by) >= maxPorts {
		c.other++
		return
	}
	if c.by == nil {
		c.by = make(map[port]int)
	}
	c.by[p]++
}

// String returns "tcp port 23 (600), udp port 53 (50), others (7)", the most
// frequent first; "" if no port is known.
func (c *portCounts) String() string {
	if len(c.by) == 0 {
		return ""
	}
	ports := make([]port, 0, len(c.by))
	for p := range c.by {
		ports = append(ports, p)
	}
	slices.SortFunc(ports, func(a, b port) int {
		return cmp.Or(c.by[b]-c.by[a], cmp.Compare(a.number, b.number), cmp.Compare(a.proto, b.proto))
	})
	var parts []string
	other := c.other
	for i, p := range ports {
		if i < maxShown {
			parts = append(parts, portName(p.proto, p.number)+" ("+count(c.by[p])+")")
		} else {
			other += c.by[p]
		}
	}
	if other > 0 {
		parts = append(parts, "others ("+count(other)+")")
	}
	return strings.Join(parts, ", ")
}

// portName returns "tcp port 23", or "" if the port is not known.
func portName(proto uint8, number uint16) string {
	if number == 0 {
		return ""
	}
	return strings.TrimSpace(text.Protocol(proto) + " port " + count(int(number)))
}
