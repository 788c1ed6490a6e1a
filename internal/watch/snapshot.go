package watch

import (
	"bytes"
	"cmp"
	"iter"
	"math"
	"net/netip"
	"slices"
	"time"

	"github.com/portmon/portmon/internal/ledger"
	"github.com/portmon/portmon/internal/state"
)

// snapshot is what is remembered at a moment, to be read by another goroutine. It is made for every saving of as many records as there
// are bans and offenders, and so they are small: 48 bytes where a [state.Record] has 136.
type snapshot struct {
	recs  []shortRecord
	terms termsTable // of all bans among recs
}

// shortRecord is a [state.Record]. Its terms are told by number, and mean nothing if it is not banned.
type shortRecord struct {
	addr      [16]byte
	left, age time.Duration
	offences  uint32
	terms     uint32
	port      uint16
	proto     uint8
	bits      uint8
	tier      uint8
	banned    bool
}

func (r *shortRecord) setPrefix(p netip.Prefix) { r.addr, r.bits = p.Addr().As16(), uint8(p.Bits()) }

// prefix tells families apart by the bits: if an IPv6 prefix has as few as that, then its address is not that of one of IPv4.
func (r *shortRecord) prefix() netip.Prefix {
	a := netip.AddrFrom16(r.addr)
	if r.bits <= 32 {
		a = a.Unmap()
	}
	return netip.PrefixFrom(a, int(r.bits))
}

func (r *shortRecord) compare(o *shortRecord) int {
	return cmp.Or(bytes.Compare(r.addr[:], o.addr[:]), cmp.Compare(r.bits, o.bits))
}

// ban adds a ban of a prefix.
func (s *snapshot) ban(p netip.Prefix, tier int, h held, now ledger.Instant) {
	rec := shortRecord{banned: true, tier: uint8(tier), terms: s.terms.use(terms{h.timeout, h.comment, h.byHand})}
	if rec.setPrefix(p); h.timeout > 0 {
		rec.left = min(h.until.Sub(now), h.timeout)
	}
	s.recs = append(s.recs, rec)
}

// merge sorts the bans, and leaves only the longest of each prefix: of those that are for ever, that in the lowest tier.
func (s *snapshot) merge() {
	left := func(r *shortRecord) time.Duration {
		if s.terms.at(r.terms).timeout == 0 {
			return math.MaxInt64
		}
		return r.left
	}
	slices.SortFunc(s.recs, func(a, b shortRecord) int {
		return cmp.Or(a.compare(&b), cmp.Compare(left(&b), left(&a)), cmp.Compare(a.tier, b.tier))
	})
	s.recs = slices.CompactFunc(s.recs, func(a, b shortRecord) bool { return a.compare(&b) == 0 })
}

// offender adds what is known of an offender to its ban, or to the end. bans is how many records there were after merge.
func (s *snapshot) offender(off ledger.Record, bans int, now ledger.Instant) {
	rec := shortRecord{left: min(off.End.Sub(now), 0)}
	rec.setPrefix(off.Source)
	i, banned := slices.BinarySearchFunc(s.recs[:bans], rec, func(a, b shortRecord) int { return a.compare(&b) })
	if !banned {
		i = len(s.recs)
		s.recs = append(s.recs, rec)
	}
	r := &s.recs[i]
	r.offences, r.age, r.proto, r.port = uint32(off.Offences), now.Sub(off.Last), off.Proto, off.Port
}

// records yields all records.
func (s *snapshot) records() iter.Seq[state.Record] {
	return func(yield func(state.Record) bool) {
		for i := range s.recs {
			if !yield(s.record(&s.recs[i])) {
				return
			}
		}
	}
}

func (s *snapshot) record(r *shortRecord) state.Record {
	rec := state.Record{
		Prefix: r.prefix(), Banned: r.banned, Tier: int(r.tier), Left: r.left,
		Offences: int(r.offences), Age: r.age, Proto: r.proto, Port: r.port,
	}
	if r.banned {
		t := s.terms.at(r.terms)
		rec.Timeout, rec.ByHand, rec.Comment = t.timeout, t.byHand, t.comment
	}
	return rec
}
