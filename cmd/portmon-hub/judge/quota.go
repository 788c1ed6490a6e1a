package judge

import (
	"container/list"
	"iter"
	"slices"
	"time"
)

// quota returns how many sources a host may report in 24 hours: ten times what
// the others do, but not more than a twentieth of all that is banned. The least
// is what the configuration says. A host
// that reports no more than twice what at least three others do is doing what
// all are doing, however much that is.
func (j *Judge) quota(h *host) int {
	var others []int
	for _, other := range j.hosts {
		if other.member && other != h {
			other.sources.prune(j.now.Add(-quotaTime), maxSources)
			if n := other.sources.len(); n > 0 {
				others = append(others, n)
			}
		}
	}
	quota := j.Quota
	if len(others) == 0 {
		return quota
	}
	slices.Sort(others)
	median := others[(len(others)-1)/2]
	if len(others) >= 3 {
		quota = max(quota, 2*median)
	}
	return max(quota, min(10*median, j.inForce()/20))
}

// inForce returns how many sources were banned a minute ago or less.
func (j *Judge) inForce() int {
	if j.now.Sub(j.countedAt) > time.Minute {
		j.countedAt, j.banned = j.now, 0
		for e := range j.sources.all() {
			if ban := &e.value.ban; ban.Step > 0 && !ban.Lifted && ban.Until().After(j.now) {
				j.banned++
			}
		}
	}
	return j.banned
}

// recent is a map that knows in which order its values were put. Its zero value
// is ready.
type recent[K comparable, V any] struct {
	order list.List // of *element
	byKey map[K]*list.Element
}

type element[K comparable, V any] struct {
	key   K
	value V
	at    time.Time
}

func (r *recent[K, V]) len() int { return len(r.byKey) }

func (r *recent[K, V]) get(key K) (value V, ok bool) {
	if e := r.byKey[key]; e != nil {
		return e.Value.(*element[K, V]).value, true
	}
	return value, false
}

func (r *recent[K, V]) put(key K, value V, at time.Time) {
	if e := r.byKey[key]; e != nil {
		*e.Value.(*element[K, V]) = element[K, V]{key, value, at}
		r.order.MoveToBack(e)
		return
	}
	if r.byKey == nil {
		r.byKey = make(map[K]*list.Element)
	}
	r.byKey[key] = r.order.PushBack(&element[K, V]{key, value, at})
}

// prune drops what was put before a moment, and the oldest beyond a number.
func (r *recent[K, V]) prune(before time.Time, limit int) {
	for e := r.order.Front(); e != nil; e = r.order.Front() {
		oldest := e.Value.(*element[K, V])
		if !oldest.at.Before(before) && len(r.byKey) <= limit {
			return
		}
		r.order.Remove(e)
		delete(r.byKey, oldest.key)
	}
}

// all iterates from the oldest to the newest.
func (r *recent[K, V]) all() iter.Seq[*element[K, V]] {
	return func(yield func(*element[K, V]) bool) {
		for e := r.order.Front(); e != nil; e = e.Next() {
			if !yield(e.Value.(*element[K, V])) {
				return
			}
		}
	}
}
