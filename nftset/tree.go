package nftset

import (
	"cmp"
	"iter"
	"slices"
)

// intervals reads an interval set: entries first, which are then sorted and
// paired.
//
// A dump is as good as a snapshot if the ruleset's generation stayed the same
// and the entries fit together. (The generation alone is not enough: a
// transaction that is not yet committed already adds entries, and the kernel
// goes on by counting them.) Edits of other sets change the generation too, so
// a second dump that equals the first will do as well, if it still holds.
func (c *Conn) intervals(s *Set) iter.Seq2[Element, error] {
	const attempts = 10
	return func(yield func(Element, error) bool) {
		var now, before tree
		for i := range attempts {
			now, before = before, now
			now.reset()
			steady, err := c.dumpElements(s, func(l listed) bool {
				now.add(&l)
				return true
			})
			if err != nil {
				yield(Element{}, err)
				return
			}
			now.sort()
			if steady && now.sound() || i > 0 && now.equal(&before) && c.holds(s, &now) {
				now.pair(s.Type, func(el Element) bool { return yield(el, nil) })
				return
			}
		}
		yield(Element{}, &OpError{Op: "read set", Object: s.String(), Err: ErrChanged})
	}
}

// holds reports whether a sample of the intervals is in the set.
func (c *Conn) holds(s *Set, t *tree) bool {
	i, step, yes := 0, 1+len(t.entries)/100, true
	t.pair(s.Type, func(el Element) bool {
		if i++; i%step == 0 {
			is, sure, err := c.lookup(s, el.From)
			yes = err == nil && (!sure || is.Interval == el.Interval)
		}
		return yes
	})
	return yes
}

// tree is an interval set as the kernel has it: the starts and ends of
// intervals.
type tree struct {
	entries []entry
	rest    []Element // of those that have more than a key
}

type entry struct {
	key  Key
	end  bool
	rest int32 // index, -1 for none
}

func (t *tree) reset() { t.entries, t.rest = t.entries[:0], t.rest[:0] }

func (t *tree) add(l *listed) {
	e := entry{l.el.From, l.end, -1}
	if l.el.Timeout != 0 || l.el.Remaining != 0 || l.el.Comment != "" || l.el.HasCounter {
		e.rest = int32(len(t.rest))
		t.rest = append(t.rest, l.el)
	}
	if len(t.entries) == cap(t.entries) { // by itself append would grow it by a quarter, and copy it as often
		t.entries = slices.Grow(t.entries, max(1024, len(t.entries)))
	}
	t.entries = append(t.entries, e)
}

// sort brings the entries into the order of keys. Where one interval ends and
// the next begins, the end comes first.
func (t *tree) sort() {
	slices.SortFunc(t.entries, func(a, b entry) int {
		return cmp.Or(a.key.Compare(b.key), b.side()-a.side())
	})
}

func (e entry) side() int {
	if e.end {
		return 1
	}
	return 0
}

func (e entry) same(o entry) bool { return e.key == o.key && e.end == o.end }

// equal reports whether sorted trees have the same entries, whatever else these
// bear.
func (t *tree) equal(o *tree) bool { return slices.EqualFunc(t.entries, o.entries, entry.same) }

// sound reports whether sorted entries have no repetition and no start that
// lacks an end, other than the last.
func (t *tree) sound() bool {
	for i := 1; i < len(t.entries); i++ {
		if a, b := t.entries[i-1], t.entries[i]; a.same(b) || !a.end && !b.end {
			return false
		}
	}
	return true
}

// pair makes intervals of the entries, which must be sorted. An end marker
// whose start has expired is ignored; a start without an end extends to the
// next start, or to the highest key.
func (t *tree) pair(typ KeyType, yield func(Element) bool) {
	open := false
	var el Element
	for _, e := range t.entries {
		if open {
			if e.key == el.From {
				continue // repeated by the dump
			}
			el.To = e.key.prev()
			if !yield(el) {
				return
			}
			open = false
		}
		if !e.end {
			open, el = true, Element{}
			if e.rest >= 0 {
				el = t.rest[e.rest]
			}
			el.From = e.key
		}
	}
	if open {
		el.To = typ.Max()
		yield(el)
	}
}
