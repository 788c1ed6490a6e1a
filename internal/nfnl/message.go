// Package nfnl is the netlink wire of the nfnetlink subsystems (nf_tables and
// netlink log): messages, attributes and a socket, decoded in place.
package nfnl

import (
	"encoding/binary"
	"errors"
	"iter"
	"syscall"

	"golang.org/x/sys/unix"
)

// Lengths of headers in bytes.
const (
	HeaderLen     = unix.SizeofNlMsghdr
	GenHeaderLen  = 4 // struct nfgenmsg: family, version, res_id (big endian)
	AttrHeaderLen = unix.SizeofNlAttr
)

// ErrShort reports a message or attribute that claims to be longer than the
// datagram that it is in.
var ErrShort = errors.New("netlink: message or attribute is cut off")

// Message is a netlink message. Body is part of the buffer that it was read
// into.
type Message struct {
	Type, Flags uint16
	Seq, Port   uint32
	Body        []byte // what follows the netlink header
}

// Attrs returns what follows the nfgenmsg header.
func (m Message) Attrs() []byte { return m.Body[GenHeaderLen:] }

// Resource returns the res_id of the nfgenmsg header: in nf_tables the low 16
// bits of the ruleset's generation.
func (m Message) Resource() uint16 { return binary.BigEndian.Uint16(m.Body[2:]) }

// NextMessage splits the first message off b. Messages of a subsystem are
// checked to have their nfgenmsg header.
func NextMessage(b []byte) (m Message, rest []byte, err error) {
	if len(b) < HeaderLen {
		return m, nil, ErrShort
	}
	n := int(binary.NativeEndian.Uint32(b))
	if n < HeaderLen || n > len(b) {
		return m, nil, ErrShort
	}
	m = Message{
		Type:  binary.NativeEndian.Uint16(b[4:]),
		Flags: binary.NativeEndian.Uint16(b[6:]),
		Seq:   binary.NativeEndian.Uint32(b[8:]),
		Port:  binary.NativeEndian.Uint32(b[12:]),
		Body:  b[HeaderLen:n],
	}
	if m.Type >= unix.NLMSG_MIN_TYPE && len(m.Body) < GenHeaderLen {
		return m, nil, ErrShort
	}
	return m, b[min(align(n), len(b)):], nil
}

// Messages walks the messages of a datagram. It ends with an error if one is cut
// off.
func Messages(b []byte) iter.Seq2[Message, error] {
	return func(yield func(Message, error) bool) {
		for len(b) > 0 {
			m, rest, err := NextMessage(b)
			if !yield(m, err) || err != nil {
				return
			}
			b = rest
		}
	}
}

// align rounds up to 4 bytes, to which netlink aligns all but the end of the
// last.
func align(n int) int { return (n + unix.NLA_ALIGNTO - 1) &^ (unix.NLA_ALIGNTO - 1) }

// Attr is a netlink attribute. Data is part of the message.
type Attr struct {
	Type uint16
	Data []byte
}

// NextAttr splits the first attribute off b.
func NextAttr(b []byte) (a Attr, rest []byte, err error) {
	if len(b) < AttrHeaderLen {
		return a, nil, ErrShort
	}
	n := int(binary.NativeEndian.Uint16(b))
	if n < AttrHeaderLen || n > len(b) {
		return a, nil, ErrShort
	}
	typ := binary.NativeEndian.Uint16(b[2:]) &^ (unix.NLA_F_NESTED | unix.NLA_F_NET_BYTEORDER)
	return Attr{typ, b[AttrHeaderLen:n]}, b[min(align(n), len(b)):], nil
}

// Attrs walks the attributes in b. It ends with an error if b is malformed.
func Attrs(b []byte) iter.Seq2[Attr, error] {
	return func(yield func(Attr, error) bool) {
		for len(b) > 0 {
			a, rest, err := NextAttr(b)
			if !yield(a, err) || err != nil {
				return
			}
			b = rest
		}
	}
}

// Parse returns the attributes in b by their types. The zero Attr, of a type
// that is not there, reads as 0 and "".
func Parse(b []byte) (map[uint16]Attr, error) {
	out := make(map[uint16]Attr)
	for a, err := range Attrs(b) {
		if err != nil {
			return nil, err
		}
		out[a.Type] = a
	}
	return out, nil
}

// Uint32 reads a number in network byte order, 0 if the length is another.
func (a Attr) Uint32() uint32 {
	if len(a.Data) != 4 {
		return 0
	}
	return binary.BigEndian.Uint32(a.Data)
}

// Uint64 reads a number in network byte order, 0 if the length is another.
func (a Attr) Uint64() uint64 {
	if len(a.Data) != 8 {
		return 0
	}
	return binary.BigEndian.Uint64(a.Data)
}

// Text returns the bytes of a string, without the NUL that ends it.
func (a Attr) Text() []byte {
	if n := len(a.Data); n > 0 && a.Data[n-1] == 0 {
		return a.Data[:n-1]
	}
	return a.Data
}

// Errno returns the errno that the body of an NLMSG_ERROR or NLMSG_DONE begins
// with, nil if it is 0.
func (m Message) Errno() error {
	if len(m.Body) < 4 {
		return nil
	}
	if n := int32(binary.NativeEndian.Uint32(m.Body)); n != 0 {
		return syscall.Errno(-n)
	}
	return nil
}

// Reply is the outcome that the kernel reports for one message.
type Reply struct {
	Errno  error  // nil for an acknowledgement
	Offset int    // where in the request the fault is, 0 if unknown
	Text   string // the kernel's message, often empty
}

// ParseReply reads an NLMSG_ERROR message, with the attributes of an extended
// acknowledgement if it has any. They follow the header of the request, of which
// NETLINK_CAP_ACK cuts off the rest.
func ParseReply(m Message) (Reply, error) {
	if len(m.Body) < 4+HeaderLen {
		return Reply{}, ErrShort
	}
	r := Reply{Errno: m.Errno()}
	if m.Flags&unix.NLM_F_ACK_TLVS == 0 || m.Flags&unix.NLM_F_CAPPED == 0 {
		return r, nil
	}
	attrs, err := Parse(m.Body[4+HeaderLen:])
	if err != nil {
		return Reply{}, err
	}
	r.Text = string(attrs[unix.NLMSGERR_ATTR_MSG].Text())
	if offset := attrs[unix.NLMSGERR_ATTR_OFFS].Data; len(offset) == 4 {
		r.Offset = int(binary.NativeEndian.Uint32(offset))
	}
	return r, nil
}
