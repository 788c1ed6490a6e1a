package ruleset

import (
	"iter"
	"net/netip"
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
	return func(yield func(Entry, error) bool) {
		for _, p := range ps {
			set := h.Set(familyOfAddr(p.Addr()).ban())
			if set == nil {
				continue
			}
			if _, few := h.fewKeys(set, nftset.Prefix(p).Interval); !few {
				h.bansAmong(ps, yield)
				return
			}
		}
		type place struct {
			set string
			key nftset.Key
		}
		seen := make(map[place]bool)
		for _, p := range ps {
			for _, set := range h.roleSets(RoleBan, RoleSubnet, RoleNet) {
				if set.Type != familyOfAddr(p.Addr()).key {
					continue
				}
				for e, err := range h.overlapping(set, p) {
					switch {
					case err != nil:
						yield(Entry{}, err)
						return
					case seen[place{e.Set, e.From}]:
						continue
					}
					seen[place{e.Set, e.From}] = true
					if !yield(e, nil) {
						return
					}
				}
			}
		}
	}
}

// bansAmong reads all bans, and picks those that overlap one of the prefixes.
func (h *Handle) bansAmong(ps []netip.Prefix, yield func(Entry, error) bool) {
	for e, err := range h.Bans() {
		wanted := err != nil
		for _, p := range ps {
			wanted = wanted || e.Overlaps(nftset.Prefix(p).Interval)
		}
		if wanted && !yield(e, err) || err != nil {
			return
		}
	}
}

// overlapping yields the bans of one set that overlap a prefix of few addresses.
func (h *Handle) overlapping(set *nftset.Set, p netip.Prefix) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		elements := h.within(set, nftset.Prefix(p).Interval)
		if set.Flags&nftset.FlagInterval != 0 && p.IsSingleIP() {
			elements = func(yield func(nftset.Element, error) bool) {
				if el, _, ok, err := h.get(set.Name, nftset.AddrKey(p.Addr())); ok || err != nil {
					yield(el, err)
				}
			}
		}
		for el, err := range elements {
			e, ok := h.Entry(set.Name, el)
			if err == nil && !ok {
				continue
			}
			if err == nil {
				var known map[nftset.Key]history
				if e.Role == RoleBan {
					known, err = h.lookupHistory(&Standing{}, []nftset.Key{e.From})
				}
				e.explain(known[e.From])
			}
			if !yield(e, err) || err != nil {
				return
			}
		}
	}
}
