package ruleset

import (
	"net/netip"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// source is how a rule reads the source address of a packet: a family, and how
// many bits count.
type source struct {
	family
	bits int
}

// whole returns the source with all its bits.
func (f family) whole() source { return source{f, f.key.Len() * 8} }

// network returns the source cut to the bits by which the family is banned.
func (f family) network(prefix6 int) source {
	if f.is6() {
		return source{f, prefix6}
	}
	return f.whole()
}

// saddr loads the source address, and says how nft writes that.
func (s source) saddr() statement { return s.load("saddr", s.saddrAt) }

// load loads an address of the header.
func (s source) load(field string, offset uint32) statement {
	n := uint32(s.key.Len())
	st := statement{text: s.nft + " " + field, nfproto: s.number(), exprs: []expr.Any{
		&expr.Payload{DestRegister: register, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: n},
	}}
	if s.bits < int(8*n) {
		masked := s.masked(register)
		st.text, st.exprs = st.text+masked.text, append(st.exprs, masked.exprs...)
	}
	return st
}

// masked cuts an address in the first register, into another one.
func (s source) masked(into uint32) statement {
	n := s.key.Len()
	mask := make([]byte, n)
	for i := range s.bits {
		mask[i/8] |= 0x80 >> (i % 8)
	}
	a, _ := netip.AddrFromSlice(mask)
	return statement{text: " & " + a.String(), exprs: []expr.Any{
		&expr.Bitwise{SourceRegister: register, DestRegister: into, Len: uint32(n), Mask: mask, Xor: make([]byte, n)},
	}}
}

// is matches packets of which what was loaded is in the set.
func (s statement) is(set string) statement {
	return s.and(" @"+set, &expr.Lookup{SourceRegister: register, SetName: set})
}

// isNot matches packets of which what was loaded is not in the set.
func (s statement) isNot(set string) statement {
	return s.and(" != @"+set, &expr.Lookup{SourceRegister: register, SetName: set, Invert: true})
}

// and returns the statement with more text and another expression.
func (s statement) and(text string, e expr.Any) statement {
	s.text += text
	s.exprs = append(s.exprs[:len(s.exprs):len(s.exprs)], e)
	return s
}

// in matches packets whose source is in the set.
func (s source) in(set string) statement { return s.saddr().is(set) }

// notIn matches packets whose source is not in the set.
func (s source) notIn(set string) statement { return s.inNone([]question{{s.bits, set}}) }

// add adds the source to a set, or renews it there.
func (s source) add(e element) statement {
	e.key = s.saddr()
	return e.statement()
}

// pair loads an address and the destination port, as they are concatenated in a
// set: each part begins a multiple of 4 bytes behind the other.
func (s source) pair(field string, offset uint32, proto byte) statement {
	st := s.load(field, offset)
	at := unix.NFT_REG32_00 + uint32(s.key.Len()/4)
	if at == unix.NFT_REG32_04 {
		at = unix.NFT_REG_2 // the same place, and what nft calls it
	}
	st.l4proto = proto
	port := &expr.Payload{DestRegister: at, Base: expr.PayloadBaseTransportHeader, Offset: portAt, Len: 2}
	return st.and(" . "+protoName(proto)+" dport", port)
}

// probe loads the source and the destination port.
func (s source) probe() statement { return s.pair("saddr", s.saddrAt, anyProtocol) }

// service loads the destination and the destination port.
func (f family) service(proto byte) statement { return f.whole().pair("daddr", f.daddrAt, proto) }

// question is one set that must not hold a source, and by how many of its bits.
type question struct {
	bits int
	set  string
}

// inNone matches packets whose source is in none of the sets. The source is
// loaded once, and cut into another register for each length, where nft would
// load it each time; it lists both in the same way.
//
// A packet may ask one set before a transaction and the next one after it, and
// not all sets change at the same instant. So a ban that moves must be in both
// for a while, whatever the order: [Apply] adds to the set of prefixes before
// it deletes from the other.
func (f family) inNone(questions []question) statement {
	whole := f.whole()
	load := whole.saddr()
	st := statement{nfproto: load.nfproto, exprs: load.exprs}
	into := uint32(register)
	last := whole.bits
	for i, q := range questions {
		text, from := load.text, uint32(register)
		if q.bits != whole.bits {
			if q.bits != last {
				into++
				st.exprs = append(st.exprs, source{f, q.bits}.masked(into).exprs...)
			}
			text, from = text+source{f, q.bits}.masked(register).text, into
			last = q.bits
		}
		if i > 0 {
			st.text += " "
		}
		st.text += text + " != @" + q.set
		st.exprs = append(st.exprs, &expr.Lookup{SourceRegister: from, SetName: q.set, Invert: true})
	}
	return st
}
