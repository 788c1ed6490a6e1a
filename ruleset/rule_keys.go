package ruleset

import (
	"net/netip"
	"strings"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// portAt is the offset of the destination port, of TCP and UDP alike.
const portAt = 2

// headerField is a field of a header.
type headerField struct {
	base             expr.PayloadBase
	at, length       uint32
	nfproto, l4proto byte // the protocols of packets that have it, 0 for any
}

// headerFields are those that rules read. th is for rules that only packets of
// one protocol come to: their ports are read without asking again which it is.
var headerFields = func() map[string]headerField {
	transport := expr.PayloadBaseTransportHeader
	all := map[string]headerField{
		"tcp dport":   {transport, portAt, 2, 0, unix.IPPROTO_TCP},
		"udp dport":   {transport, portAt, 2, 0, unix.IPPROTO_UDP},
		"th dport":    {transport, portAt, 2, 0, anyProtocol},
		"icmpv6 type": {transport, 0, 1, 0, unix.IPPROTO_ICMPV6},
		// Our rules read it of ICMPv6 only, which few packets are.
		"ip6 hoplimit": {expr.PayloadBaseNetworkHeader, 7, 1, unix.NFPROTO_IPV6, unix.IPPROTO_ICMPV6},
	}
	for _, f := range families {
		address := headerField{expr.PayloadBaseNetworkHeader, f.saddrAt, uint32(f.key.Len()), f.number(), anyProtocol}
		all[f.nft+" saddr"] = address
		address.at = f.daddrAt
		all[f.nft+" daddr"] = address
	}
	return all
}()

func (f headerField) payload(into uint32) *expr.Payload {
	return &expr.Payload{DestRegister: into, Base: f.base, Offset: f.at, Len: f.length}
}

// key is what a set is asked for, or gets, and what is compared: a field, or a
// part of it, and a port.
type key struct {
	headerField
	name string // "ip saddr"
	bits int    // of the field that count
	port *headerField
}

// key reads a key, of whose name the first word has been read.
func (p *parser) key(word string) key {
	name := func(word string) (string, headerField) {
		word += " " + p.next()
		f, known := headerFields[word]
		p.check(known)
		return word, f
	}
	var k key
	k.name, k.headerField = name(word)
	k.bits = int(8 * k.length)
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
	if p.accept(".") {
		_, port := name(p.next())
		k.port = &port
	}
	return k
}

// match reads the rest of a statement that asks about a key.
func (p *parser) match(k key) {
	if !strings.HasPrefix(p.rest, "!= @") || k.port != nil {
		p.load(k)
		p.relation(k.length)
		return
	}
	// One address is loaded once, however many sets must not hold it, and masked
	// into other registers. nft would load it each time; it lists both alike.
	if p.run != k.name {
		p.require(k.nfproto, k.l4proto)
		p.add(k.payload(register))
		p.run, p.into, p.intoBits = k.name, register, int(8*k.length)
	}
	from := uint32(register)
	if k.bits < int(8*k.length) {
		if k.bits != p.intoBits {
			p.into++
			p.intoBits = k.bits
			p.add(mask(p.into, netmask(int(k.length), k.bits)))
		}
		from = p.into
	}
	p.expect("!=")
	p.add(&expr.Lookup{SourceRegister: from, SetName: strings.TrimPrefix(p.next(), "@"), Invert: true})
}

// load loads a key into the register. The parts of a concatenation begin
// multiples of 4 bytes behind each other.
func (p *parser) load(k key) {
	p.run = ""
	p.require(k.nfproto, k.l4proto)
	if k.port != nil {
		p.require(k.port.nfproto, k.port.l4proto)
	}
	p.add(k.payload(register))
	if k.bits < int(8*k.length) {
		p.add(mask(register, netmask(int(k.length), k.bits)))
	}
	if k.port != nil {
		at := unix.NFT_REG32_00 + k.length/4
		if at == unix.NFT_REG32_04 {
			at = unix.NFT_REG_2 // the same place, and what nft calls it
		}
		p.add(k.port.payload(at))
	}
}

// dynset reads a statement that adds an element to a set, renews or deletes it.
func (p *parser) dynset(op uint32) {
	d := &expr.Dynset{SrcRegKey: register, SetName: strings.TrimPrefix(p.next(), "@"), Operation: op}
	p.expect("{")
	p.load(p.key(p.next()))
	if p.accept("timeout") {
		d.Timeout = p.duration()
	}
	if p.accept("limit") {
		d.Exprs = []expr.Any{p.limit()}
	}
	p.expect("}")
	p.add(d)
}
