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

// words are 24 bytes of registers, the length of the longest key, as big-endian
// numbers.
type words [3]uint64

const forever = math.MaxInt64

// set is a set of the table.
type set interface {
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

// wordsOf returns a key as it is in registers.
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

func (s *bitmap) has(word uint64) bool {
	port := word >> 48
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
	from    []uint64 // the first words of the list, which are all of a short key
}

type interval struct {
	from, to words
	expires  int64
}

func (w words) compare(b words) int {
	return cmp.Or(cmp.Compare(w[0], b[0]), cmp.Compare(w[1], b[1]), cmp.Compare(w[2], b[2]))
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

// has is contains for short keys.
func (s *intervals) has(word uint64, now int64) bool {
	for i, from := range s.from {
		if from > word {
			return i > 0 && s.list[i-1].has(word, now)
		}
		if i == fewIntervals {
			return s.contains(words{word}, now)
		}
	}
	return len(s.from) > 0 && s.list[len(s.from)-1].has(word, now)
}

func (iv *interval) has(word uint64, now int64) bool {
	return iv.from[0] <= word && word <= iv.to[0] && iv.expires > now
}

// fewIntervals are searched one by one as fast as by bisection.
const fewIntervals = 12

func (s *intervals) contains(w words, now int64) bool {
	if len(s.list) <= fewIntervals {
		for i, from := range s.from {
			if iv := &s.list[i]; from <= w[0] && w[0] <= iv.to[0] && iv.from.compare(w) <= 0 && iv.to.compare(w) >= 0 {
				return iv.expires > now
			}
		}
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
	s.list, s.from = slices.Insert(s.list, i, iv), slices.Insert(s.from, i, iv.from[0])
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
