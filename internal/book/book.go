package book

import (
	"iter"
	"net/netip"
	"strings"
)

// DefaultMaxRows is the bound of a book whose owner names none; as many rows
// take some 115 MB.
const DefaultMaxRows = 1_000_000

// Book is a row per source. It is not safe for concurrent use.
type Book struct {
	index    map[key]uint32 // of rows
	rows     []compact
	spare    []uint32       // places in rows that are not in use
	comments map[key]string // of the few rows that have one
	max      int
	table    uint64
	store    *store // nil: in memory only
}

// New returns an empty book without a file, for at most maxRows rows.
func New(maxRows int) *Book {
	b := &Book{index: make(map[key]uint32), comments: make(map[key]string)}
	b.SetMaxRows(maxRows)
	return b
}

// Len returns the number of rows.
func (b *Book) Len() int { return len(b.index) }

// Get returns the row of a source.
func (b *Book) Get(source netip.Prefix) (Row, bool) {
	k, _ := keyOf(source)
	return b.get(k)
}

func (b *Book) get(k key) (Row, bool) {
	i, ok := b.index[k]
	if !ok {
		return Row{}, false
	}
	return b.rows[i].unpack(k, b.comments[k]), true
}

// Rows yields the rows, in no order. Rows may be changed and removed meanwhile.
func (b *Book) Rows() iter.Seq[Row] {
	return func(yield func(Row) bool) {
		for k, i := range b.index {
			if !yield(b.rows[i].unpack(k, b.comments[k])) {
				return
			}
		}
	}
}

// Put replaces the row of a source and reports whether that changed anything.
// Moments that differ by less than a second are not a change, so that a dump of
// what is known already writes nothing. A row whose source is not a prefix, or
// whose numbers are out of range, is ignored.
func (b *Book) Put(r Row) (changed bool) {
	r, k, ok := r.normalize()
	if !ok {
		return false
	}
	if old, ok := b.get(k); ok && old.same(&r) {
		return false
	}
	return b.set(k, &r)
}

// set stores a normalized row and reports whether there was room for it.
func (b *Book) set(k key, r *Row) bool {
	c := r.pack()
	i, ok := b.index[k]
	switch {
	case !ok && b.Len() >= b.max && !b.evict(c.worth()):
		return false
	case !ok && len(b.spare) > 0:
		last := len(b.spare) - 1
		i, b.spare = b.spare[last], b.spare[:last]
	case !ok:
		i, b.rows = uint32(len(b.rows)), append(b.rows, compact{})
	}
	b.index[k], b.rows[i] = i, c
	if r.Comment != "" {
		b.comments[k] = strings.Clone(r.Comment) // it may be a part of something large
	} else {
		delete(b.comments, k)
	}
	b.store.append(b, r, false)
	return true
}

// Lift takes the ban out of a row, and leaves its step and its offences. It
// reports whether there was one.
func (b *Book) Lift(source netip.Prefix) bool {
	r, ok := b.Get(source)
	if !ok || !r.Banned {
		return false
	}
	if r.Step == 0 {
		return b.Free(source)
	}
	r.Banned = false
	return b.Put(r)
}

// Free removes the row of a source, which is unbanned and forgotten, and
// reports whether there was one.
func (b *Book) Free(source netip.Prefix) bool {
	k, ok := keyOf(source)
	if _, known := b.index[k]; !ok || !known {
		return false
	}
	b.drop(k)
	return true
}

// FreeWithin removes the rows of all sources within a prefix and returns how
// many.
func (b *Book) FreeWithin(p netip.Prefix) (n int) {
	outer, ok := keyOf(p)
	if !ok {
		return 0
	}
	p = outer.prefix()
	if p.IsSingleIP() {
		if b.Free(p) {
			n++
		}
		return n
	}
	for k := range b.index {
		if source := k.prefix(); source.Bits() >= p.Bits() && p.Contains(source.Addr()) {
			b.drop(k)
			n++
		}
	}
	return n
}

func (b *Book) drop(k key) {
	b.remove(k)
	b.store.append(b, &Row{Source: k.prefix()}, true)
}

func (b *Book) remove(k key) {
	if i, ok := b.index[k]; ok {
		b.spare = append(b.spare, i)
		delete(b.index, k)
		delete(b.comments, k)
	}
}

// Clear removes all rows.
func (b *Book) Clear() {
	if b.Len() > 0 {
		clear(b.index)
		clear(b.comments)
		b.rows, b.spare = nil, nil
		b.store.replace()
	}
}

// Sweep forgets the bans and steps that are over, and the rows that have
// neither then. It returns how many of those there were. Nothing is written,
// because readers of the file forget them as well, unless the wall clock
// was set, by which the file shows how much time passes over a reboot.
func (b *Book) Sweep(now Clock) (n int) {
	for k, i := range b.index {
		if c := &b.rows[i]; !c.sweep(now.Boot) {
			b.remove(k)
			n++
		} else if c.ban == 0 {
			delete(b.comments, k)
		}
	}
	b.store.noteDrift(b, now)
	return n
}
