package nflog

import (
	"encoding/binary"
	"errors"

	"golang.org/x/sys/unix"
)

const nfgenmsgLen = 4 // struct nfgenmsg: family, version, group

// errShort is the fault of a message or attribute that claims to be longer than what there is.
var errShort = errors.New("netlink: message or attribute is cut off")

// message is a netlink message; body is a part of the buffer it was read into.
type message struct {
	typ  uint16
	seq  uint32
	body []byte // what follows the netlink header
}

// nextMessage splits the first message off b.
func nextMessage(b []byte) (m message, rest []byte, err error) {
	if len(b) < unix.SizeofNlMsghdr {
		return m, nil, errShort
	}
	n := binary.NativeEndian.Uint32(b)
	if n < unix.SizeofNlMsghdr || n > uint32(len(b)) {
		return m, nil, errShort
	}
	m = message{binary.NativeEndian.Uint16(b[4:]), binary.NativeEndian.Uint32(b[8:]), b[unix.SizeofNlMsghdr:n]}
	return m, after(b, int(n)), nil
}

// nextAttr splits the first attribute off b.
func nextAttr(b []byte) (typ uint16, value, rest []byte, err error) {
	if len(b) < unix.SizeofNlAttr {
		return 0, nil, nil, errShort
	}
	n := int(binary.NativeEndian.Uint16(b))
	if n < unix.SizeofNlAttr || n > len(b) {
		return 0, nil, nil, errShort
	}
	typ = binary.NativeEndian.Uint16(b[2:]) &^ (unix.NLA_F_NESTED | unix.NLA_F_NET_BYTEORDER)
	return typ, b[unix.SizeofNlAttr:n], after(b, n), nil
}

// after returns what follows the first n bytes of b. Netlink aligns everything to 4 bytes, but for the end of the last.
func after(b []byte, n int) []byte {
	return b[min((n+unix.NLA_ALIGNTO-1)&^(unix.NLA_ALIGNTO-1), len(b)):]
}

// be32 reads a number in network byte order, 0 if v is none.
func be32(v []byte) uint32 {
	if len(v) != 4 {
		return 0
	}
	return binary.BigEndian.Uint32(v)
}
