package ruleset

import (
	"fmt"
	"strconv"

	"github.com/portmon/portmon/nftset"
)

// Ports is an inclusive range of ports, 1 ≤ From ≤ To ≤ 65535.
type Ports struct{ From, To uint16 }

// String returns "23" or "5900-5910", which is how nft writes it as well.
func (p Ports) String() string {
	if p.From == p.To {
		return strconv.Itoa(int(p.From))
	}
	return fmt.Sprintf("%d-%d", p.From, p.To)
}

// Contains reports whether port lies in the range.
func (p Ports) Contains(port uint16) bool { return p.From <= port && port <= p.To }

// maxSinglePorts is the most ports that are listed one by one. The kernel keeps
// a set of single ports as a bitmap, in which a lookup costs next to nothing;
// in one of intervals it costs some 100 ns.
const maxSinglePorts = 4096

// portSet returns the elements and the flags of a set that holds the ports.
func portSet(ports []Ports) ([]nftset.Interval, nftset.Flags) {
	n := 0
	for _, p := range ports {
		n += int(p.To) - int(p.From) + 1
	}
	var ivs []nftset.Interval
	for _, p := range ports {
		ivs = append(ivs, nftset.Ports(p.From, p.To).Interval)
	}
	ivs = nftset.Merge(ivs)
	if n > maxSinglePorts {
		return ivs, nftset.FlagInterval
	}
	single := make([]nftset.Interval, 0, n)
	for _, iv := range ivs {
		for port := int(iv.From.Port()); port <= int(iv.To.Port()); port++ {
			single = append(single, nftset.Single(nftset.PortKey(uint16(port))).Interval)
		}
	}
	return single, 0
}
