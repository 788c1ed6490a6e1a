package book

import (
	"cmp"
	"slices"
)

// SetMaxRows bounds the number of rows; 0 means [DefaultMaxRows]. If there are
// more, those that matter least are forgotten.
func (b *Book) SetMaxRows(n int) {
	if n <= 0 {
		n = DefaultMaxRows
	}
	for b.max = n; b.Len() > n; {
		b.evict(worthMost)
	}
}

// worth ranks rows by how much would be lost with them. First-timers that are
// free go first: a flood of sources that come once does not wash out those that
// come back.
func (c *compact) worth() int {
	switch {
	case c.ban == bannedByHand:
		return worthMost
	case c.ban == banned:
		return 2
	case c.step > 1:
		return 1
	}
	return 0
}

const worthMost = 3

// evict makes room for a row of that worth, and reports whether it did: not at
// the cost of rows that are worth more. Rows are in no order, so it removes a
// sixteenth of them at once, those of the oldest offences, in order not to
// search for each.
func (b *Book) evict(worth int) bool {
	type victim struct {
		key  key
		last Moment
	}
	for least := 0; least <= worth; least++ {
		var victims []victim
		for k, i := range b.index {
			if c := &b.rows[i]; c.worth() == least {
				victims = append(victims, victim{k, c.last})
			}
		}
		if len(victims) == 0 {
			continue
		}
		slices.SortFunc(victims, func(v, w victim) int { return cmp.Compare(v.last, w.last) })
		for _, v := range victims[:min(len(victims), max(1, b.max/16, b.Len()-b.max))] {
			b.drop(v.key)
		}
		return true
	}
	return false
}
