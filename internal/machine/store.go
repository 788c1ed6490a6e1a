package machine

import (
	"slices"
	"time"
)

// store holds the elements of the sets of the same name in several machines: a
// row for each key, with a column for each set, so that a key is looked up once
// for all.
type store[K oneOf] struct {
	sets   []*hash[K]         // by column
	lanes  []lanes            // of each column, one
	column [maxMachines]uint8 // by lane
	rows   map[K]int32
	used   int32 // rows that have been given a key
	chunks []chunk
	free   []int32
	queues []*queue[K] // one for each timeout

	last    K // the key that was looked up last, and the result
	lastRow int32
	found   bool
}

// chunk holds some rows, so that those of before stay where they are as a store
// grows: to copy them takes time, and twice the memory.
type chunk struct {
	expires []int64  // when the elements expire
	tokens  []bucket // of the limits that elements have, nil if none has
}

const rowsOfChunk = 1 << 10

const absent = -1 << 63

// queue lists the elements that were added or renewed with one timeout, in the
// order in which they expire.
type queue[K oneOf] struct {
	timeout time.Duration
	all     []expiring[K]
	next    int // those before it have expired
	room    int // once there are more, most have been renewed since, and it is tidied
}

type expiring[K oneOf] struct {
	key   K
	at    int64
	lanes lanes
}

// newStore gives sets, by lane, a store. They are empty, or nil where a machine
// has none of that name.
func newStore[K oneOf](sets ...*hash[K]) {
	st := &store[K]{rows: make(map[K]int32)}
	for lane, s := range sets {
		if s != nil {
			s.store, s.lane, st.column[lane] = st, lane, uint8(len(st.sets))
			st.sets, st.lanes = append(st.sets, s), append(st.lanes, 1<<lane)
		}
	}
}

// find returns the row of a key.
func (st *store[K]) find(k K) (row int32, ok bool) {
	switch {
	case len(st.rows) == 0:
		return 0, false
	case k == st.last:
		return st.lastRow, st.found
	}
	row, ok = st.rows[k]
	st.last, st.lastRow, st.found = k, row, ok
	return row, ok
}

// row returns the row of a key, which it makes if there is none.
func (st *store[K]) row(k K) int32 {
	if row, ok := st.find(k); ok {
		return row
	}
	var row int32
	if n := len(st.free); n > 0 {
		row, st.free = st.free[n-1], st.free[:n-1]
	} else {
		row = st.used
		st.used++
		if row%rowsOfChunk == 0 {
			all := make([]int64, rowsOfChunk*len(st.sets))
			for i := range all {
				all[i] = absent
			}
			st.chunks = append(st.chunks, chunk{expires: all})
		}
	}
	st.rows[k] = row
	st.last, st.lastRow, st.found = k, row, true
	return row
}

// expires returns when the elements of a row expire, by column.
func (st *store[K]) expires(row int32) []int64 {
	n := len(st.sets)
	return st.chunks[row/rowsOfChunk].expires[int(row%rowsOfChunk)*n:][:n]
}

// living returns the lanes in which there is an element.
func (st *store[K]) living(k K, now int64) (ls lanes) {
	row, ok := st.find(k)
	if !ok {
		return 0
	}
	for i, at := range st.expires(row) {
		if at > now {
			ls |= st.lanes[i]
		}
	}
	return ls
}

// adding is how elements are added, by lane.
type adding struct {
	timeouts []time.Duration
	limits   []*limit // of the elements, nil if they have none
	renew    bool     // those that are there
}

// put adds an element in some lanes, or renews its timeout, and asks its limit.
// It returns the lanes in which the rule goes on: neither if the set is full nor
// if the limit says no.
func (st *store[K]) put(k K, now int64, ls lanes, how *adding) (on lanes) {
	have := ls & st.living(k, now)
	if have != ls {
		st.collect(now)
		for lane := range (ls &^ have).each() {
			if s := st.sets[st.column[lane]]; s.count >= s.size {
				ls &^= 1 << lane
			}
		}
		if ls == 0 {
			return 0
		}
	}
	row := st.row(k)
	expires := st.expires(row)
	for lane := range ls.each() {
		column, l := st.column[lane], how.limits[lane]
		at, s := &expires[column], st.sets[column]
		if !have.has(lane) {
			if *at == absent {
				s.count++
			}
			s.peak = max(s.peak, s.count)
			if l != nil {
				*st.bucket(row, column) = l.full(now)
			}
		}
		if !have.has(lane) || how.renew && *at != forever {
			if *at = expiry(now, how.timeouts[lane]); *at != forever {
				st.push(k, lane, *at, how.timeouts[lane])
			}
		}
		if l == nil || l.take(st.bucket(row, column), now) {
			on |= 1 << lane
		}
	}
	return on
}

// bucket returns the tokens of the limit of an element.
func (st *store[K]) bucket(row int32, column uint8) *bucket {
	c := &st.chunks[row/rowsOfChunk]
	if c.tokens == nil {
		c.tokens = make([]bucket, len(c.expires))
	}
	return &c.tokens[int(row%rowsOfChunk)*len(st.sets)+int(column)]
}

func (st *store[K]) push(k K, lane int, at int64, timeout time.Duration) {
	i := slices.IndexFunc(st.queues, func(q *queue[K]) bool { return q.timeout == timeout })
	if i < 0 {
		i = len(st.queues)
		st.queues = append(st.queues, &queue[K]{timeout: timeout})
	}
	q := st.queues[i]
	if n := len(q.all); n > q.next && q.all[n-1].key == k && q.all[n-1].at == at { // by another machine
		q.all[n-1].lanes |= 1 << lane
		return
	}
	q.all = append(q.all, expiring[K]{k, at, 1 << lane})
	if len(q.all) > q.room {
		st.tidy(q)
	}
}

// delete takes an element out in some lanes.
func (st *store[K]) delete(k K, ls lanes) {
	if row, ok := st.find(k); ok {
		for lane := range ls.each() {
			st.remove(k, row, st.column[lane])
		}
	}
}

func (st *store[K]) remove(k K, row int32, column uint8) {
	expires := st.expires(row)
	if expires[column] == absent {
		return
	}
	expires[column] = absent
	st.sets[column].count--
	for _, at := range expires {
		if at != absent {
			return
		}
	}
	delete(st.rows, k)
	st.free = append(st.free, row)
	if k == st.last {
		st.found = false
	}
}

// collect removes the elements that have expired.
func (st *store[K]) collect(now int64) {
	for _, q := range st.queues {
		for ; q.next < len(q.all) && q.all[q.next].at <= now; q.next++ {
			st.expire(q.all[q.next])
		}
		if q.next > len(q.all)/2 {
			st.tidy(q)
		}
	}
}

func (st *store[K]) expire(e expiring[K]) {
	row, ok := st.rows[e.key]
	for i, lane := range st.lanes {
		if ok && e.lanes&lane != 0 && st.expires(row)[i] == e.at {
			st.remove(e.key, row, uint8(i))
		}
	}
}

// tidy removes from a queue what is out of date.
func (st *store[K]) tidy(q *queue[K]) {
	kept := q.all[:0]
	for _, e := range q.all[q.next:] {
		row, ok := st.rows[e.key]
		counts := false
		for i, lane := range st.lanes {
			counts = counts || ok && e.lanes&lane != 0 && st.expires(row)[i] == e.at
		}
		if counts {
			kept = append(kept, e)
		}
	}
	q.all, q.next, q.room = kept, 0, 2*len(kept)+64
}
