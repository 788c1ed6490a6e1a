package watch

import (
	"iter"
	"net/netip"

	"github.com/portmon/portmon/internal/ledger"
	"github.com/portmon/portmon/nftset"
)

// bans are those of one set, by what they ban; nil is a set without any. As a rule they are of single addresses, 65,536 and more, and
// of few different terms: these take about 50 bytes each, or 100 of IPv6, without a pointer. A map from Interval to held takes 200.
type bans struct {
	v4     map[[4]byte]packed // IPv4 addresses
	v6     map[nftset.Key]packed
	ranges map[nftset.Interval]held
	terms  termsTable // of v4 and v6
}

// packed is held, but for its terms, which it has by number.
type packed struct {
	until ledger.Instant
	round uint32
	terms uint32
}

func (b *bans) put(iv nftset.Interval, h held) {
	if !iv.IsSingle() {
		if b.ranges == nil {
			b.ranges = make(map[nftset.Interval]held)
		}
		b.ranges[iv] = h
		return
	}
	p := packed{h.until, h.round, b.terms.use(terms{h.timeout, h.comment, h.byHand})}
	if old, ok := b.packed(iv.From); ok {
		b.terms.release(old.terms)
	}
	if iv.From.Type() == nftset.IPv4Addr {
		if b.v4 == nil {
			b.v4 = make(map[[4]byte]packed)
		}
		b.v4[iv.From.Addr().As4()] = p
	} else {
		if b.v6 == nil {
			b.v6 = make(map[nftset.Key]packed)
		}
		b.v6[iv.From] = p
	}
}

func (b *bans) get(iv nftset.Interval) (h held, ok bool) {
	switch {
	case b == nil:
		return held{}, false
	case !iv.IsSingle():
		h, ok = b.ranges[iv]
		return h, ok
	}
	p, ok := b.packed(iv.From)
	if !ok {
		return held{}, false
	}
	return b.unpack(p), true
}

func (b *bans) packed(k nftset.Key) (p packed, ok bool) {
	if k.Type() == nftset.IPv4Addr {
		p, ok = b.v4[k.Addr().As4()]
	} else {
		p, ok = b.v6[k]
	}
	return p, ok
}

func (b *bans) unpack(p packed) held {
	t := b.terms.at(p.terms)
	return held{timeout: t.timeout, until: p.until, comment: t.comment, byHand: t.byHand, round: p.round}
}

func (b *bans) drop(iv nftset.Interval) {
	switch {
	case b == nil:
		return
	case !iv.IsSingle():
		delete(b.ranges, iv)
		return
	}
	p, ok := b.packed(iv.From)
	if !ok {
		return
	}
	b.terms.release(p.terms)
	if iv.From.Type() == nftset.IPv4Addr {
		delete(b.v4, iv.From.Addr().As4())
	} else {
		delete(b.v6, iv.From)
	}
}

func (b *bans) len() int {
	if b == nil {
		return 0
	}
	return len(b.v4) + len(b.v6) + len(b.ranges)
}

// all yields all bans. Those that were yielded may be put anew and dropped meanwhile.
func (b *bans) all() iter.Seq2[nftset.Interval, held] {
	return func(yield func(nftset.Interval, held) bool) {
		if b == nil {
			return
		}
		for a, p := range b.v4 {
			if !yield(nftset.Single(nftset.AddrKey(netip.AddrFrom4(a))), b.unpack(p)) {
				return
			}
		}
		for k, p := range b.v6 {
			if !yield(nftset.Single(k), b.unpack(p)) {
				return
			}
		}
		for iv, h := range b.ranges {
			if !yield(iv, h) {
				return
			}
		}
	}
}
