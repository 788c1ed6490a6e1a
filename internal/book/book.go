package book

import (
	"cmp"
	"iter"
	"net/netip"
	"slices"
	"strings"

	"github.com/portmon/portmon/nftset"
)

// DefaultMaxRows is how many rows a book holds if its owner does not say; they
// take some 115 MB.
const DefaultMaxRows = 1_000_000

// Book is a row per source. It is not safe for concurrent use.
type Book struct {
	index    map[key]uint32 // of rows
	rows     []compact
	spare    []uint32       // places in rows that are not in use
	comments map[key]string // of the few rows that have one
	before   map[key]*Row   // of the few rows that have one
	max      int
	table    uint64
	observes bool
	store    *store // nil: in memory only
}

// New returns an empty book without a file, for at most maxRows rows; 0 means
// [DefaultMaxRows].
func New(maxRows int) *Book {
	b := &Book{index: make(map[key]uint32), comments: make(map[key]string), before: make(map[key]*Row)}
	b.SetMaxRows(maxRows)
	return b
}

// reserve makes room for about n rows in an empty book.
func (b *Book) reserve(n int) {
	n = min(n, b.max)
	b.index, b.rows = make(map[key]uint32, n), make([]compact, 0, n)
}

// SetMaxRows bounds the number of rows; 0 means [DefaultMaxRows]. If there are
// more, those that matter least are forgotten.
func (b *Book) SetMaxRows(n int) {
	if n <= 0 {
		n = DefaultMaxRows
	}
	if b.max = n; b.Len() > n {
		b.evict(worthMost)
	}
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
	return b.row(k, i), true
}

func (b *Book) row(k key, i uint32) Row {
	r := b.rows[i].unpack(k, b.comments[k])
	r.Before = b.before[k]
	return r
}

// Rows yields the rows, in no order. Rows may be changed and removed meanwhile.
func (b *Book) Rows() iter.Seq[Row] {
	return func(yield func(Row) bool) {
		for k, i := range b.index {
			if !yield(b.row(k, i)) {
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
	k, ok := r.normalize()
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
	if delete(b.before, k); r.Before != nil {
		b.before[k] = r.Before
	}
	b.store.note(b, k)
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
	if r.Banned = false; r.Before != nil {
		before := *r.Before
		before.Banned = false
		r.Before = &before
	}
	return b.Put(r)
}

// Free removes the row of exactly this source or prefix, which is unbanned and
// forgotten, and reports whether there was one. Rows within it stay, and so does
// an allowance.
func (b *Book) Free(source netip.Prefix) bool {
	k, ok := keyOf(source)
	return ok && !b.isAllowance(k) && b.free(k)
}

func (b *Book) isAllowance(k key) bool {
	i, ok := b.index[k]
	return ok && b.rows[i].ban == allowed
}

func (b *Book) free(k key) bool {
	removed := b.remove(k)
	if removed {
		b.store.note(b, k)
	}
	return removed
}

// FreeWithin removes the rows of some prefixes and of all sources within them,
// but for allowances, and returns the sources.
func (b *Book) FreeWithin(prefixes ...netip.Prefix) (freed []netip.Prefix) {
	return b.freeWithin(prefixes, false)
}

// Disallow removes the allowances of some prefixes and of all that is within
// them, and returns the prefixes of these.
func (b *Book) Disallow(prefixes ...netip.Prefix) (ended []netip.Prefix) {
	return b.freeWithin(prefixes, true)
}

// DisallowAlone removes the allowance of exactly this prefix.
func (b *Book) DisallowAlone(p netip.Prefix) {
	if k, ok := keyOf(p); ok && b.isAllowance(k) {
		b.free(k)
	}
}

// Allows reports whether all of a prefix is allowed.
func (b *Book) Allows(p netip.Prefix, now Moment) bool {
	k, ok := keyOf(p)
	for ok {
		if r, _ := b.get(k); r.AllowedAt(now) {
			return true
		}
		wider := k.prefix()
		if wider.Bits() == 0 {
			break
		}
		k, ok = keyOf(netip.PrefixFrom(wider.Addr(), wider.Bits()-1))
	}
	return false
}

// freeWithin removes the rows within prefixes that are allowances, or those that
// are not.
func (b *Book) freeWithin(prefixes []netip.Prefix, allowances bool) (freed []netip.Prefix) {
	for r := range b.Within(prefixes...) {
		if k, _ := keyOf(r.Source); b.isAllowance(k) == allowances && b.free(k) {
			freed = append(freed, r.Source)
		}
	}
	return freed
}

// Within yields the rows of some prefixes and of all sources within them, in no
// order. Rows may be changed and removed meanwhile.
func (b *Book) Within(prefixes ...netip.Prefix) iter.Seq[Row] {
	covers := Covering(prefixes...)
	return func(yield func(Row) bool) {
		for k, i := range b.index {
			if covers(k.prefix()) && !yield(b.row(k, i)) {
				return
			}
		}
	}
}

// Covering returns a function that reports whether one of some prefixes covers
// another prefix.
func Covering(prefixes ...netip.Prefix) func(netip.Prefix) bool {
	var all []nftset.Interval
	for _, p := range prefixes {
		if p.IsValid() {
			all = append(all, nftset.Prefix(p.Masked()).Interval)
		}
	}
	all = nftset.Merge(all)
	return func(p netip.Prefix) bool {
		iv := nftset.Prefix(p).Interval
		around, ok := nftset.Find(all, iv.From)
		return ok && around.Covers(iv)
	}
}

// remove removes a row without a word in the file.
func (b *Book) remove(k key) bool {
	i, ok := b.index[k]
	if ok {
		b.spare = append(b.spare, i)
		delete(b.index, k)
		delete(b.comments, k)
		delete(b.before, k)
	}
	return ok
}

// Observe says that the table has dropped nothing since a moment: offences since
// then were only observed.
func (b *Book) Observe(since Moment) {
	for r := range b.Rows() {
		if r.Observed || !r.Banned || !r.isOffence() || r.begin() < since {
			continue
		}
		before := r
		if before.Banned = false; r.Step > 0 {
			before.Step--
		}
		r.Observed, r.Before = true, &before
		b.Put(r)
	}
}

// Revert makes a row what it was before a table observed it; see [Row.Enforced].
func (b *Book) Revert(source netip.Prefix) {
	switch r, _ := b.Get(source); {
	case !r.Observed:
	case r.Before == nil:
		b.Free(source)
	default:
		b.Put(*r.Before)
	}
}

// Enforce has what was only observed count from now on, or without keep be
// forgotten. It returns of how many rows.
func (b *Book) Enforce(keep bool) (n int) {
	for r := range b.Rows() {
		if !r.Observed {
			continue
		}
		if n++; !keep {
			b.Revert(r.Source)
			continue
		}
		r.Observed = false
		b.Put(r)
	}
	return n
}

// Clear removes all rows.
func (b *Book) Clear() {
	if b.Len() > 0 {
		clear(b.index)
		clear(b.comments)
		clear(b.before)
		b.rows, b.spare = nil, nil
		b.store.replace()
	}
}

// Sweep forgets the bans and steps that are over, and the rows that have
// neither then. It returns how many rows went. Nothing is written, because
// readers of the file forget them as well, unless the wall clock was set: over
// a reboot the file shows by it how much time has passed.
func (b *Book) Sweep(now Clock) (n int) {
	for k, i := range b.index {
		c := &b.rows[i]
		if !c.sweep(now.Boot) {
			before := b.before[k]
			if before == nil || !before.lasts(now.Boot) {
				b.remove(k)
				n++
				continue
			}
			b.set(k, before)
			c.sweep(now.Boot)
		}
		if c.ban == 0 {
			delete(b.comments, k)
		}
	}
	b.store.noteDrift(b, now)
	return n
}

// evict makes room for a row of that worth, and reports whether it did: not at
// the cost of rows that are worth more. Rows are in no order, so it removes a
// sixteenth at once, the least worth and the oldest offences first, in order
// not to search for each.
func (b *Book) evict(worth int) bool {
	type victim struct {
		key   key
		worth int
		last  Moment
	}
	var victims []victim
	for k, i := range b.index {
		if c := &b.rows[i]; c.worth() <= worth {
			victims = append(victims, victim{k, c.worth(), c.last})
		}
	}
	slices.SortFunc(victims, func(v, w victim) int {
		return cmp.Or(cmp.Compare(v.worth, w.worth), cmp.Compare(v.last, w.last))
	})
	for _, v := range victims[:min(len(victims), max(1, b.max/16, b.Len()-b.max))] {
		b.free(v.key)
	}
	return len(victims) > 0
}
