package replay

import (
	"net/netip"

	"github.com/portmon/portmon/internal/capture"
	"github.com/portmon/portmon/internal/machine"
	"github.com/portmon/portmon/nftset"
	"github.com/portmon/portmon/ruleset"
)

// Bounds of what is remembered of sources.
const (
	maxOffenders = 1 << 16
	maxVisitors  = 1 << 17
)

// tally is what is counted as packets pass.
type tally struct {
	started     bool
	first, last int64 // when the first packet came, and the last
	packets     int
	ignored     int // packets that no rule sees
	elsewhere   int // packets that are neither from nor to the host
	sent        int
	unwanted    int  // SYNs to ports on which nobody listens
	interfaces  bool // the interface of some packets is known

	settings  []settingTally
	bans      map[Kind]int // by the configuration
	offenders map[netip.Addr]*offender
	lengths   [129]bool             // of the prefixes that offended
	prefix6   int                   // the length by which the configuration bans IPv6
	others    map[netip.Addr]uint32 // the sources that other settings ban, a bit for each setting
	unlisted  int                   // bans of offenders that there was no room for
	visitors  map[netip.Addr]visits
	timeline  timeline
}

// settingTally is what one setting did.
type settingTally struct {
	droppedUnwanted, dropped, bans int
}

// Kind is a kind of ban: its step, 0 for that of a subnet, and its cause.
type Kind struct {
	Step  int           `json:"tier,omitempty"`
	Cause ruleset.Cause `json:"cause"`
}

// offender is a source that the configuration would have banned.
type offender struct {
	bans        int
	dropped     int  // packets
	kind        Kind // of the last ban
	first, last int64
	proto       uint8
	port        uint16 // of the last offence
	prefixLen   int
}

// visits counts how often a source sent data to services of the host.
type visits struct {
	segments uint32
	port     uint16 // of the last
}

func newTally(settings, prefix6 int) tally {
	return tally{
		prefix6:  prefix6,
		settings: make([]settingTally, settings), bans: make(map[Kind]int),
		offenders: make(map[netip.Addr]*offender), others: make(map[netip.Addr]uint32), visitors: make(map[netip.Addr]visits),
	}
}

func (t *tally) see(q *queued, way capture.Path) {
	if t.packets == 0 {
		t.first = q.now
	}
	t.last = q.now
	t.packets++
	t.interfaces = t.interfaces || q.in != "" && q.in != "lo" // which even captures of "any" tell
	if way == capture.Sent {
		t.sent++
	}
}

// visit notes that a source has sent data to a service. A ban may be of any of
// the prefixes of these lengths, the longest first.
func (t *tally) visit(src netip.Addr, bits []int, s machine.Service) {
	var last netip.Addr
	for _, n := range bits {
		p, _ := src.Prefix(n) // n is of a valid Spec
		v, ok := t.visitors[p.Addr()]
		if p.Addr() != last && (ok || len(t.visitors) < maxVisitors) {
			t.visitors[p.Addr()] = visits{v.segments + 1, s.Port()}
		}
		last = p.Addr()
	}
}

// count notes what became of a packet that arrived.
func (t *tally) count(now int64, p *machine.Packet, unwanted bool, verdicts []machine.Verdict) {
	t.unwanted += btoi(unwanted)
	for i := range verdicts {
		v, s := &verdicts[i], &t.settings[i]
		if v.Dropped {
			s.dropped++
			s.droppedUnwanted += btoi(unwanted)
		}
		if v.Set != "" && v.Log != "" {
			s.bans++
			t.ban(now, i, p, v)
		}
	}
	main := &verdicts[0]
	t.timeline.add(now, moment{unwanted: btoi(unwanted), dropped: btoi(unwanted && main.Dropped), bans: btoi(main.Set != "" && main.Log != "")})
}

// ban notes the ban of a source by a setting.
func (t *tally) ban(now int64, setting int, p *machine.Packet, v *machine.Verdict) {
	key := v.Ban.Addr()
	if setting != 0 {
		if by, ok := t.others[key]; ok || len(t.others) < maxOffenders {
			t.others[key] = by | 1<<setting
		}
		return
	}
	cause, step, _ := ruleset.ParseLogPrefix(v.Log)
	kind := Kind{step, cause}
	t.bans[kind]++
	o := t.offenders[key]
	switch {
	case o != nil:
	case len(t.offenders) >= maxOffenders:
		t.unlisted++
		return
	default:
		o = new(offender)
		t.offenders[key] = o
	}
	if o.bans++; o.bans == 1 {
		o.first = now
	}
	o.last, o.kind, o.proto = now, kind, p.Proto
	s, _ := p.Service()
	o.port = s.Port()
	role, _ := ruleset.RoleOf(v.Set)
	o.prefixLen = t.prefixLen(v.Ban, role, p.Src)
	t.lengths[o.prefixLen] = true
}

// drop notes that a packet of a source was dropped. It counts for the narrowest
// of the prefixes of these lengths that offended.
func (t *tally) drop(src netip.Addr, bits []int) {
	for _, n := range bits {
		if !t.lengths[n] {
			continue
		}
		p, _ := src.Prefix(n) // n is of a valid Spec
		if o := t.offenders[p.Addr()]; o != nil && o.prefixLen == n {
			o.dropped++
			return
		}
	}
}

// prefixLen returns how many bits of a source the key of a ban covers.
func (t *tally) prefixLen(key nftset.Key, role ruleset.Role, src netip.Addr) int {
	switch {
	case role == ruleset.RoleSubnet && src.Is4():
		return 24
	case role == ruleset.RoleSubnet:
		return 48
	case key.Addr() == src:
		return src.BitLen()
	}
	return t.prefix6
}
