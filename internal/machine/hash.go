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

func (s *hash[K]) add(el nftset.Element, now int64) error {
	how := adding{timeouts: make([]time.Duration, s.lane+1), limits: make([]*limit, s.lane+1), renew: true}
	how.timeouts[s.lane] = cmp.Or(el.Timeout, s.Timeout)
	if s.store.put(short[K](wordsOf(el.From)), now, 1<<s.lane, &how) == 0 {
		return fmt.Errorf("add %v to %s: it is full", el.From, s.Name)
	}
	return nil
}

func (s *hash[K]) elements(now int64) iter.Seq[nftset.Element] {
	return func(yield func(nftset.Element) bool) {
		for k, row := range s.store.rows {
			expires := s.store.expires(row)[s.store.column[s.lane]]
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
