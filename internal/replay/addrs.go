package replay

import (
	"net/netip"

	"github.com/portmon/portmon/internal/capture"
	"github.com/portmon/portmon/internal/machine"
)

// Certainty is how well the addresses of the host are known.
type Certainty uint8

// The certainties.
const (
	Certain   Certainty = iota // they were given, or the file has them
	Guessed                    // they are those that talk to the most others
	Uncertain                  // there were too few others to tell
)

func (c Certainty) String() string { return [...]string{"certain", "guessed", "uncertain"}[c] }

// MarshalText implements [encoding.TextMarshaler].
func (c Certainty) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

// guess counts the addresses of a family that were guessed.
type guess struct {
	found   int // those that talk to many others
	assumed int // those that are less certain
}

// guess returns the guess of the family of an address.
func (r *Replay) guess(a netip.Addr) *guess { return &r.guesses[btoi(a.Is6())] }

func (r *Replay) certainty(a netip.Addr) Certainty {
	switch g := r.guess(a); {
	case r.named || g.found+g.assumed == 0:
		return Certain
	case g.found < g.assumed:
		return Uncertain
	}
	return Guessed
}

// manyPeers is how many peers show that an address is the host's.
const manyPeers = 3

func isUnicast(a netip.Addr) bool {
	return !a.IsMulticast() && !a.IsUnspecified() && a != netip.AddrFrom4([4]byte{255, 255, 255, 255})
}

// peer counts the SYNs that an address has had from another one, and the
// answers.
type peer struct{ asked, refused, accepted int }

// scanned reports whether the other address scans: fewer of its SYNs were
// accepted than a client's would be.
func (p *peer) scanned() bool { return max(p.asked, p.refused) > 2*p.accepted }

// findAddrs finds the addresses of the host among the first packets: those that
// talk to the most others, or were scanned. A scanner's address is none.
func (r *Replay) findAddrs() {
	peers := make(map[netip.Addr]map[netip.Addr]*peer)
	of := func(a, b netip.Addr) *peer {
		if peers[a] == nil {
			peers[a] = make(map[netip.Addr]*peer)
		}
		if peers[a][b] == nil {
			peers[a][b] = new(peer)
		}
		return peers[a][b]
	}
	for i := r.queue.next; i < r.queue.last; i++ {
		var p machine.Packet
		q := r.queue.at(i)
		if q.path != capture.PathUnknown || !p.Parse(q.bytes()) || !isUnicast(p.Dst) || !isUnicast(p.Src) {
			continue
		}
		of(p.Dst, p.Src).asked += btoi(p.Opens())
		listens, ok := p.Answer()
		own := of(p.Src, p.Dst)
		own.accepted += btoi(ok && listens)
		own.refused += btoi(ok && !listens)
	}
	scanned := make(map[netip.Addr]bool)
	for a, with := range peers {
		for b, p := range with {
			if p.scanned() && !peers[b][a].scanned() {
				scanned[a] = true
				delete(peers[b], a)
			}
		}
	}
	for {
		var host netip.Addr
		for a, with := range peers {
			n := len(with) - len(peers[host])
			if (len(with) >= manyPeers || scanned[a]) && (n > 0 || n == 0 && a.Less(host)) {
				host = a
			}
		}
		if len(peers[host]) == 0 {
			return
		}
		if len(peers[host]) >= manyPeers {
			r.guess(host).found++
		} else {
			r.guess(host).assumed++
		}
		r.host.AddAddr(host)
		for other := range peers[host] {
			delete(peers[other], host)
		}
		delete(peers, host)
	}
}
