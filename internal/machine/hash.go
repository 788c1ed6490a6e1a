package machine

import (
	"cmp"
	"fmt"
	"iter"
	"time"

	"github.com/portmon/portmon/nftset"
	"github.com/portmon/portmon/ruleset"
)

// oneOf are the forms of keys.
type oneOf interface{ uint64 | words }

// hash is a set that the packet path adds to. Its keys are one word if they
// fit. The elements are in a store, which it shares with the sets of the same
// name in other machines on its host.
type hash[K oneOf] struct {
	*ruleset.Set
	size  int
	store *store[K]
	lane  int // of the store
	count int
	peak  int
}

func newHash[K oneOf](s *ruleset.Set) *hash[K] {
	h := &hash[K]{Set: s, size: int(s.Size)}
	if h.size == 0 {
		h.size = 1<<16 - 1 // the kernel's limit for sets that rules add to
	}
	newStore(h)
	return h
}

func short[K oneOf](w words) (k K) {
	switch k := any(&k).(type) {
	case *uint64:
		*k = w[0]
	case *words:
		*k = w
	}
	return k
}

func (s *hash[K]) has(k K, now int64) bool {
	row, ok := s.store.find(k)
	return ok && s.store.expires[row+s.lane] > now
}

func (s *hash[K]) add(el nftset.Element, now int64) error {
	if !s.put(short[K](wordsOf(el.From)), now, cmp.Or(el.Timeout, s.Timeout), true, nil) {
		return fmt.Errorf("add %v to %s: it is full", el.From, s.Name)
	}
	return nil
}

func (s *hash[K]) elements(now int64) iter.Seq[nftset.Element] {
	return func(yield func(nftset.Element) bool) {
		for k, row := range s.store.rows {
			expires := s.store.expires[int(row)+s.lane]
			if expires <= now {
				continue
			}
			var w words
			switch k := any(k).(type) {
			case uint64:
				w[0] = k
			case words:
				w = k
			}
			el := nftset.Single(w.key(s.Type))
			if expires < forever {
				el.Remaining = time.Duration(expires - now)
			}
			if !yield(el) {
				return
			}
		}
	}
}

// put adds an element, or renews its timeout, and asks its limit. It reports
// whether the rule goes on: not if the set is full, and not if the limit says
// no.
func (s *hash[K]) put(k K, now int64, timeout time.Duration, renew bool, l *limit) bool {
	st := s.store
	row, ok := st.find(k)
	if ok && st.expires[row+s.lane] <= now {
		ok = false
	}
	if !ok {
		st.collect(now)
		if s.count >= s.size {
			return false
		}
		row = st.row(k)
		if st.expires[row+s.lane] == absent {
			s.count++
		}
		s.peak = max(s.peak, s.count)
		if l != nil {
			*st.bucket(row + s.lane) = l.full(now)
		}
	}
	if !ok || renew && st.expires[row+s.lane] != forever {
		st.set(k, row, s.lane, now, timeout)
	}
	return l == nil || l.take(st.bucket(row+s.lane), now)
}

func (s *hash[K]) remove(k K) {
	if row, ok := s.store.find(k); ok {
		s.store.remove(k, row, s.lane)
	}
}
