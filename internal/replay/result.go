package replay

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	"github.com/portmon/portmon/internal/machine"
	"github.com/portmon/portmon/internal/text"
	"github.com/portmon/portmon/nftset"
	"github.com/portmon/portmon/ruleset"
)

// Result is what a replay has found. Its JSON is that of `portmon replay --json`.
type Result struct {
	Version   int       `json:"version"`
	From      time.Time `json:"from"`
	To        time.Time `json:"to"`
	Packets   int       `json:"packets"`
	Ignored   int       `json:"ignored_packets"`    // packets that are not IP, or fragments
	Elsewhere int       `json:"other_packets"`      // packets that are neither from nor to the host
	Disorder  int       `json:"disordered_packets"` // packets that are earlier than the one before them
	// Interfaces reports that the files say on which interfaces packets arrived.
	Interfaces bool `json:"-"`
	// Answers reports that packets of the host were among them, which show where
	// programs listen.
	Answers    bool              `json:"answers_seen"`
	Addrs      []netip.Addr      `json:"addresses"`           // of the host
	Certainty  Certainty         `json:"addresses_certainty"` // of the least certain one
	certainty  [2]Certainty      // of IPv4 and IPv6
	Uncertain  []netip.Addr      `json:"uncertain_addresses"`  // those of a family of which there were too few packets
	Services   []machine.Service `json:"listeners"`            // on which programs listen
	Unwanted   int               `json:"syns_to_closed_ports"` // SYNs to closed ports
	Configured SettingResult     `json:"-"`
	Settings   []SettingResult   `json:"settings"` // the strictest first
	Kinds      []KindCount       `json:"bans"`
	// HeldBack and Full are offences whose packets were dropped, but that led to no
	// ban: there were too many at a time, or a set had no room. Uncounted are packets
	// to closed ports of which too many came at a time to count as offences.
	HeldBack  uint64       `json:"held_back"`
	Full      uint64       `json:"full"`
	Uncounted uint64       `json:"uncounted"`
	Offenders []Offender   `json:"offenders"`        // those of whom most packets were dropped first
	Unlisted  int          `json:"unlisted_bans"`    // bans of offenders that there was no room for
	Width     text.Seconds `json:"interval_seconds"` // of a moment
	Moments   []Moment     `json:"intervals"`
	Sets      []SetResult  `json:"sets"`
}

// KindCount is the number of bans of a kind.
type KindCount struct {
	Kind
	Count int `json:"bans"`
}

// Offender is a source that the configuration would have banned.
type Offender struct {
	Source   Source    `json:"source"`
	Bans     int       `json:"bans"`
	Dropped  int       `json:"dropped_packets"`
	Kind               // of the last ban
	First    time.Time `json:"first_ban"`
	Last     time.Time `json:"last_ban"`
	Protocol string    `json:"last_protocol"`
	Port     uint16    `json:"last_port"` // of the last offence
	// Visits is how many segments with data it sent to services of the host, the
	// last one to VisitPort. If there are any, its ban may be a false alarm.
	Visits    int    `json:"visits,omitempty"`
	VisitPort uint16 `json:"last_visited_port,omitempty"`
}

// Source is a prefix that is written as an address if it is one.
type Source struct{ netip.Prefix }

func (s Source) String() string { return text.Prefix(s.Prefix) }

// MarshalText implements [encoding.TextMarshaler].
func (s Source) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// SettingResult is what a setting would have done.
type SettingResult struct {
	Setting
	BanTimeSeconds  []text.Seconds `json:"bantime_seconds"`
	DroppedUnwanted int            `json:"dropped_syns"` // SYNs to closed ports among Dropped
	Dropped         int            `json:"dropped_packets"`
	Bans            int            `json:"bans"`
	Offenders       int            `json:"offenders"`
	Visitors        int            `json:"offenders_using_services"`
}

// Moment is what happened in one part of the time.
type Moment struct {
	Start    time.Time `json:"start"`
	Unwanted int       `json:"syns_to_closed_ports"`
	Dropped  int       `json:"dropped_syns"`
	Bans     int       `json:"bans"`
}

// SetResult is the most elements that a set held at a time.
type SetResult struct {
	Name   string `json:"name"`
	Size   int    `json:"size"`
	Needed int    `json:"needed"`
}

// CertaintyOf returns how well an address of the host is known.
func (r *Result) CertaintyOf(a netip.Addr) Certainty { return r.certainty[btoi(a.Is6())] }

// Result returns what was found. It is called last, after Finish.
func (r *Replay) Result() *Result {
	t := &r.tally
	out := &Result{
		Version: 1, Packets: t.packets, Ignored: t.ignored, Elsewhere: t.elsewhere, Disorder: r.queue.disorder, Interfaces: t.interfaces, Answers: r.host.Answers,
		From: timeOf(t.first), To: timeOf(t.last), Addrs: append([]netip.Addr{}, r.host.Addrs()...), Uncertain: []netip.Addr{}, Services: append([]machine.Service{}, r.host.Services()...),
		Unwanted: t.unwanted, Kinds: []KindCount{}, Offenders: []Offender{}, Unlisted: t.unlisted,
		Width: text.Seconds(widths[t.timeline.width]), Moments: append([]Moment{}, t.timeline.moments()...), Sets: []SetResult{},
	}
	out.certainty = [2]Certainty{r.certainty(netip.IPv4Unspecified()), r.certainty(netip.IPv6Unspecified())}
	for _, a := range out.Addrs {
		how := out.CertaintyOf(a)
		out.Certainty = max(out.Certainty, how)
		if how == Uncertain {
			out.Uncertain = append(out.Uncertain, a)
		}
	}
	main := r.machines[0]
	for name, n := range map[string]*uint64{
		ruleset.CounterHeldBack: &out.HeldBack, ruleset.CounterFull: &out.Full, ruleset.CounterUncounted: &out.Uncounted,
	} {
		*n = main.Counter(name).Packets
	}
	for kind, n := range t.bans {
		out.Kinds = append(out.Kinds, KindCount{kind, n})
	}
	slices.SortFunc(out.Kinds, func(a, b KindCount) int { return cmp.Or(cmp.Compare(a.Step, b.Step), cmp.Compare(a.Cause, b.Cause)) })
	for i, s := range r.settings {
		st := t.settings[i]
		set := SettingResult{Setting: s, Bans: st.bans, Dropped: st.dropped, DroppedUnwanted: st.droppedUnwanted}
		for _, d := range s.BanTime {
			set.BanTimeSeconds = append(set.BanTimeSeconds, text.Seconds(d))
		}
		out.Settings = append(out.Settings, set)
	}
	r.addOffenders(out)
	out.Configured = out.Settings[0]
	slices.SortFunc(out.Settings, func(a, b SettingResult) int {
		return cmp.Or(compareScanPorts(a.ScanPorts, b.ScanPorts), slices.Compare(a.BanTime, b.BanTime))
	})
	for s := range main.Sets() {
		if n := s.Peak(); s.Flags&nftset.FlagDynamic != 0 && n > 0 {
			out.Sets = append(out.Sets, SetResult{s.Name, int(s.Size), n})
		}
	}
	return out
}

// timeOf returns the time at which a packet came, to the second.
func timeOf(now int64) time.Time { return time.Unix(0, now).UTC().Truncate(time.Second) }

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
		out.Offenders = append(out.Offenders, Offender{
			Source: Source{netip.PrefixFrom(addr, o.prefixLen)}, Bans: o.bans, Dropped: o.dropped, Kind: o.kind, First: timeOf(o.first), Last: timeOf(o.last),
			Protocol: text.Protocol(o.proto), Port: o.port, Visits: int(v.segments), VisitPort: v.port,
		})
	}
	slices.SortFunc(out.Offenders, func(a, b Offender) int {
		return cmp.Or(b.Dropped-a.Dropped, b.Bans-a.Bans, b.Step-a.Step, a.First.Compare(b.First), a.Source.Addr().Compare(b.Source.Addr()))
	})
}
