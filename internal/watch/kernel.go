package watch

import (
	"errors"
	"fmt"
	"iter"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/portmon/portmon/internal/book"
	"github.com/portmon/portmon/internal/stats"
	"github.com/portmon/portmon/internal/text"
	"github.com/portmon/portmon/nftset"
	"github.com/portmon/portmon/ruleset"
)

// chunk is how many elements make a part of an answer.
const chunk = 1024

// ask asks the kernel, and passes on the parts of its answer until out returns
// false.
func ask(c *nftset.Conn, table string, q question, out func(answer) bool) {
	a := answer{last: true}
	a.same, a.err = askAll(c, table, q, func(part answer) bool {
		part.at = book.ReadClock()
		return out(part)
	})
	a.at = book.ReadClock()
	out(a)
}

// askAll reports whether the table was the same one from the beginning to the
// end.
func askAll(c *nftset.Conn, table string, q question, out func(answer) bool) (same bool, err error) {
	h, err := ruleset.Open(c, table)
	if err != nil || !out(answer{layout: h.State}) || !h.Exists {
		return false, err
	}
	handle := h.Handle // before a look-up that finds a set gone reads the table anew
	records := h.Records()
	switch {
	case q.nets:
		records = nets(h)
	case !q.all:
		records = func(func(ruleset.Record, error) bool) {}
	}
	var part answer
	for rec, err := range records {
		if err != nil {
			return false, fmt.Errorf("read the bans: %w", err)
		}
		if part.records = append(part.records, rec); len(part.records) == chunk {
			if !out(part) {
				return false, nil
			}
			part = answer{}
		}
	}
	out(part)
	addrs := make([]netip.Addr, len(q.sources))
	for i, source := range q.sources {
		addrs[i] = source.Addr()
	}
	all, err := h.LookupAll(addrs...)
	if err != nil {
		return false, fmt.Errorf("look up %s: %w", text.Plural(len(addrs), "source"), err)
	}
	standings := make([]standing, len(all))
	for i, st := range all {
		standings[i] = standing{q.sources[i], st}
	}
	if err := h.Refresh(); err != nil || !h.Exists || h.Handle != handle {
		return false, err
	}
	// An absence means nothing unless it was the same table all the time.
	for some := range slices.Chunk(standings, chunk) {
		if !out(answer{standings: some}) {
			return false, nil
		}
	}
	return true, nil
}

// nets yields the bans and the allowances in the sets of prefixes.
func nets(h *ruleset.Handle) iter.Seq2[ruleset.Record, error] {
	return func(yield func(ruleset.Record, error) bool) {
		for e, err := range h.Entries(ruleset.RoleNet, ruleset.RoleAllow) {
			if err != nil {
				yield(ruleset.Record{}, err)
				return
			}
			e.Explain(0, false)
			for _, p := range e.Prefixes() {
				if !yield(e.Record(p), nil) {
					return
				}
			}
		}
	}
}

// do makes a change.
func makeChange(c *nftset.Conn, todo change) changed {
	done := changed{change: todo}
	switch {
	case todo.look != nil:
		done.saw, done.err = lookAt(c, todo.spec, *todo.look)
	case todo.apply:
		var plan *ruleset.Plan
		plan, done.err = ruleset.Apply(c, todo.spec)
		done.made = plan != nil && plan.Created
	default:
		var h *ruleset.Handle
		if h, done.err = ruleset.Open(c, todo.spec.Table); done.err != nil {
			break
		}
		switch {
		case todo.put != nil && todo.spec.Observe && !h.Observe:
			done.err = fmt.Errorf("the mode has changed: %w", os.ErrNotExist) // of some, nothing may be put any more
		case todo.put != nil:
			done.refused, done.err = h.Put(todo.put)
		case todo.end != nil:
			_, _, done.err = h.Disallow(todo.end...)
		case todo.tidy:
			done.err = h.TidyNets()
		default:
			done.err = lift(h, todo.lift)
		}
	}
	return done
}

// lift lifts the bans of prefixes, each alone. Those that are whitelisted or
// allowed may be parts of a range of any addresses, which a set of prefixes holds
// as one element: of that, the rest is put back.
func lift(h *ruleset.Handle, ps []netip.Prefix) error {
	alone := make([]nftset.Interval, len(ps))
	for i, p := range ps {
		alone[i] = nftset.Prefix(p).Interval
	}
	_, covered, err := h.UnbanAlone(alone...)
	if err != nil || len(covered) == 0 {
		return err
	}
	var ranges []nftset.Interval
	var rest []ruleset.Record
	for _, e := range covered {
		parts := e.Prefixes()
		refused, err := h.Check(parts...)
		if err != nil {
			return err
		}
		if refused == nil {
			continue // it is larger by itself
		}
		ranges = append(ranges, e.Interval)
		for i, p := range parts {
			if refused[i] == nil {
				rest = append(rest, e.Record(p))
			}
		}
	}
	if len(ranges) == 0 {
		return nil
	}
	if _, _, err = h.UnbanAlone(ranges...); err != nil || len(rest) == 0 {
		return err
	}
	_, err = h.Put(rest)
	return err
}

// lookAt looks at the table. before is what was seen last, as what the ruleset is
// need not be compared again.
func lookAt(c *nftset.Conn, spec ruleset.Spec, before look) (look, error) {
	s, err := ruleset.Read(c, spec.Table)
	if err != nil {
		return look{}, err
	}
	l := look{
		generation: s.Generation, exists: s.Exists, current: before.current, wrong: before.wrong, observes: s.Observe,
		sealed: s.Digest != "", table: stats.TableOf(s),
	}
	if before.adopt && l.sealed {
		spec.Observe = l.observes
	}
	l.full, l.heldBack = s.Counters[ruleset.CounterFull].Packets, s.Counters[ruleset.CounterHeldBack].Packets
	if l.exists && (l.generation != before.generation || !before.current || before.adopt) {
		l.current, l.wrong, err = compare(c, spec)
	}
	return l, err
}

// compare reports whether the table is what it must be, and what is not.
func compare(c *nftset.Conn, spec ruleset.Spec) (current bool, wrong string, err error) {
	plan, err := ruleset.Prepare(c, spec)
	if err != nil {
		return false, err.Error(), err
	}
	if plan.Current() {
		if !plan.Empty() {
			// A rule or a network of this host more or less, which is not news.
			_, err = ruleset.Apply(c, spec)
		}
		return err == nil, "", err
	}
	return false, strings.Join(plan.Summary(), ", "), nil
}

// gone reports whether an error is about a table or set that does not exist:
// events report that.
func gone(err error) bool { return errors.Is(err, os.ErrNotExist) }
