package ruleset

import (
	"iter"
	"net/netip"
	"slices"
	"time"

	"github.com/portmon/portmon/nftset"
)

// Records streams what the table holds of each source: its ban, its step, or
// both. Each set is read once, those of steps first. A source under several
// bans comes once for each of them, and a range that is not a prefix once for
// each prefix in it. Errors are those of [nftset.Conn.Elements].
func (h *Handle) Records() iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		known := make(map[nftset.Key]memory)
		for e, err := range h.Entries(RoleStep, RoleScanner) {
			if err != nil {
				yield(Record{}, err)
				return
			}
			m := known[e.From]
			if e.Step > int(m.step) {
				m.until = time.Now().Add(e.Remaining)
			}
			m.history = m.with(e)
			known[e.From] = m
		}
		for e, err := range h.Entries(RoleBan, RoleSubnet, RoleNet) {
			if err != nil {
				yield(Record{}, err)
				return
			}
			var m memory
			if e.Role == RoleBan {
				m = known[e.From]
				delete(known, e.From)
			}
			e.explain(m.history)
			for _, p := range e.Prefixes() {
				r := Record{
					Source: p, Banned: true, Timeout: e.Timeout, Remaining: e.Remaining,
					Comment: e.Comment, Cause: e.Cause,
				}
				r.Step, r.StepRemaining = m.remembered()
				if !yield(r, nil) {
					return
				}
			}
		}
		for key, m := range known {
			e, _ := h.Entry(RoleBan.Set(key.Addr(), 0), nftset.Single(key))
			p, ok := e.Prefix()
			if !ok {
				continue
			}
			r := Record{Source: p} // why it offended is not remembered, but for scans
			if m.scanner {
				r.Cause = CauseScan
			}
			r.Step, r.StepRemaining = m.remembered()
			if r.StepRemaining > 0 && !yield(r, nil) {
				return
			}
		}
	}
}

// memory is what is remembered of a source, and until when.
type memory struct {
	history
	until time.Time
}

func (m memory) remembered() (step int, remaining time.Duration) {
	return int(m.step), max(0, time.Until(m.until))
}

// BansIn streams the bans that overlap one of the prefixes, as [Handle.Bans]
// does. If these have few addresses, the kernel is asked for them alone.
func (h *Handle) BansIn(ps ...netip.Prefix) iter.Seq2[Entry, error] {
	if slices.ContainsFunc(ps, func(p netip.Prefix) bool { return !p.IsSingleIP() }) {
		wanted := intervalsOf(ps)
		return bans(func(roles ...Role) iter.Seq2[Entry, error] { return h.entriesIn(wanted, roles...) })
	}
	return func(yield func(Entry, error) bool) {
		seen := make(map[setElement]bool)
		for _, p := range ps {
			st, err := h.Lookup(p.Addr())
			if err != nil {
				yield(Entry{}, err)
				return
			}
			for _, e := range st.Bans {
				at := setElement{e.Set, e.From}
				if !seen[at] && !yield(e, nil) {
					return
				}
				seen[at] = true
			}
		}
	}
}

// entriesIn yields the elements of sets that are about addresses of the merged
// lists.
func (h *Handle) entriesIn(merged map[nftset.KeyType][]nftset.Interval, roles ...Role) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		for _, set := range h.roleSets(roles...) {
			if len(merged[set.Type]) == 0 {
				continue
			}
			for el, err := range h.within(set, merged[set.Type]) {
				if err != nil {
					yield(Entry{}, err)
					return
				}
				if e, ok := h.Entry(set.Name, el); ok && !yield(e, nil) {
					return
				}
			}
		}
	}
}

// intervalsOf returns the addresses of prefixes, merged, by their families.
func intervalsOf(ps []netip.Prefix) map[nftset.KeyType][]nftset.Interval {
	all := make(map[nftset.KeyType][]nftset.Interval)
	for _, p := range ps {
		iv := nftset.Prefix(p).Interval
		all[iv.From.Type()] = append(all[iv.From.Type()], iv)
	}
	for t, ivs := range all {
		all[t] = nftset.Merge(ivs)
	}
	return all
}
