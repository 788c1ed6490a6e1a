// Package replay says what portmon's table would have done with captured
// packets. It passes them to package machine, one machine for each of the
// settings that are compared, and counts the verdicts.
//
// Memory is bounded whatever comes: by the sizes of the sets, and by limits on
// what is learned about the host and remembered of sources.
package replay

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/portmon/portmon/internal/capture"
	"github.com/portmon/portmon/internal/machine"
	"github.com/portmon/portmon/ruleset"
)

// Config says how packets are replayed.
type Config struct {
	Spec ruleset.Spec
	// Open lists ports on which programs listen, whatever the captures show.
	Open []Port
	// Host lists the addresses of the host, if they are known.
	Host []netip.Addr
	// In is the interface on which packets arrived where the captures do not say.
	In string
}

// Port is a port of a protocol.
type Port struct {
	Number uint16
	Proto  uint8
}

// Setting is one of the settings that are compared.
type Setting struct {
	ScanPorts int             `json:"scan_ports"` // 0 is off
	BanTime   []time.Duration `json:"-"`
	Current   bool            `json:"configured"` // it is the one of the configuration
}

// comparedPorts are the values of Scan.Ports that are compared with the
// configured one, the strictest first; 0 is off.
var comparedPorts = []int{1, 3, 5, 10, 0}

// Settings returns the settings that are compared, the configured one first:
// several numbers of ports, each with the first step of the ladder for all
// bans, with the whole ladder, and without its first step.
func Settings(spec ruleset.Spec) (all []Setting) {
	ports := comparedPorts
	if !slices.Contains(ports, spec.Scan.Ports) {
		ports = append([]int{spec.Scan.Ports}, ports...)
		slices.SortFunc(ports, compareScanPorts)
	}
	for _, n := range ports {
		for _, ladder := range ladders(spec.BanTime) {
			current := n == spec.Scan.Ports && slices.Equal(ladder, spec.BanTime)
			all = append(all, Setting{n, ladder, current})
		}
	}
	slices.SortStableFunc(all, func(a, b Setting) int { return btoi(b.Current) - btoi(a.Current) })
	return all
}

// compareScanPorts orders numbers of ports, the strictest first and 0, which is
// off, last.
func compareScanPorts(a, b int) int { return cmp.Compare(uint(a-1), uint(b-1)) }

func ladders(whole []time.Duration) [][]time.Duration {
	if len(whole) == 1 {
		return [][]time.Duration{whole}
	}
	return [][]time.Duration{whole[:1], whole, whole[1:]}
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

// Replay is a replay in progress.
type Replay struct {
	in       string
	settings []Setting
	machines []*machine.Machine
	host     *machine.Host
	bits     [2][]int // lengths of the prefixes that may be banned, of IPv4 and IPv6
	named    bool     // the addresses of the host were given
	guesses  [2]guess // of the addresses of IPv4 and IPv6
	queue    queue
	tally    tally
}

// New returns a replay. It fails if an expression of the table cannot be
// evaluated. The table enforces, even if the configuration says to observe.
func New(c Config) (*Replay, error) {
	r := &Replay{in: c.In, settings: Settings(c.Spec), bits: [2][]int{{32}, {128, c.Spec.Prefix6}}}
	if c.Spec.Subnet4 > 0 {
		r.bits[0] = append(r.bits[0], 24)
	}
	if c.Spec.Subnet6 > 0 {
		r.bits[1] = append(r.bits[1], 48)
	}
	for _, s := range r.settings {
		spec := c.Spec
		spec.Scan.Ports, spec.BanTime, spec.Observe = s.ScanPorts, s.BanTime, false
		m, err := machine.New(ruleset.Compile(spec))
		if err != nil {
			return nil, fmt.Errorf("compile the table of %d ports and %v: %w", s.ScanPorts, s.BanTime, err)
		}
		r.machines = append(r.machines, m)
	}
	r.host = machine.NewHost(r.machines...)
	for _, p := range c.Open {
		r.host.Open(p.Number, p.Proto)
	}
	r.named = len(c.Host) > 0
	for _, a := range c.Host {
		r.host.AddAddr(a)
	}
	r.tally = newTally(len(r.machines), c.Spec.Prefix6)
	return r, nil
}

// Add takes the next packet, in order of time. Its data may change afterwards.
func (r *Replay) Add(p *capture.Packet) {
	if p.In == "" && p.Path != capture.Sent {
		p.In = r.in
	}
	for !r.queue.add(p) {
		r.next()
	}
}

// Finish evaluates the packets that are still held back.
func (r *Replay) Finish() {
	for r.queue.len() > 0 {
		r.next()
	}
}

// lookAhead is how late an answer of the host may come.
const lookAhead = int64(time.Second)

// next evaluates the packet that has waited longest.
func (r *Replay) next() {
	if !r.tally.started {
		if !r.named {
			r.findAddrs()
		}
		r.tally.started = true
	}
	q := r.queue.first()
	for r.queue.ahead < r.queue.last && r.queue.at(r.queue.ahead).now <= q.now+lookAhead {
		r.learn(r.queue.at(r.queue.ahead))
		r.queue.ahead++
	}
	r.pass(q)
	r.queue.drop()
}

// learn notes what a packet that is yet to be evaluated says about the host.
func (r *Replay) learn(q *queued) {
	var p machine.Packet
	if !p.Parse(q.bytes()) {
		return
	}
	switch r.way(q, &p) {
	case capture.Sent:
		r.host.Answers = true
		r.host.Learn(&p)
	case capture.Received:
		if s, ok := p.Service(); ok && q.accepted && p.Opens() {
			r.host.Listen(s, true) // the firewall let it in, and logged that
		}
	}
}

// way returns the direction of a packet. Where the file does not say it, the
// destination is taken for an address of the host, unless those were given.
func (r *Replay) way(q *queued, p *machine.Packet) capture.Path {
	local := p.Dst
	switch q.path {
	case capture.Forwarded, capture.Elsewhere:
		return q.path
	case capture.Sent:
		local = p.Src
	case capture.PathUnknown:
		switch {
		case r.host.IsLocal(p.Src):
			return capture.Sent
		case !isUnicast(p.Dst):
			return capture.Elsewhere
		case r.host.IsLocal(p.Dst):
			return capture.Received
		case !r.named:
			r.guess(p.Dst).assumed++
		}
	}
	switch {
	case r.named && !r.host.IsLocal(local):
		return capture.Elsewhere
	case !r.named && isUnicast(local):
		r.host.AddAddr(local)
	}
	if q.path == capture.PathUnknown {
		return capture.Received
	}
	return q.path
}

// pass takes a packet through the host and counts what becomes of it.
func (r *Replay) pass(q *queued) {
	p := &r.queue.packet
	p.Now, p.In = q.now, q.in
	if !p.Parse(q.bytes()) {
		r.tally.ignored++
		return
	}
	way := r.way(q, p)
	r.tally.see(q, way)
	switch way {
	case capture.Sent:
		r.host.Send(p)
		return
	case capture.Elsewhere:
		r.tally.elsewhere++
		return
	}
	service, ok := p.Service()
	listens := r.host.Listens(service)
	if p.BearsData() && listens {
		r.tally.visit(p.Src, r.bits[btoi(p.Src.Is6())], service)
	}
	unwanted := ok && p.Opens() && r.host.IsLocal(p.Dst) && !listens
	verdicts := r.host.Receive(p)
	r.tally.count(q.now, p, unwanted, verdicts)
	if verdicts[0].Dropped {
		r.tally.drop(p.Src, r.bits[btoi(p.Src.Is6())])
	}
}
