package ruleset

import (
	"net/netip"
	"strings"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// portAt is the offset of the destination port, of TCP and UDP alike.
const portAt = 2

func transport(offset, length, into uint32) *expr.Payload {
	return &expr.Payload{DestRegister: into, Base: expr.PayloadBaseTransportHeader, Offset: offset, Len: length}
}

// transport reads a statement about a transport header.
func (p *parser) transport(proto byte) {
	p.requireProtocol(proto)
	switch field := p.next(); field {
	case "dport":
		p.add(transport(portAt, 2, register))
		p.relation(p.portOf)
	case "type": // of ICMPv6
		p.add(transport(0, 1, register))
		p.relation(p.byteOf)
	default:
		p.check(false)
	}
}

// network reads a statement about a network header.
func (p *parser) network(f family) {
	if p.accept("hoplimit") {
		// Our rules read it of ICMPv6 only, which few packets are.
		p.requireFamily(f.number())
		p.requireProtocol(unix.IPPROTO_ICMPV6)
		p.add(&expr.Payload{DestRegister: register, Base: expr.PayloadBaseNetworkHeader, Offset: 7, Len: 1})
		p.relation(p.byteOf)
		return
	}
	k := p.key(f)
	if !strings.HasPrefix(p.rest, "!= @") || k.port {
		p.load(k)
		p.relation(nil)
		return
	}
	// One address is loaded once, however many sets must not hold it, and masked
	// into other registers. nft would load it each time; it lists both alike.
	if p.run != k.field {
		p.requireFamily(f.number())
		p.add(k.payload())
		p.run, p.into, p.intoBits = k.field, register, f.bits()
	}
	from := uint32(register)
	if k.bits < f.bits() {
		if k.bits != p.intoBits {
			p.into++
			p.intoBits = k.bits
			p.add(k.mask(p.into))
		}
		from = p.into
	}
	p.expect("!=")
	p.add(&expr.Lookup{SourceRegister: from, SetName: strings.TrimPrefix(p.next(), "@"), Invert: true})
}

// key is what a set is asked for, or gets: an address, or a part of it, and a
// port.
type key struct {
	family
	field string // "ip saddr"
	at    uint32 // its offset
	bits  int    // of it that count
	port  bool
	proto byte
}

// key reads a key.
func (p *parser) key(f family) key {
	k := key{family: f, at: f.saddrAt, bits: f.bits()}
	field := p.next()
	if k.field = f.nft + " " + field; field == "daddr" {
		k.at = f.daddrAt
	}
	if p.accept("&") {
		mask, err := netip.ParseAddr(p.next())
		p.check(err == nil)
		k.bits = 0
		for _, b := range mask.AsSlice() {
			for ; b != 0; b <<= 1 {
				k.bits++
			}
		}
	}
	if k.port = p.accept("."); k.port {
		k.proto = protocols[p.next()]
		p.expect("dport")
	}
	return k
}

func (k key) payload() *expr.Payload {
	return &expr.Payload{
		DestRegister: register, Base: expr.PayloadBaseNetworkHeader, Offset: k.at, Len: uint32(k.key.Len()),
	}
}

// mask cuts an address in the first register, into another one.
func (k key) mask(into uint32) *expr.Bitwise {
	n := k.key.Len()
	return &expr.Bitwise{
		SourceRegister: register, DestRegister: into, Len: uint32(n), Mask: netmask(k.family, k.bits).AsSlice(), Xor: make([]byte, n),
	}
}

// load loads a key into the register. The parts of a concatenation begin
// multiples of 4 bytes behind each other.
func (p *parser) load(k key) {
	p.run = ""
	p.requireFamily(k.number())
	p.requireProtocol(k.proto)
	p.add(k.payload())
	if k.bits < k.family.bits() {
		p.add(k.mask(register))
	}
	if k.port {
		at := unix.NFT_REG32_00 + uint32(k.key.Len()/4)
		if at == unix.NFT_REG32_04 {
			at = unix.NFT_REG_2 // the same place, and what nft calls it
		}
		p.add(transport(portAt, 2, at))
	}
}

// dynset reads a statement that adds an element to a set, renews or deletes it.
func (p *parser) dynset(op uint32) {
	d := &expr.Dynset{SrcRegKey: register, SetName: strings.TrimPrefix(p.next(), "@"), Operation: op}
	p.expect("{")
	p.load(p.key(familyNamed(p.next())))
	if p.accept("timeout") {
		d.Timeout = p.duration()
	}
	if p.accept("limit") {
		d.Exprs = []expr.Any{p.limit()}
	}
	p.expect("}")
	p.add(d)
}
