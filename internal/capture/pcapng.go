package capture

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"iter"
	"math/bits"
	"time"
)

const (
	ngMagic       = "\x0a\x0d\x0d\x0a" // the same in both byte orders
	byteOrderMark = 0x1a2b3c4d

	blockInterface = 1
	blockPacket    = 2 // obsolete
	blockSimple    = 3
	blockEnhanced  = 6
	blockSection   = 0x0a0d0d0a

	optionEnd        = 0
	optionName       = 2  // of an interface
	optionFlags      = 2  // of a packet
	optionResolution = 9  // of an interface
	optionOffset     = 14 // of an interface

	blockFrame    = 12 // type, length, and the length again at the end
	maxBlock      = 1 << 30
	maxInterfaces = 4096 // of a section, to bound memory
	maxSeconds    = 1 << 33
)

// pcapng reads blocks. Each has its length at both ends.
type pcapng struct {
	in         *source
	order      binary.ByteOrder
	interfaces []ngInterface
}

type ngInterface struct {
	name   string
	link   link   // nil if its packets are not read
	unit   uint64 // units of its clock in a second
	offset int64  // seconds
}

func (f *pcapng) read(p *Packet) error {
	for {
		kind, body, err := f.block()
		if err != nil {
			return err
		}
		err = errNotIP
		switch kind {
		case blockSection:
			f.interfaces = f.interfaces[:0]
		case blockInterface:
			err = f.addInterface(body)
		case blockEnhanced, blockPacket, blockSimple:
			err = f.packet(p, kind, body)
		}
		if err != nil && err != errNotIP {
			return err
		}
		if err == nil && p.Data != nil {
			return nil
		}
		*p = Packet{}
	}
}

// block returns the type and the body of the next block. The body of one that
// is too long to hold a packet is skipped.
func (f *pcapng) block() (uint32, []byte, error) {
	f.in.start = f.in.next
	b, err := f.in.peek(blockFrame)
	if err != nil {
		return 0, nil, err
	}
	if string(b[:4]) == ngMagic {
		switch uint32(byteOrderMark) {
		case binary.LittleEndian.Uint32(b[8:]):
			f.order = binary.LittleEndian
		case binary.BigEndian.Uint32(b[8:]):
			f.order = binary.BigEndian
		default:
			return 0, nil, fmt.Errorf("a section of unknown byte order: the file is damaged from here on")
		}
	}
	kind, length := f.order.Uint32(b), f.order.Uint32(b[4:])
	if length < blockFrame || length > maxBlock || length%4 != 0 {
		return 0, nil, fmt.Errorf("a block of %d bytes: the file is damaged from here on", length)
	}
	if length > bufferSize {
		if err := f.in.skip(int(length)); err != nil {
			return 0, nil, err
		}
		if kind == blockEnhanced || kind == blockPacket || kind == blockSimple {
			return 0, nil, damagef("a packet in a block of %d bytes", length)
		}
		return kind, nil, nil
	}
	if b, err = f.in.peek(int(length)); err != nil {
		return 0, nil, err
	}
	if again := f.order.Uint32(b[length-4:]); again != length {
		return 0, nil, fmt.Errorf("a block of %d or %d bytes: the file is damaged from here on", length, again)
	}
	return kind, b[8 : length-4], f.in.skip(int(length))
}

func (f *pcapng) addInterface(b []byte) error {
	if len(f.interfaces) == maxInterfaces {
		return fmt.Errorf("more than %d interfaces", maxInterfaces)
	}
	i := ngInterface{unit: 1e6}
	defer func() { f.interfaces = append(f.interfaces, i) }()
	if len(b) < 8 {
		return damagef("an interface of %d bytes", len(b))
	}
	for code, value := range f.options(b[8:]) {
		switch {
		case code == optionName:
			if i.name = deviceName(bytes.TrimRight(value, "\x00")); i.name == "any" {
				i.name = "" // of all interfaces
			}
		case code == optionResolution && len(value) == 1:
			var ok bool
			if i.unit, ok = unitOf(value[0]); !ok {
				return damagef("an interface whose clock has the resolution %#x", value[0])
			}
		case code == optionOffset && len(value) == 8:
			i.offset = int64(f.order.Uint64(value))
		}
	}
	var err error
	if i.link, err = linkOf(uint32(f.order.Uint16(b))); err != nil {
		return damage{err}
	}
	return nil
}

// unitOf returns the units in a second, a power of 2 or of 10.
func unitOf(resolution byte) (uint64, bool) {
	exponent := resolution & 0x7f
	if resolution&0x80 != 0 {
		return 1 << exponent, exponent < 64
	}
	unit := uint64(1)
	for range min(exponent, 20) {
		unit *= 10
	}
	return unit, exponent < 20
}

// packet takes the packet from a block.
func (f *pcapng) packet(p *Packet, kind uint32, b []byte) error {
	const header = 20
	switch {
	case kind == blockSimple:
		return damagef("a packet without a time")
	case len(b) < header:
		return errShort
	}
	id, captured := f.order.Uint32(b), f.order.Uint32(b[12:])
	if kind == blockPacket {
		id = uint32(f.order.Uint16(b))
	}
	if id >= uint32(len(f.interfaces)) {
		return damagef("a packet of interface %d, of which the file has said nothing", id)
	}
	i := &f.interfaces[id]
	if i.link == nil {
		return errNotIP
	}
	if captured > uint32(len(b)-header) {
		return damagef("a packet of %d bytes in a block that has %d", captured, len(b)-header)
	}
	var err error
	if p.Time, err = i.time(uint64(f.order.Uint32(b[4:]))<<32 | uint64(f.order.Uint32(b[8:]))); err != nil {
		return err
	}
	p.In = i.name
	if err := i.link(b[header:header+int(captured)], p); err != nil {
		return err
	}
	for code, value := range f.options(b[header+min((int(captured)+3)&^3, len(b)-header):]) {
		if code == optionFlags && len(value) == 4 {
			p.setFlags(f.order.Uint32(value))
		}
	}
	if p.Path == Sent {
		p.In = ""
	}
	return nil
}

// setFlags sets the direction of a packet from its flags, unless the frame has
// told it.
func (p *Packet) setFlags(flags uint32) {
	switch {
	case p.Path != PathUnknown:
	case flags&3 == 2:
		p.Path = Sent
	case flags>>2&7 > 1: // neither unknown nor unicast
		p.Path = Elsewhere
	case flags&3 == 1:
		p.Path = Received
	}
}

func (i *ngInterface) time(t uint64) (time.Time, error) {
	seconds, rest := t/i.unit, t%i.unit
	if i.offset < 0 || i.offset > maxSeconds || seconds > maxSeconds {
		return time.Time{}, damagef("a packet of the year %d or later", time.Unix(maxSeconds, 0).Year())
	}
	high, low := bits.Mul64(rest, 1e9)
	nanoseconds, _ := bits.Div64(high, low, i.unit)
	return time.Unix(int64(seconds)+i.offset, int64(nanoseconds)), nil
}

// options yields the options of a block, as far as they are complete.
func (f *pcapng) options(b []byte) iter.Seq2[uint16, []byte] {
	return func(yield func(uint16, []byte) bool) {
		for len(b) >= 4 {
			code, length := f.order.Uint16(b), int(f.order.Uint16(b[2:]))
			b = b[4:]
			if code == optionEnd || length > len(b) || !yield(code, b[:length]) {
				return
			}
			b = b[min((length+3)&^3, len(b)):]
		}
	}
}
