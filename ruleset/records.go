package ruleset

import (
	"iter"
	"net/netip"
	"time"

	"github.com/portmon/portmon/nftset"
)

// Bans streams all bans, with their step and cause as far as the table knows
// them.
func (h *Handle) Bans() iter.Seq2[Entry, error] { return bans(h.sources(nil)) }

// BansIn streams the bans that overlap one of the prefixes, as [Handle.Bans]
// does. If these have few addresses, the kernel is asked for them alone.
func (h *Handle) BansIn(ps ...netip.Prefix) iter.Seq2[Entry, error] {
	return bans(h.sources(within(ps...)))
}

// bans passes on what is not just remembered.
func bans(sources iter.Seq2[Entry, error]) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		for e, err := range sources {
			if (err != nil || e.Role.Bans()) && !yield(e, err) {
				return
			}
		}
	}
}

// Records streams what the table holds of each source: its ban, its step, or
// both, or that it is allowed. Each set is read once, those of steps first. A
// source under several bans comes once for each of them, and a range that is not
// a prefix once for each prefix in it. Errors are those of [nftset.Conn.Elements].
func (h *Handle) Records() iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		for e, err := range h.sources(nil) {
			if err != nil {
				yield(Record{}, err)
				return
			}
			for _, p := range e.Prefixes() {
				if !yield(e.Record(p), nil) {
					return
				}
			}
		}
	}
}

// Record returns the entry as one of a prefix in it.
func (e *Entry) Record(p netip.Prefix) Record {
	r := Record{Source: p, Cause: e.Cause}
	if r.Banned, r.Allowed = e.Role.Bans(), e.Role == RoleAllow; r.Banned || r.Allowed {
		r.Timeout, r.Remaining, r.Comment = e.Timeout, e.Remaining, e.Comment
	}
	if e.StepRemaining > 0 {
		r.Step, r.StepRemaining = e.Step, e.StepRemaining
	}
	return r
}

// sources streams the bans that a selection touches, with what is remembered of
// their sources, the allowances, and then, as entries of [RoleStep], what is
// remembered of others: why they offended is not known of these, but for scans.
func (h *Handle) sources(q *selection) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		start := time.Now()
		known := make(histories)
		for e, err := range h.entries(q, RoleStep, RoleScanner) {
			if err != nil {
				yield(Entry{}, err)
				return
			}
			known.add(&e, time.Since(start))
		}
		for e, err := range h.entries(q, RoleBan, RoleSubnet, RoleNet, RoleAllow) {
			if err != nil {
				yield(Entry{}, err)
				return
			}
			var m history
			if e.Role == RoleBan {
				a := e.From.Addr().As16()
				m = known[a]
				delete(known, a)
			}
			if e.Explain(int(m.step), m.scanner); m.step > 0 {
				e.StepRemaining = max(0, m.until-time.Since(start))
			}
			if !yield(e, nil) {
				return
			}
		}
		for key, m := range known {
			a := netip.AddrFrom16(key).Unmap()
			e, _ := h.Entry(RoleStep.Set(a, int(m.step)), nftset.Addr(a))
			if e.StepRemaining = m.until - time.Since(start); m.scanner {
				e.Cause = CauseScan
			}
			if m.step > 0 && e.StepRemaining > 0 && !yield(e, nil) {
				return
			}
		}
	}
}

// history is what the table remembers of the offences of a source.
type history struct {
	until   time.Duration // when the step is forgotten, since the reading began
	step    uint8
	scanner bool
}

// histories are those of all offenders, by address. Keys without a pointer take
// two thirds of the memory of others.
type histories map[[16]byte]history

// add adds what an entry says that was read just now.
func (hs histories) add(e *Entry, now time.Duration) {
	a := e.From.Addr().As16()
	m := hs[a]
	if m.scanner = m.scanner || e.Role == RoleScanner; e.Step > int(m.step) {
		m.step, m.until = uint8(e.Step), now+e.Remaining
	}
	hs[a] = m
}
