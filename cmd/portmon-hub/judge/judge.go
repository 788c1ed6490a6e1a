// Package judge decides what a fleet bans, by what its hosts have seen. It has
// no clock and no network: two judges that are given the same say the same.
package judge

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"github.com/portmon/portmon/internal/fleet/wire"
	"github.com/portmon/portmon/internal/text"
)

// Tier is how many hosts have to see a source in a fleet from a size on.
type Tier struct{ Size, Reporters int }

// Config is what a judge goes by.
type Config struct {
	Quorum  []Tier          // by size, the first from 0 or 1 on
	Lengths []time.Duration // of bans, by step
	Quota   int             // sources in 24 hours that any host may report
	Never   []netip.Prefix  // are never banned
}

// Default is the configuration of those who want no other.
func Default() Config {
	return Config{
		Quorum:  []Tier{{0, 1}, {4, 2}, {50, 3}},
		Lengths: []time.Duration{time.Hour, 8 * time.Hour, 72 * time.Hour},
		Quota:   1000,
	}
}

const (
	quotaTime = 24 * time.Hour
	// maxPerMinute is how many sightings of a host are no flood, as those of an
	// outage that come at once are not.
	maxPerMinute = 10_000
	// maxSources bounds what is remembered. Those not seen for longest go.
	maxSources = 1 << 18
)

// Decision is a ban, a longer one, or a withdrawal. Its ID is that of any judge
// that decides the same.
type Decision struct {
	Ban wire.Ban
	ID  string
}

// Outcome is what follows from what a judge was told.
type Outcome struct {
	Decisions []Decision
	// Quarantine is why the host in question is quarantined from now on; empty if
	// it is not.
	Quarantine string
	// Ignored is why a sighting does not count; empty if it does.
	Ignored string
}

// Judge knows what was seen. It is not for use by several goroutines at once.
type Judge struct {
	Config
	hosts   map[string]*host
	from    []time.Time // since when each member counts, in order; nil if not known yet
	sources recent[netip.Prefix, *source]
	now     time.Time // of the last sighting

	banned    int // an estimate, of a moment
	countedAt time.Time
}

type host struct {
	name    string
	member  bool
	from    time.Time
	sources recent[netip.Prefix, struct{}] // of 24 hours

	minute time.Time // of its last sighting
	said   int       // sightings in it
}

// source is what was seen of one.
type source struct {
	reports []report
	ban     wire.Ban // the last that was decided, if it has a step
	// forgiven is when somebody lifted its ban: reports until then do not count.
	forgiven time.Time
}

type report struct {
	by        *host
	first, at time.Time
	cause     wire.Cause
	proto     uint8
	port      uint16
}

// New returns a judge who knows nothing yet.
func New(c Config) *Judge {
	return &Judge{Config: c, hosts: make(map[string]*host)}
}

// SetHost tells what is known of a host. Of one that is no member, or is one
// anew, nothing that it said before counts any more, and what others did not say
// as well is withdrawn.
func (j *Judge) SetHost(name string, h *wire.Host) Outcome {
	known := j.hosts[name]
	if known == nil {
		known = &host{name: name}
		j.hosts[name] = known
	}
	member := h != nil && h.Standing == wire.Member
	forget := known.member && (!member || h.From.After(known.from))
	known.member = member
	if member {
		known.from = h.From
	}
	j.from = nil
	if !forget {
		return Outcome{}
	}
	if h != nil && h.Since.After(j.now) {
		j.now = h.Since
	}
	return Outcome{Decisions: j.forget(known)}
}

// forget takes back all that a host said.
func (j *Judge) forget(h *host) (decisions []Decision) {
	h.sources, h.said = recent[netip.Prefix, struct{}]{}, 0
	for e := range j.sources.all() {
		p, s := e.key, e.value
		n := len(s.reports)
		s.reports = slices.DeleteFunc(s.reports, func(r report) bool { return r.by == h })
		if len(s.reports) == n {
			continue
		}
		ban := j.judge(p, s, e.at)
		switch before := s.ban; {
		case before.Step == 0 || before.Lifted || !before.Until().After(j.now):
			continue
		case ban.Step == 0 || !ban.Until().After(j.now):
			ban = before
			ban.Lifted = true
		}
		s.ban = ban
		decisions = append(decisions, Decision{ban, fmt.Sprintf("%s.%d.without-%s.%d", wire.Key(p), ban.Step, h.name, ban.Last.UnixNano())})
	}
	return decisions
}

// Size returns how many members a fleet had at a moment.
func (j *Judge) Size(at time.Time) int {
	if j.from == nil {
		for _, h := range j.hosts {
			if h.member {
				j.from = append(j.from, h.from)
			}
		}
		slices.SortFunc(j.from, time.Time.Compare)
	}
	n, _ := slices.BinarySearchFunc(j.from, at, func(from, at time.Time) int {
		if from.After(at) {
			return 1
		}
		return -1
	})
	return n
}

// QuorumOf returns how many hosts have to see a source in a fleet of a size.
func (c *Config) QuorumOf(size int) int {
	quorum := 1
	for _, t := range c.Quorum {
		if size >= t.Size {
			quorum = t.Reporters
		}
	}
	return quorum
}

// Sighting takes what a host has seen, at the moment when the stream received
// it, and its sequence there. Sightings come in the order of the stream.
func (j *Judge) Sighting(name string, s *wire.Sighting, received time.Time, seq uint64) Outcome {
	if received.After(j.now) {
		j.now = received
	}
	h := j.hosts[name]
	if h == nil || !h.member || received.Before(h.from) {
		return Outcome{Ignored: "standing"}
	}
	if minute := received.Truncate(time.Minute); !minute.Equal(h.minute) {
		h.minute, h.said = minute, 0
	}
	if h.said++; h.said > maxPerMinute {
		return Outcome{Decisions: j.SetHost(name, nil).Decisions, Ignored: "quota",
			Quarantine: fmt.Sprintf("sent more than %d sightings in a minute", maxPerMinute)}
	}
	h.sources.put(s.Source, struct{}{}, received)
	h.sources.prune(j.now.Add(-quotaTime), maxSources)
	if n := h.sources.len(); n > j.Quota {
		if quota := j.quota(h); n > quota {
			return Outcome{Decisions: j.SetHost(name, nil).Decisions, Ignored: "quota",
				Quarantine: fmt.Sprintf("reported more than %s in 24 hours, its quota", text.Plural(quota, "source"))}
		}
	}
	if j.NeverBanned(s.Source) {
		return Outcome{Ignored: "never banned"}
	}
	at := s.When(received)
	oldest := j.now.Add(-wire.MaxAge)
	if at.Before(oldest) {
		return Outcome{Ignored: "too old"}
	}
	j.sources.prune(oldest, maxSources)
	known, ok := j.sources.get(s.Source)
	if !ok {
		known = new(source)
	}
	if !at.After(known.forgiven) {
		return Outcome{Ignored: "forgiven"}
	}
	j.sources.put(s.Source, known, j.now)
	known.add(report{h, at, at, s.Cause, s.Proto, s.Port})
	ban := j.judge(s.Source, known, j.now)
	if ban.Step == 0 || !ban.Until().After(j.now) || !worth(&known.ban, &ban, j.now) {
		return Outcome{}
	}
	known.ban = ban
	return Outcome{Decisions: []Decision{{ban, wire.Key(s.Source) + "." + strconv.Itoa(ban.Step) + "." + strconv.FormatUint(seq, 10)}}}
}

// Forgive has nothing count that was seen of a source until a moment.
func (j *Judge) Forgive(p netip.Prefix, at time.Time) {
	known, ok := j.sources.get(p)
	if !ok {
		known = new(source)
	}
	if !at.After(known.forgiven) {
		return
	}
	known.forgiven = at.UTC()
	known.reports = slices.DeleteFunc(known.reports, func(r report) bool {
		return !r.at.After(at)
	})
	known.ban.Lifted = known.ban.Step > 0
	if at.After(j.now) {
		j.now = at
	}
	j.sources.put(p, known, j.now)
}

// Forgiven returns when the ban of a source was lifted by hand, if it was.
func (j *Judge) Forgiven(p netip.Prefix) time.Time {
	if s, ok := j.sources.get(p); ok {
		return s.forgiven
	}
	return time.Time{}
}

// add notes a report; of each host, the last.
func (s *source) add(r report) {
	i := slices.IndexFunc(s.reports, func(other report) bool { return other.by == r.by })
	if i < 0 {
		s.reports = append(s.reports, r)
		return
	}
	known := &s.reports[i]
	if r.at.After(known.at) {
		r.first = known.first
		*known = r
	} else if r.first.Before(known.first) {
		known.first = r.first
	}
}

// worth reports whether a ban changes so much that all hosts should be told:
// hundreds of them may report a source at once.
func worth(before, ban *wire.Ban, now time.Time) bool {
	return before.Lifted || before.Step < ban.Step || !before.Until().After(now) ||
		ban.Until().Sub(before.Until()) > time.Duration(ban.Length)*time.Second/8
}

// judge returns the ban of a source that was last seen at a moment; without a
// step if there is none.
func (j *Judge) judge(p netip.Prefix, s *source, now time.Time) wire.Ban {
	oldest := now.Add(-wire.MaxAge)
	var last []report // the last of them, latest first
	n, first := 0, now
	for _, r := range s.reports {
		if r.at.Before(oldest) {
			continue
		}
		n++
		if r.first.Before(first) {
			first = r.first
		}
		i, _ := slices.BinarySearchFunc(last, r, func(a, b report) int { return cmp.Or(b.at.Compare(a.at), cmp.Compare(a.by.name, b.by.name)) })
		last = slices.Insert(last, i, r)
		last = last[:min(len(last), wire.MaxBy)]
	}
	quorum := j.QuorumOf(j.Size(now))
	if n == 0 || n < quorum || j.NeverBanned(p) {
		return wire.Ban{}
	}
	step := 1
	for reporters := 2 * quorum; reporters <= n && step < len(j.Lengths); reporters *= 2 {
		step++
	}
	ban := wire.Ban{Source: p, Step: step, Length: int64(j.Lengths[step-1] / time.Second), Hosts: n, First: first.UTC(), Last: last[0].at.UTC(), Forgiven: s.forgiven}
	for _, r := range last {
		ban.By = append(ban.By, wire.Report{Host: r.by.name, At: r.at.UTC(), Cause: r.cause, Proto: r.proto, Port: r.port})
	}
	return ban
}

// Decided returns the last decision on a source, if there was one.
func (j *Judge) Decided(p netip.Prefix) (wire.Ban, bool) {
	s, ok := j.sources.get(p)
	if !ok || s.ban.Step == 0 {
		return wire.Ban{}, false
	}
	return s.ban, true
}

// NeverBanned reports whether a source has an address that is never banned.
func (j *Judge) NeverBanned(p netip.Prefix) bool {
	return slices.ContainsFunc(j.Never, p.Overlaps)
}

// Bans returns the bans in force at a moment, by source.
func (j *Judge) Bans(now time.Time) map[netip.Prefix]wire.Ban {
	bans := make(map[netip.Prefix]wire.Ban)
	for e := range j.sources.all() {
		if ban := j.judge(e.key, e.value, e.at); ban.Step > 0 && ban.Until().After(now) {
			bans[e.key] = ban
		}
	}
	return bans
}

// Reported returns how many sources a host has reported in the last 24 hours.
func (j *Judge) Reported(name string) int {
	if h := j.hosts[name]; h != nil {
		h.sources.prune(j.now.Add(-quotaTime), maxSources)
		return h.sources.len()
	}
	return 0
}
