package nftset

import (
	"encoding/binary"
	"errors"
	"iter"
	"syscall"

	"golang.org/x/sys/unix"
)

// errShort is the fault of every message or attribute that claims to be longer than what there is.
var errShort = errors.New("netlink: message or attribute is cut off")

// message is a netlink message; its slices point into the buffer it was read into.
type message struct {
	typ   uint16
	flags uint16
	seq   uint32
	body  []byte // what follows the netlink header
}

// generation returns the low 16 bits of the ruleset's generation, which nf_tables puts into each message.
func (m message) generation() uint16 { return binary.BigEndian.Uint16(m.body[2:]) }

// attrs returns what follows the nfgenmsg header.
func (m message) attrs() []byte { return m.body[nfHeaderLen:] }

// nextMessage splits the first message off b. Messages of nf_tables are checked to have their header.
func nextMessage(b []byte) (m message, rest []byte, err error) {
	if len(b) < nlHeaderLen {
		return m, nil, errShort
	}
	n := int(binary.NativeEndian.Uint32(b))
	if n < nlHeaderLen || n > len(b) {
		return m, nil, errShort
	}
	m = message{
		typ:   binary.NativeEndian.Uint16(b[4:]),
		flags: binary.NativeEndian.Uint16(b[6:]),
		seq:   binary.NativeEndian.Uint32(b[8:]),
		body:  b[nlHeaderLen:n],
	}
	if m.typ >= unix.NLMSG_MIN_TYPE && len(m.body) < nfHeaderLen {
		return m, nil, errShort
	}
	return m, b[min(align(n), len(b)):], nil
}

func align(n int) int { return (n + unix.NLA_ALIGNTO - 1) &^ (unix.NLA_ALIGNTO - 1) }

// attribute is a netlink attribute; data points into the message.
type attribute struct {
	typ  uint16
	data []byte
}

// nextAttr splits the first attribute off b.
func nextAttr(b []byte) (a attribute, rest []byte, err error) {
	if len(b) < attrHeader {
		return a, nil, errShort
	}
	n := int(binary.NativeEndian.Uint16(b))
	if n < attrHeader || n > len(b) {
		return a, nil, errShort
	}
	a = attribute{binary.NativeEndian.Uint16(b[2:]) &^ (unix.NLA_F_NESTED | unix.NLA_F_NET_BYTEORDER), b[attrHeader:n]}
	return a, b[min(align(n), len(b)):], nil
}

// attributes walks b. It ends with an error if b is malformed.
func attributes(b []byte) iter.Seq2[attribute, error] {
	return func(yield func(attribute, error) bool) {
		for len(b) > 0 {
			a, rest, err := nextAttr(b)
			if !yield(a, err) || err != nil {
				return
			}
			b = rest
		}
	}
}

func (a attribute) u32() uint32 {
	if len(a.data) != 4 {
		return 0
	}
	return binary.BigEndian.Uint32(a.data)
}

func (a attribute) u64() uint64 {
	if len(a.data) != 8 {
		return 0
	}
	return binary.BigEndian.Uint64(a.data)
}

func (a attribute) string() string {
	if n := len(a.data); n > 0 && a.data[n-1] == 0 {
		return string(a.data[:n-1])
	}
	return string(a.data)
}

// reply is the outcome that the kernel reports for one message.
type reply struct {
	seq    uint32
	errno  error // nil for an acknowledgement
	offset int   // where in the request the fault is, 0 if unknown
	text   string
}

// errorOf returns the errno that the body of an NLMSG_ERROR or NLMSG_DONE begins with, nil if it is 0.
func errorOf(m message) error {
	if len(m.body) < 4 {
		return nil
	}
	if n := int32(binary.NativeEndian.Uint32(m.body)); n != 0 {
		return syscall.Errno(-n)
	}
	return nil
}

// parseReply reads an NLMSG_ERROR message, with the attributes of an extended acknowledgement if it has them.
func parseReply(m message) (reply, error) {
	if len(m.body) < 4+nlHeaderLen {
		return reply{}, errShort
	}
	r := reply{seq: m.seq, errno: errorOf(m)}
	if m.flags&unix.NLM_F_ACK_TLVS == 0 {
		return r, nil
	}
	// With NETLINK_CAP_ACK only the header of the request is repeated, then the attributes follow.
	rest := m.body[4+nlHeaderLen:]
	if m.flags&unix.NLM_F_CAPPED == 0 {
		n := align(int(binary.NativeEndian.Uint32(m.body[4:])))
		if n < nlHeaderLen || 4+n > len(m.body) {
			return reply{}, errShort
		}
		rest = m.body[4+n:]
	}
	for a, err := range attributes(rest) {
		if err != nil {
			return reply{}, err
		}
		switch a.typ {
		case unix.NLMSGERR_ATTR_MSG:
			r.text = a.string()
		case unix.NLMSGERR_ATTR_OFFS:
			if len(a.data) == 4 {
				r.offset = int(binary.NativeEndian.Uint32(a.data))
			}
		}
	}
	return r, nil
}
