package fleet

import (
	"maps"
	"slices"
	"time"

	"github.com/portmon/portmon/internal/fleet/wire"
	"github.com/portmon/portmon/internal/text"
)

// Status is how a host fares in its fleet.
type Status struct {
	Host string `json:"host"`
	// Off reports that the bans of the fleet are not in force here.
	Off bool `json:"off,omitempty"`
	// Connected is whether there is a connection to a hub, and Since when that
	// changed last; Heard is when a hub has answered last, and Error why not now.
	Connected bool      `json:"connected"`
	Since     time.Time `json:"since,omitzero"`
	Heard     time.Time `json:"heard,omitzero"`
	Error     string    `json:"error,omitempty"`
	// Standing is what the hub thinks of the host, and Reason why.
	Standing wire.Standing `json:"standing,omitempty"`
	Reason   string        `json:"reason,omitempty"`
	Hosts    int           `json:"hosts"`
	Quorum   int           `json:"quorum"`
	// Bans of the fleet are in force. Refused counts those that are not in force
	// here, by reason, and Refusals are some of them.
	Bans     int            `json:"bans"`
	Refused  map[string]int `json:"refused,omitempty"`
	Refusals []Refusal      `json:"refusals,omitempty"`
	// Shared counts sightings that the hub has, Queued those that wait, and
	// Dropped those that found no room.
	Shared  int `json:"shared"`
	Queued  int `json:"queued"`
	Dropped int `json:"dropped"`
	// Peers are hosts that bans are by.
	Peers []Peer `json:"peers,omitempty"`
}

// Peer is another host of the fleet, as far as bans tell.
type Peer struct {
	Host string    `json:"host"`
	Bans int       `json:"bans"` // that it has its part in, since the hub has told of all
	Last time.Time `json:"last"` // when it saw one of them, by the hub's clock
}

// maxPeers bounds the hosts that are remembered.
const maxPeers = 1024

func sortedPeers(peers map[string]*Peer) (sorted []Peer) {
	for _, name := range slices.Sorted(maps.Keys(peers)) {
		sorted = append(sorted, *peers[name])
	}
	return sorted
}

// maxComment is what the kernel keeps with an element, in bytes.
const maxComment = 251

// comment says, in the kernel's own table, who has seen the source of a ban: "2
// hosts: web-1 scan tcp/22 2026-11-28 15:04, web-2 trap tcp/23 2026-11-28 15:03".
func comment(b *wire.Ban) string {
	slices.SortFunc(b.By, func(a, b wire.Report) int { return b.At.Compare(a.At) })
	line := append(make([]byte, 0, maxComment), text.Plural(b.Hosts, "host")...)
	for i := range b.By {
		r, whole := &b.By[i], len(line)
		line = append(line, ": "...)
		if i > 0 {
			line = append(line[:whole], ", "...)
		}
		line = append(append(append(line, r.Host...), ' '), r.Cause...)
		if port := text.Port(r.Proto, r.Port); port != "" {
			line = append(append(line, ' '), port...)
		}
		if line = r.At.UTC().AppendFormat(line, " 2006-01-02 15:04"); len(line) > maxComment {
			line = line[:whole]
			break
		}
	}
	return string(line)
}
