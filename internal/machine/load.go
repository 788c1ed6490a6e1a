package machine

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// value reads what an expression puts into a register, as two big-endian words.
type value func(p *Packet) (hi, lo uint64)

// load is a value that will be loaded, and its mask.
type load struct {
	value  value
	field  field // where it is, if it is a part of a header
	length int   // in bytes; 0 if nothing was loaded
	mask   words
	number bool // it is in host byte order, and can only be compared for equality
	// constant says that it is the same for all packets of the class: the value
	// does not ask for one.
	constant bool
}

// field is a part of a header.
type field struct {
	transport bool
	at        int
}

func (f field) header(p *Packet) []byte {
	if f.transport {
		return p.transport
	}
	return p.net
}

// wordsAt reads up to 24 bytes.
func wordsAt(b []byte) (w words) {
	var padded [24]byte
	copy(padded[:], b)
	for i := range w {
		w[i] = binary.BigEndian.Uint64(padded[8*i:])
	}
	return w
}

// ones returns n bytes with all bits set.
func ones(n int) (w words) {
	for i := range w {
		w[i] = ^uint64(0) << (64 - 8*min(8, max(0, n-8*i)))
	}
	return w
}

// native puts a number into a register in host byte order, as the kernel does.
func native(v uint32) uint64 {
	return uint64(binary.BigEndian.Uint32(binary.NativeEndian.AppendUint32(nil, v))) << 32
}

var errUnknown = errors.New("it is used in an unknown way")

// loadMeta returns what a meta expression loads from packets of a class.
func loadMeta(e *expr.Meta, known class) (load, error) {
	if e.SourceRegister {
		return load{}, errUnknown
	}
	byteOf := func(f func(p *Packet) uint8) load {
		return load{value: func(p *Packet) (uint64, uint64) { return uint64(f(p)) << 56, 0 }, length: 1}
	}
	switch {
	case known == class{}:
	case e.Key == expr.MetaKeyNFPROTO:
		return constantByte(known.family), nil
	case e.Key == expr.MetaKeyL4PROTO:
		return constantByte(known.proto), nil
	}
	switch e.Key {
	case expr.MetaKeyNFPROTO:
		return byteOf(func(p *Packet) uint8 { return p.family }), nil
	case expr.MetaKeyL4PROTO:
		return byteOf(func(p *Packet) uint8 { return p.Proto }), nil
	case expr.MetaKeyIIF:
		return numberOf(func(p *Packet) uint32 {
			if p.In == "lo" {
				return 1
			}
			return 2
		}), nil
	case expr.MetaKeyIIFNAME:
		return load{length: unix.IFNAMSIZ, value: func(p *Packet) (uint64, uint64) {
			w := wordsAt([]byte(p.In[:min(len(p.In), unix.IFNAMSIZ)]))
			return w[0], w[1]
		}}, nil
	}
	return load{}, errUnknown
}

func constantByte(v uint8) load {
	return load{length: 1, constant: true, value: func(*Packet) (uint64, uint64) { return uint64(v) << 56, 0 }}
}

func numberOf(f func(p *Packet) uint32) load {
	return load{number: true, length: 4, value: func(p *Packet) (uint64, uint64) { return native(f(p)), 0 }}
}

// loadPayload returns what a payload expression loads, and a test whether the
// header is long enough; nil if it is in all packets of a class. The rule ends if
// the test fails.
func loadPayload(e *expr.Payload, known class) (l load, enough step, err error) {
	f := field{e.Base == expr.PayloadBaseTransportHeader, int(e.Offset)}
	if e.OperationType != expr.PayloadLoad || !f.transport && e.Base != expr.PayloadBaseNetworkHeader ||
		e.Len == 0 || e.Len > 16 || e.Offset > 255 {
		return load{}, nil, errUnknown
	}
	l = load{field: f, length: int(e.Len)}
	end := f.at + l.length
	if f.transport && end > known.header || !f.transport && end > 20 && (known.family != unix.NFPROTO_IPV6 || end > 40) {
		enough = func(p *Packet, ls lanes) lanes { return ls.when(len(f.header(p)) >= end) }
	}
	l.value = func(p *Packet) (uint64, uint64) {
		w := wordsAt(f.header(p)[f.at:end])
		return w[0], w[1]
	}
	at := f.at
	switch {
	case f.transport && l.length == 1:
		l.value = func(p *Packet) (uint64, uint64) { return uint64(p.transport[at]) << 56, 0 }
	case f.transport && l.length == 2:
		l.value = func(p *Packet) (uint64, uint64) { return uint64(binary.BigEndian.Uint16(p.transport[at:])) << 48, 0 }
	case !f.transport && l.length == 4:
		l.value = func(p *Packet) (uint64, uint64) { return uint64(binary.BigEndian.Uint32(p.net[at:])) << 32, 0 }
	case !f.transport && l.length == 16:
		l.value = func(p *Packet) (uint64, uint64) {
			return binary.BigEndian.Uint64(p.net[at:]), binary.BigEndian.Uint64(p.net[at+8:])
		}
	}
	return l, enough, nil
}

// loadCt returns what a ct expression loads. Except for the state, the rule
// ends if the packet has no connection.
func loadCt(e *expr.Ct) (l load, has step, err error) {
	if e.SourceRegister || e.Direction != 0 {
		return load{}, nil, errUnknown
	}
	has = func(p *Packet, ls lanes) lanes { return ls.when(p.ct.known) }
	switch e.Key {
	case expr.CtKeySTATE:
		return numberOf(func(p *Packet) uint32 { return p.ct.state }), nil, nil
	case expr.CtKeyDIRECTION:
		return load{length: 1, value: func(p *Packet) (uint64, uint64) {
			if p.ct.reply {
				return 1 << 56, 0
			}
			return 0, 0
		}}, has, nil
	case expr.CtKeySTATUS:
		return numberOf(func(*Packet) uint32 { return 0 }), has, nil // no NAT
	}
	return load{}, nil, errUnknown
}

// loadFib returns what a routing lookup loads.
func loadFib(e *expr.Fib) (load, error) {
	is := func(local func(p *Packet) bool) load {
		return numberOf(func(p *Packet) uint32 {
			if local(p) {
				return unix.RTN_LOCAL
			}
			return unix.RTN_UNICAST
		})
	}
	switch *e {
	case expr.Fib{Register: e.Register, ResultADDRTYPE: true, FlagSADDR: true}:
		return is(func(p *Packet) bool { return p.host.IsLocal(p.Src) }), nil
	case expr.Fib{Register: e.Register, ResultADDRTYPE: true, FlagDADDR: true}:
		return is(func(p *Packet) bool { return p.host.IsLocal(p.Dst) }), nil
	case expr.Fib{Register: e.Register, ResultOIF: true, FlagSADDR: true, FlagMARK: true, FlagIIF: true, FlagPRESENT: true}:
		return numberOf(func(*Packet) uint32 { return 1 }), nil // there is a route back
	}
	return load{}, errUnknown
}

// loadSocket returns what a socket expression loads. The rule ends if no socket
// would get the packet.
func loadSocket(e *expr.Socket) (l load, has step, err error) {
	has = func(p *Packet, ls lanes) lanes { return ls.when(p.host.hasSocket(p)) }
	switch e.Key {
	case expr.SocketKeyTransparent:
		l = load{length: 1, value: func(*Packet) (uint64, uint64) { return 0, 0 }}
	case expr.SocketKeyWildcard: // whether it is bound to any address
		l = load{length: 1, value: func(p *Packet) (uint64, uint64) {
			if p.ct.reply {
				return 0, 0
			}
			return 1 << 56, 0
		}}
	default:
		return load{}, nil, errUnknown
	}
	return l, has, nil
}

// registers are what the expressions of a rule have loaded, in units of 4
// bytes.
type registers [20]load

// unit returns the first unit of a register.
func unit(register uint32) (int, error) {
	switch {
	case register >= unix.NFT_REG_1 && register <= unix.NFT_REG_4:
		return int(4 * (register - unix.NFT_REG_1)), nil
	case register >= unix.NFT_REG32_00 && register <= unix.NFT_REG32_15:
		return int(register - unix.NFT_REG32_00), nil
	}
	return 0, fmt.Errorf("register %d is not known", register)
}

func (r *registers) put(register uint32, l load) error {
	at, err := unit(register)
	if err != nil {
		return err
	}
	if l.mask == (words{}) {
		l.mask = ones(l.length)
	}
	for i := at + 1; i < min(len(r), at+(l.length+3)/4); i++ {
		r[i] = load{} // it was overwritten
	}
	r[at] = l
	return nil
}

func (r *registers) get(register uint32) (load, error) {
	at, err := unit(register)
	if err != nil {
		return load{}, err
	}
	if r[at].length == 0 {
		return load{}, fmt.Errorf("register %d is used before it is loaded", register)
	}
	return r[at], nil
}

// key returns the values that make up a key of some bytes from a register on:
// one, or an address and a port.
func (r *registers) key(register uint32, length int) (value, *value, error) {
	first, err := r.get(register)
	if err != nil {
		return nil, nil, err
	}
	whole := first.read()
	if first.length == length {
		return whole, nil, nil
	}
	at, _ := unit(register)
	at += first.length / 4
	if first.length%4 != 0 || at >= len(r) || r[at].length == 0 || first.length+(r[at].length+3)/4*4 != length {
		return nil, nil, errors.New("it is loaded in unknown parts")
	}
	second := r[at].read()
	return whole, &second, nil
}

// read returns the value, masked.
func (l load) read() value {
	full := ones(l.length)
	if l.mask == full {
		return l.value
	}
	v, hiMask, loMask := l.value, l.mask[0], l.mask[1]
	return func(p *Packet) (uint64, uint64) {
		hi, lo := v(p)
		return hi & hiMask, lo & loMask
	}
}

// masked returns the value with the mask of a bitwise expression.
func (l load) masked(e *expr.Bitwise) (load, error) {
	if int(e.Len) != l.length || len(e.Mask) != l.length || len(e.Xor) != l.length || bits.OnesCount8(orOf(e.Xor)) > 0 {
		return load{}, errUnknown
	}
	mask := wordsAt(e.Mask)
	for i := range l.mask {
		l.mask[i] &= mask[i]
	}
	return l, nil
}

func orOf(b []byte) (all byte) {
	for _, v := range b {
		all |= v
	}
	return all
}
