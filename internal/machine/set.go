package machine

import (
	"cmp"
	"fmt"
	"iter"
	"math"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/nftset"
	"github.com/portmon/portmon/ruleset"
)

// words are 24 bytes of registers, as many as the longest key has, as numbers
// in network byte order.
type words [3]uint64

const forever = math.MaxInt64

// set is a set of the table.
type set interface {
	// contains reports whether the set has a key. It takes both forms of it: a
	// key of at most 8 bytes is its first word.
	contains(w words, now int64) bool
	add(el nftset.Element, now int64) error
	elements(now int64) iter.Seq[nftset.Element]
}

func newSet(s *ruleset.Set) (set, error) {
	switch {
	case s.Type.Len() == 0:
		return nil, fmt.Errorf("set %s: keys of %v are not known", s.Name, s.Type)
	case s.Static && s.Type == nftset.InetService:
		return new(bitmap), nil
	case s.Flags&nftset.FlagInterval != 0:
		return &intervals{typ: s.Type, timeout: s.Timeout}, nil
	case s.Type.Len() <= 8:
		return newHash[uint64](s), nil
	}
	return newHash[words](s), nil
}

// wordsOf returns a key as registers have it.
func wordsOf(k nftset.Key) words {
	var b [24]byte
	if a := k.Addr(); a.IsValid() {
		n := copy(b[:], a.AsSlice())
		b[n], b[n+1] = byte(k.Port()>>8), byte(k.Port())
	} else if k.Type() == nftset.InetService {
		b[0], b[1] = byte(k.Port()>>8), byte(k.Port())
	} else if k == nftset.ProtoKey(unix.IPPROTO_UDP) {
		b[0] = unix.IPPROTO_UDP
	} else {
		b[0] = unix.IPPROTO_TCP
	}
	return wordsAt(b[:])
}

// bitmap is a set of ports.
type bitmap [1 << 16 / 64]uint64

func (s *bitmap) contains(w words, _ int64) bool {
	port := w[0] >> 48
	return s[port/64]&(1<<(port%64)) != 0
}

func (s *bitmap) add(el nftset.Element, _ int64) error {
	for port := int(el.From.Port()); port <= int(el.To.Port()); port++ {
		s[port/64] |= 1 << (port % 64)
	}
	return nil
}

func (s *bitmap) elements(int64) iter.Seq[nftset.Element] {
	return func(yield func(nftset.Element) bool) {
		for port := range 1 << 16 {
			if s[port/64]&(1<<(port%64)) != 0 && !yield(nftset.Single(nftset.PortKey(uint16(port)))) {
				return
			}
		}
	}
}

// intervals is a set of intervals, none of which overlap.
type intervals struct {
	typ     nftset.KeyType
	timeout time.Duration
	list    []interval
}

type interval struct {
	from, to words
	expires  int64
}

func (a words) compare(b words) int {
	return cmp.Or(cmp.Compare(a[0], b[0]), cmp.Compare(a[1], b[1]), cmp.Compare(a[2], b[2]))
}

func (s *intervals) find(w words) (int, bool) {
	return slices.BinarySearchFunc(s.list, w, func(iv interval, w words) int {
		switch {
		case iv.to.compare(w) < 0:
			return -1
		case iv.from.compare(w) > 0:
			return 1
		}
		return 0
	})
}

func (s *intervals) contains(w words, now int64) bool {
	if len(s.list) == 0 {
		return false
	}
	i, ok := s.find(w)
	return ok && s.list[i].expires > now
}

func (s *intervals) add(el nftset.Element, now int64) error {
	iv := interval{wordsOf(el.From), wordsOf(el.To), expiry(now, cmp.Or(el.Timeout, s.timeout))}
	i, taken := s.find(iv.from)
	if taken || i < len(s.list) && s.list[i].from.compare(iv.to) <= 0 {
		return fmt.Errorf("add %v: it overlaps another element", el.Interval)
	}
	s.list = slices.Insert(s.list, i, iv)
	return nil
}

func (s *intervals) elements(now int64) iter.Seq[nftset.Element] {
	return func(yield func(nftset.Element) bool) {
		for _, iv := range s.list {
			el := nftset.Element{Interval: nftset.Interval{From: iv.from.key(s.typ), To: iv.to.key(s.typ)}}
			if iv.expires > now && !yield(el) {
				return
			}
		}
	}
}

// key is the inverse of wordsOf.
func (w words) key(t nftset.KeyType) nftset.Key {
	b := make([]byte, 0, 24)
	for _, word := range w {
		for shift := 56; shift >= 0; shift -= 8 {
			b = append(b, byte(word>>shift))
		}
	}
	k, _ := nftset.ParseKey(t, b[:t.Len()])
	return k
}

func expiry(now int64, timeout time.Duration) int64 {
	if timeout == 0 || int64(timeout) > forever-now {
		return forever
	}
	return now + int64(timeout)
}

// hash is a set that the packet path adds to. Its keys are of one word if they
// fit.
type hash[K interface{ uint64 | words }] struct {
	*ruleset.Set
	size    int
	expires map[K]int64
	tokens  map[K]bucket // of the limits that elements have
	queues  []*queue[K]  // one for each timeout
	peak    int
}

// queue has the elements that were added with one timeout, or renewed with it,
// in the order in which they expire.
type queue[K any] struct {
	timeout time.Duration
	all     []expiring[K]
	next    int // those before have expired
}

type expiring[K any] struct {
	key K
	at  int64
}

func newHash[K interface{ uint64 | words }](s *ruleset.Set) *hash[K] {
	h := &hash[K]{Set: s, size: int(s.Size), expires: make(map[K]int64)}
	if h.size == 0 {
		h.size = 1<<16 - 1 // what the kernel makes of it once a rule adds to the set
	}
	return h
}

func (s *hash[K]) short(w words) (k K) {
	switch k := any(&k).(type) {
	case *uint64:
		*k = w[0]
	case *words:
		*k = w
	}
	return k
}

func (s *hash[K]) has(k K, now int64) bool {
	expires, ok := s.expires[k]
	return ok && expires > now
}

func (s *hash[K]) contains(w words, now int64) bool { return s.has(s.short(w), now) }

func (s *hash[K]) add(el nftset.Element, now int64) error {
	if !s.put(s.short(wordsOf(el.From)), now, cmp.Or(el.Timeout, s.Timeout), true, nil) {
		return fmt.Errorf("add %v to %s: it is full", el.From, s.Name)
	}
	return nil
}

func (s *hash[K]) elements(now int64) iter.Seq[nftset.Element] {
	return func(yield func(nftset.Element) bool) {
		for k, expires := range s.expires {
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
			if expires > now && !yield(el) {
				return
			}
		}
	}
}

// put adds an element, or renews its timeout, and asks its limit. It reports
// whether the rule goes on: neither if the set is full nor if the limit says no.
func (s *hash[K]) put(k K, now int64, timeout time.Duration, renew bool, l *limit) bool {
	expires, ok := s.expires[k]
	if ok && expires <= now {
		s.remove(k)
		ok = false
	}
	if !ok {
		s.collect(now)
		if len(s.expires) >= s.size {
			return false
		}
	}
	if !ok || renew && expires != forever {
		s.set(k, now, timeout)
	}
	s.peak = max(s.peak, len(s.expires))
	if l == nil {
		return true
	}
	if s.tokens == nil {
		s.tokens = make(map[K]bucket)
	}
	tokens, ok := s.tokens[k]
	if !ok {
		tokens = l.full(now)
	}
	goesOn := l.take(&tokens, now)
	s.tokens[k] = tokens
	return goesOn
}

func (s *hash[K]) remove(k K) {
	delete(s.expires, k)
	delete(s.tokens, k)
}

// set sets when an element expires.
func (s *hash[K]) set(k K, now int64, timeout time.Duration) {
	at := expiry(now, timeout)
	s.expires[k] = at
	if at == forever {
		return
	}
	i := slices.IndexFunc(s.queues, func(q *queue[K]) bool { return q.timeout == timeout })
	if i < 0 {
		i = len(s.queues)
		s.queues = append(s.queues, &queue[K]{timeout: timeout})
	}
	q := s.queues[i]
	q.all = append(q.all, expiring[K]{k, at})
	if len(q.all)-q.next > 2*len(s.expires)+64 { // most have been renewed since
		s.tidy(q)
	}
}

// collect takes out what has expired.
func (s *hash[K]) collect(now int64) {
	for _, q := range s.queues {
		for ; q.next < len(q.all) && q.all[q.next].at <= now; q.next++ {
			if e := q.all[q.next]; s.expires[e.key] == e.at {
				s.remove(e.key)
			}
		}
		if q.next > len(q.all)/2 {
			s.tidy(q)
		}
	}
}

// tidy leaves in a queue what counts.
func (s *hash[K]) tidy(q *queue[K]) {
	kept := q.all[:0]
	for _, e := range q.all[q.next:] {
		if s.expires[e.key] == e.at {
			kept = append(kept, e)
		}
	}
	q.all, q.next = kept, 0
}
