package nftset

import (
	"cmp"
	"encoding/binary"
	"time"

	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/internal/nfnl"
)

// maxAttr is the longest that an attribute can be: its length is a __u16.
const maxAttr = 65535

// encoder appends netlink messages and attributes to one buffer. Netlink aligns
// everything to 4 bytes.
type encoder struct{ b []byte }

// begin starts an nf_tables message and returns its offset.
func (e *encoder) begin(typ uint16, flags uint16, family Family, seq uint32) int {
	at := len(e.b)
	e.b = binary.NativeEndian.AppendUint32(e.b, 0) // the length; finish writes it
	e.b = binary.NativeEndian.AppendUint16(e.b, typ)
	e.b = binary.NativeEndian.AppendUint16(e.b, unix.NLM_F_REQUEST|flags)
	e.b = binary.NativeEndian.AppendUint32(e.b, seq)
	e.b = binary.NativeEndian.AppendUint32(e.b, 0) // port id: the kernel's business
	e.b = append(e.b, byte(family), unix.NFNETLINK_V0, 0, 0)
	return at
}

func (e *encoder) finish(at int) {
	binary.NativeEndian.PutUint32(e.b[at:], uint32(len(e.b)-at))
}

// nest starts an attribute that holds attributes and returns its offset.
func (e *encoder) nest(typ uint16) int {
	at := len(e.b)
	e.b = binary.NativeEndian.AppendUint16(e.b, 0)
	e.b = binary.NativeEndian.AppendUint16(e.b, typ|unix.NLA_F_NESTED)
	return at
}

func (e *encoder) unnest(at int) {
	binary.NativeEndian.PutUint16(e.b[at:], uint16(len(e.b)-at))
}

func (e *encoder) head(typ uint16, n int) {
	e.b = binary.NativeEndian.AppendUint16(e.b, uint16(nfnl.AttrHeaderLen+n))
	e.b = binary.NativeEndian.AppendUint16(e.b, typ)
}

func (e *encoder) pad() {
	for len(e.b)%unix.NLA_ALIGNTO != 0 {
		e.b = append(e.b, 0)
	}
}

func (e *encoder) bytes(typ uint16, v []byte) {
	e.head(typ, len(v))
	e.b = append(e.b, v...)
	e.pad()
}

func (e *encoder) string(typ uint16, v string) {
	e.head(typ, len(v)+1)
	e.b = append(append(e.b, v...), 0)
	e.pad()
}

func (e *encoder) u32(typ uint16, v uint32) {
	e.head(typ, 4)
	e.b = binary.BigEndian.AppendUint32(e.b, v)
}

func (e *encoder) u64(typ uint16, v uint64) {
	e.head(typ, 8)
	e.b = binary.BigEndian.AppendUint64(e.b, v)
}

func (e *encoder) key(k Key) {
	key := e.nest(unix.NFTA_SET_ELEM_KEY)
	e.head(unix.NFTA_DATA_VALUE, k.typ.Len())
	e.b = k.append(e.b)
	e.pad()
	e.unnest(key)
}

// element appends what one element is for the kernel: one list entry, or in
// interval sets a start and an end. Both go into the same message: a start that
// lost its end would match everything above it. bare leaves out all but the
// keys.
func (e *encoder) element(s *Set, el *Element, bare bool) {
	at := e.nest(unix.NFTA_LIST_ELEM)
	e.key(el.From)
	if !bare {
		timeout := el.Timeout
		if el.Remaining > cmp.Or(timeout, s.Timeout) {
			timeout = el.Remaining // ERANGE otherwise
		}
		if timeout > 0 {
			e.u64(unix.NFTA_SET_ELEM_TIMEOUT, milliseconds(timeout))
		}
		if el.Remaining > 0 {
			e.u64(unix.NFTA_SET_ELEM_EXPIRATION, milliseconds(el.Remaining))
		}
		if el.Comment != "" {
			e.bytes(unix.NFTA_SET_ELEM_USERDATA, appendUserData(nil, udataElemComment, el.Comment))
		}
		if el.State != "" {
			e.bytes(uint16(el.State[0]), []byte(el.State[1:]))
		}
	}
	e.unnest(at)
	if s.Flags&FlagInterval == 0 {
		return
	}
	// An interval that reaches the top of the key space has no end: nothing
	// lies behind it. The end takes no timeout (EINVAL).
	if end, ok := el.To.Next(); ok {
		at = e.nest(unix.NFTA_LIST_ELEM)
		e.key(end)
		e.u32(unix.NFTA_SET_ELEM_FLAGS, unix.NFT_SET_ELEM_INTERVAL_END)
		e.unnest(at)
	}
}

// milliseconds rounds up: a timeout that becomes 0 would mean "never expires".
// That is what kernels before 6.12 make of one shorter than a jiffy, which is
// 10 ms at most.
func milliseconds(d time.Duration) uint64 {
	return max(10, uint64((d-1)/time.Millisecond)+1)
}

// Types of user data, from include/libnftnl/udata.h. The kernel stores user
// data, nft reads it.
const (
	udataElemComment = 0   // NFTNL_UDATA_SET_ELEM_COMMENT
	maxElemComment   = 251 // the kernel keeps it with a length of its own in what a __u8 can measure
)

// appendUserData appends a type, a length that counts the final NUL, and the
// text.
func appendUserData(b []byte, typ byte, text string) []byte {
	b = append(b, typ, byte(len(text)+1))
	return append(append(b, text...), 0)
}

// userDataString finds the text of a type; "" if there is none, also in user
// data of another tool's making.
func userDataString(b []byte, typ byte) string {
	for len(b) >= 2 && len(b) >= 2+int(b[1]) {
		v := b[2 : 2+int(b[1])]
		if b[0] == typ {
			if n := len(v); n > 0 && v[n-1] == 0 {
				v = v[:n-1]
			}
			return string(v)
		}
		b = b[2+len(v):]
	}
	return ""
}
