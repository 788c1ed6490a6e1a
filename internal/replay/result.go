package replay

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	"github.com/portmon/portmon/internal/machine"
	"github.com/portmon/portmon/nftset"
)

// Result is what a replay has found.
type Result struct {
	From, To time.Time
	Packets  int
	Ignored  int // packets that are not IP, or fragments
	Disorder int // packets that are earlier than the one before them
	// Interfaces reports that the files say on which interfaces packets arrived.
	Interfaces bool
	// Answers reports that packets of the host were among them, which show where
	// programs listen.
	Answers   bool
	Addrs     []netip.Addr      // of the host
	Certainty Certainty         // of the addresses
	Services  []machine.Service // on which programs listen
	Unwanted  int               // SYNs to closed ports
	Kinds     []KindCount
	Offenders []Offender // those banned most often first
	Unlisted  int        // bans of offenders that there was no room for
	Settings  []SettingResult
	Width     time.Duration // of a moment
	Moments   []Moment
	Sets      []SetResult
}

// KindCount is the number of bans of a kind.
type KindCount struct {
	Kind
	Count int
}

// Offender is a source that the configuration would have banned.
type Offender struct {
	Source      netip.Prefix
	Bans        int
	Kind        Kind // of the last ban
	First, Last time.Time
	Proto       uint8
	Port        uint16 // of the last offence
	// Visits is how many segments with data it sent to services of the host, the
	// last one to VisitPort. If there are any, its ban may be a false alarm.
	Visits    int
	VisitPort uint16
}

// SettingResult is what a setting would have done.
type SettingResult struct {
	Setting
	Offenders, Bans int
	Dropped         int // packets
	DroppedUnwanted int // SYNs to closed ports among them
	Visitors        int // offenders that also used services
}

// Moment is what happened in one part of the time.
type Moment struct {
	Start                   time.Time
	Unwanted, Dropped, Bans int
}

// SetResult is the most elements that a set held at a time.
type SetResult struct {
	Name         string
	Size, Needed int
}

// Result returns what was found. It is called last, after Finish.
func (r *Replay) Result() *Result {
	t := &r.tally
	out := &Result{
		Packets: t.packets, Ignored: t.ignored, Disorder: r.queue.disorder, Interfaces: t.interfaces, Answers: r.host.Answers,
		Addrs: r.host.Addrs(), Certainty: r.certainty(), Services: r.host.Services(), Unwanted: t.unwanted, Unlisted: t.unlisted,
	}
	if t.packets > 0 {
		out.From, out.To = time.Unix(0, t.first), time.Unix(0, t.last)
	}
	for kind, n := range t.bans {
		out.Kinds = append(out.Kinds, KindCount{kind, n})
	}
	slices.SortFunc(out.Kinds, func(a, b KindCount) int { return cmp.Or(cmp.Compare(a.Step, b.Step), cmp.Compare(a.Cause, b.Cause)) })
	for i, s := range r.settings {
		st := t.settings[i]
		out.Settings = append(out.Settings, SettingResult{Setting: s, Bans: st.bans, Dropped: st.dropped, DroppedUnwanted: st.droppedUnwanted})
	}
	r.addOffenders(out)
	out.Width = widths[t.timeline.width]
	out.Moments = t.timeline.moments()
	for s := range r.machines[0].Sets() {
		if n := s.Peak(); s.Flags&nftset.FlagDynamic != 0 && n > 0 {
			out.Sets = append(out.Sets, SetResult{s.Name, int(s.Size), n})
		}
	}
	return out
}

func (r *Replay) addOffenders(out *Result) {
	for addr, by := range r.tally.others {
		_, visited := r.tally.visitors[addr]
		for i := range out.Settings {
			if by&(1<<i) != 0 {
				out.Settings[i].Offenders++
				out.Settings[i].Visitors += btoi(visited)
			}
		}
	}
	for addr, o := range r.tally.offenders {
		v, visited := r.tally.visitors[addr]
		out.Settings[0].Offenders++
		out.Settings[0].Visitors += btoi(visited)
		bits := cmp.Or(o.prefixLen, r.spec.Prefix6)
		out.Offenders = append(out.Offenders, Offender{
			Source: netip.PrefixFrom(addr, bits), Bans: o.bans, Kind: o.kind, First: time.Unix(0, o.first), Last: time.Unix(0, o.last),
			Proto: o.proto, Port: o.port, Visits: int(v.segments), VisitPort: v.port,
		})
	}
	slices.SortFunc(out.Offenders, func(a, b Offender) int {
		return cmp.Or(b.Bans-a.Bans, b.Kind.Step-a.Kind.Step, a.First.Compare(b.First), a.Source.Addr().Compare(b.Source.Addr()))
	})
}
