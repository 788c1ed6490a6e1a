package ledger

import (
	"net/netip"
	"slices"
	"time"
)

// model is the ledger said again in the plainest way, with everything searched for and nothing shared with the code.
type model struct {
	Config
	window  time.Duration
	sources []*modelSource // in the order of counting
}

type modelSource struct {
	Record           // Last is not used
	moments []*event // oldest first, the newest four
	missing int      // offences inferred
	base    *event   // from this one
}

type event struct {
	at   Instant
	what string // "offence", "ban", "unban"
}

func newModel(c Config) *model {
	m := &model{window: 30 * time.Second}
	m.reconfigure(c)
	return m
}

func (m *model) reconfigure(c Config) {
	m.Config = c
	m.window = min(m.window, c.Ladder[0]/2)
	for len(m.sources) > m.Max {
		m.evict()
	}
}

func (m *model) find(p netip.Prefix) *modelSource {
	for _, s := range m.sources {
		if s.Source == p {
			return s
		}
	}
	return nil
}

func (m *model) remove(s *modelSource) {
	m.sources = slices.DeleteFunc(m.sources, func(o *modelSource) bool { return o == s })
}

func (m *model) evict() {
	for _, s := range m.sources {
		if s.Offences <= 1 {
			m.remove(s)
			return
		}
	}
	m.remove(m.sources[0])
}

func (m *model) gone(s *modelSource, now Instant) bool {
	if s.Offences == 0 {
		return now > s.End
	}
	return now > s.End+Instant(m.Forget)
}

func (m *model) obtain(p netip.Prefix, at Instant) *modelSource {
	s := m.find(p)
	if s != nil && m.gone(s, at) {
		m.remove(s)
		s = nil
	}
	if s == nil {
		if len(m.sources) >= m.Max {
			m.evict()
		}
		s = &modelSource{Record: Record{Source: p}}
		m.sources = append(m.sources, s)
	}
	return s
}

func (s *modelSource) add(at Instant, what string) {
	e := &event{at, what}
	s.moments = append(s.moments, e)
	slices.SortStableFunc(s.moments, func(a, b *event) int { return int(max(-1, min(1, a.at-b.at))) })
	if len(s.moments) > 4 {
		s.moments = s.moments[1:]
	}
	if !slices.Contains(s.moments, s.base) {
		s.base, s.missing = nil, 0
	}
}

// atLeast makes the number of offences up to the one near a moment at least n.
func (m *model) atLeast(s *modelSource, at Instant, n int) {
	var found *event
	for _, e := range s.moments {
		switch {
		case e.what != "offence":
		case found != nil:
			n++ // one after it
		case e.at-Instant(m.window) < at && at < e.at+Instant(m.window):
			found = e
		}
	}
	if found == nil || n <= s.Offences {
		return
	}
	s.missing = min(s.missing+n-s.Offences, 255)
	if s.base == nil || slices.Index(s.moments, s.base) < slices.Index(s.moments, found) {
		s.base = found
	}
	m.set(s, n)
}

func (s *modelSource) times(what string) (out []Instant) {
	for _, e := range s.moments {
		if e.what == what {
			out = append(out, e.at)
		}
	}
	return out
}

func (s *modelSource) near(at Instant, what string, window time.Duration) bool {
	return slices.ContainsFunc(s.times(what), func(t Instant) bool {
		return t-Instant(window) < at && at < t+Instant(window)
	})
}

func (s *modelSource) stale(at Instant) bool {
	return slices.ContainsFunc(s.times("unban"), func(t Instant) bool { return at <= t })
}

func (s *modelSource) last() Instant { return slices.Max(s.times("offence")) }

// set gives a source its offences, and puts it at the end of the order.
func (m *model) set(s *modelSource, offences int) {
	s.Offences, s.Tier = offences, min(offences, len(m.Ladder))
	s.End = max(s.End, s.last()+Instant(m.Ladder[s.Tier-1]))
	m.remove(s)
	m.sources = append(m.sources, s)
}

func (m *model) report(p netip.Prefix, at, until, now Instant, tier int, heard bool, proto uint8, port uint16) Verdict {
	s := m.obtain(p, at)
	if s.stale(at) {
		return m.verdict(s, now)
	}
	before := s.Offences
	known := s.near(at, "offence", m.window)
	if !known && !heard && s.near(at, "ban", m.window) {
		s.End = max(s.End, until)
		return m.verdict(s, now)
	}
	if !known {
		m.count(s, at)
	}
	if !heard {
		m.atLeast(s, at, tier)
	}
	if !heard {
		s.End = max(s.End, until)
	}
	upToDate := at > s.last()-Instant(m.window)
	if heard && upToDate {
		s.Proto, s.Port = proto, port
	}
	v := m.verdict(s, now)
	v.Counted = s.Offences > before
	v.Edit = v.Tier > tier && v.Left >= 100*time.Millisecond && (heard && v.Counted || !heard && upToDate)
	return v
}

func (m *model) count(s *modelSource, at Instant) {
	old := s.times("offence")
	newest := len(old) == 0 || at > slices.Max(old)
	if newest {
		s.Proto, s.Port = 0, 0
	} else if s.base != nil && at <= s.base.at {
		s.missing--
		s.add(at, "offence")
		if s.missing == 0 {
			s.base = nil
		}
		return
	} else if at < s.moments[0].at && s.Offences > len(old) {
		return
	}
	s.add(at, "offence")
	m.set(s, s.Offences+1)
}

func (m *model) verdict(s *modelSource, now Instant) Verdict {
	v := Verdict{Offences: s.Offences, Tier: min(s.Tier, len(m.Ladder))}
	if v.Tier > 0 {
		v.Timeout = m.Ladder[v.Tier-1]
		v.Left = max(0, time.Duration(s.last()-now)+v.Timeout)
	}
	return v
}

func (m *model) bannedByHand(b Ban, now Instant) {
	s := m.obtain(b.Source, b.From)
	if s.stale(b.From) {
		return
	}
	s.moments = slices.DeleteFunc(s.moments, func(e *event) bool { return e.what == "ban" })
	s.add(b.From, "ban")
	s.End = max(s.End, b.Until)
}

func (m *model) unbanned(p netip.Prefix, at Instant) {
	if m.find(p) == nil && len(m.sources) >= m.Max {
		return
	}
	s := m.obtain(p, at)
	m.remove(s)
	m.sources = append(m.sources, &modelSource{
		Record:  Record{Source: p, End: at + Instant(m.Ladder[0])},
		moments: []*event{{at, "unban"}},
	})
}

func (m *model) put(rec Record, now Instant) {
	if now > rec.End+Instant(m.Forget) {
		return
	}
	if s := m.find(rec.Source); s != nil {
		m.remove(s)
	}
	s := m.obtain(rec.Source, rec.Last)
	m.count(s, rec.Last)
	m.atLeast(s, rec.Last, rec.Offences)
	s.Proto, s.Port, s.End, s.Tier = rec.Proto, rec.Port, rec.End, min(rec.Tier, s.Tier)
}

func (m *model) forget(now Instant) int {
	before := len(m.sources)
	m.sources = slices.DeleteFunc(m.sources, func(s *modelSource) bool { return m.gone(s, now) })
	return before - len(m.sources)
}

// all returns the records as Ledger.All yields them.
func (m *model) all(now Instant) (out []Record) {
	for _, repeaters := range []bool{false, true} {
		for _, s := range m.sources {
			if s.Offences == 0 || m.gone(s, now) || (s.Offences > 1) != repeaters {
				continue
			}
			rec := s.Record
			rec.Last, rec.Tier = s.last(), min(s.Tier, len(m.Ladder))
			out = append(out, rec)
		}
	}
	return out
}
