package capture

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net/netip"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/internal/text"
)

// maxPrefix is the longest prefix of a line that the kernel allows.
const maxPrefix = 128

// entry is a packet as the kernel logs it (net/netfilter/nf_log_syslog.c):
//
//	PREFIX IN=eth0 OUT= MAC=… SRC=… DST=… LEN=40 TOS=0x00 PREC=0x00 TTL=239 ID=1 PROTO=TCP SPT=1 DPT=23 WINDOW=1024 RES=0x00 SYN URGP=0
type entry struct {
	src, dst netip.Addr
	protocol *protocol // nil until its name has been read
	field    [numFields]uint32
	flags    byte   // of TCP
	offset   uint16 // of a fragment
	dontFrag bool
	moreFrag bool
	whole    bool // the last field of the protocol's header was present
	absent   bool // the kernel had no such header, or a part of one, as in a fragment

	in   string // kept between lines, because most have the same
	data [60]byte
}

// The numeric fields of a line that become parts of headers.
const (
	lengthField = iota
	tosField
	precField
	ttlField
	idField
	flowField
	srcPortField
	dstPortField
	seqField
	ackField
	windowField
	urgentField
	datagramField
	typeField
	codeField
	queryField
	numFields
)

// number says which field a number belongs to, and how many bits it has.
type number struct{ field, bits int }

var addressNumbers = map[string]number{
	"LEN": {lengthField, 16}, "TOS": {tosField, 8}, "TC": {tosField, 8}, "PREC": {precField, 8}, "FLOWLBL": {flowField, 20},
	"TTL": {ttlField, 8}, "HOPLIMIT": {ttlField, 8}, "ID": {idField, 16},
}

// protocol is a protocol whose header the kernel logs.
type protocol struct {
	number  byte
	last    string // the field at the end of each line; without it, the line was cut off
	numbers map[string]number
}

var ports = map[string]number{
	"SPT": {srcPortField, 16}, "DPT": {dstPortField, 16}, "LEN": {datagramField, 16},
	"SEQ": {seqField, 32}, "ACK": {ackField, 32}, "WINDOW": {windowField, 16}, "URGP": {urgentField, 16},
}

var icmp = map[string]number{"TYPE": {typeField, 8}, "CODE": {codeField, 8}, "ID": {queryField, 16}, "SEQ": {seqField, 16}}

var protocols = map[string]*protocol{
	"TCP":     {unix.IPPROTO_TCP, "URGP", ports},
	"UDP":     {unix.IPPROTO_UDP, "LEN", ports},
	"UDPLITE": {unix.IPPROTO_UDPLITE, "LEN", ports},
	"ICMP":    {unix.IPPROTO_ICMP, "CODE", icmp},
	"ICMPv6":  {unix.IPPROTO_ICMPV6, "CODE", icmp},
	"AH":      {number: unix.IPPROTO_AH},
	"ESP":     {number: unix.IPPROTO_ESP},
}

var tcpFlags = map[string]byte{"FIN": 1, "SYN": 2, "RST": 4, "PSH": 8, "ACK": 16, "URG": 32, "ECE": 64, "CWR": 128}

// parse parses a message from the kernel. The error is errNotIP if the message
// is not about a packet. The data of the packet is valid until the next parse.
func (e *entry) parse(message []byte, p *Packet) error {
	prefix, fields := splitPrefix(message)
	if fields == nil || bytes.Contains(prefix, []byte("[UFW AUDIT")) || bytes.HasPrefix(prefix, []byte("TRACE: ")) {
		// ufw audits packets before it decides, and logs those that it blocks
		// again. iptables traces a packet once for each rule.
		return errNotIP
	}
	*e = entry{in: e.in, data: e.data}
	p.Accepted = saysAccepted(prefix)
	var in, out, mac []byte
	for len(fields) > 0 {
		var word []byte
		word, fields = cut(fields)
		if e.protocol != nil && len(word) > 0 && word[0] == '[' {
			break // the packet that an ICMP error quotes
		}
		key, value, isField := bytes.Cut(word, []byte("="))
		switch {
		case !isField:
			e.setFlag(key)
		case string(key) == "IN":
			in = value
		case string(key) == "OUT":
			out = value
		case string(key) == "MAC", string(key) == "MACDST": // the latter with nft's "flags ether"
			mac = value
		default:
			if err := e.set(key, value); err != nil {
				return damagef("a packet that is logged with %s=%s: %w", text.Printable(string(key)), text.Shorten(text.Printable(string(value)), 40), err)
			}
		}
	}
	switch torn := e.protocol != nil && e.protocol.last != "" && !e.whole && !e.absent; {
	case e.protocol == nil, torn:
		return damagef("the line ends within what is logged of a packet")
	case !e.src.IsValid(), e.src.Is4() != e.dst.Is4(), !e.dst.IsValid():
		return damagef("a packet that is logged from %q to %q", e.src, e.dst)
	}
	if err := e.setPath(p, in, out, mac); err != nil {
		return err
	}
	p.Data = e.encode()
	return nil
}

// splitPrefix returns what precedes "IN=… OUT=", and the fields from there on,
// which are nil if there are none.
func splitPrefix(message []byte) (prefix, fields []byte) {
	for at := 0; ; at += len("IN=") {
		i := bytes.Index(message[at:min(len(message), maxPrefix+len("IN="))], []byte("IN="))
		if i < 0 {
			return nil, nil
		}
		at += i
		if _, rest := cut(message[at:]); bytes.HasPrefix(rest, []byte("OUT=")) {
			return message[:at], message[at:]
		}
	}
}

// saysAccepted reports whether a prefix says that the packet was let in.
// Administrators choose prefixes; these words are in those of ufw, firewalld,
// Shorewall, csf, OpenWrt and most guides. Those of acceptance must stand
// alone, unlike in "DISALLOWED" and "NOT-ALLOWED".
func saysAccepted(prefix []byte) (accepted bool) {
	upper := bytes.ToUpper(prefix)
	for _, word := range []string{"BLOCK", "DROP", "REJECT", "DENY", "DENIED"} {
		if bytes.Contains(upper, []byte(word)) {
			return false
		}
	}
	for word := range bytes.FieldsFuncSeq(upper, func(r rune) bool { return r < 'A' || r > 'Z' }) {
		switch string(word) {
		case "NOT", "NO":
			return false
		case "ALLOW", "ALLOWED", "ACCEPT", "ACCEPTED":
			accepted = true
		}
	}
	return accepted
}

func (e *entry) setFlag(word []byte) {
	offset, isOffset := bytes.CutPrefix(word, []byte("FRAG:"))
	switch {
	case isOffset:
		n, err := strconv.ParseUint(string(offset), 10, 16)
		e.offset = uint16(n)
		e.absent = err != nil || n > 0
	case string(word) == "DF":
		e.dontFrag = true
	case string(word) == "MF":
		e.moreFrag = true
	case string(word) == "INCOMPLETE" && e.protocol != nil: // before the protocol, it is about fragments
		e.absent = true
	default:
		e.flags |= tcpFlags[string(word)]
	}
}

var (
	errAddress  = errors.New("not an address")
	errProtocol = errors.New("not a protocol")
)

func (e *entry) set(key, value []byte) (err error) {
	numbers := addressNumbers
	if e.protocol != nil {
		numbers = e.protocol.numbers
		e.whole = e.whole || string(key) == e.protocol.last
	}
	switch string(key) {
	case "SRC":
		e.src, err = address(value)
		return err
	case "DST":
		e.dst, err = address(value)
		return err
	case "PROTO":
		if e.protocol = protocols[string(value)]; e.protocol == nil {
			n, err := strconv.ParseUint(string(value), 10, 8)
			if err != nil {
				return errProtocol
			}
			e.protocol = &protocol{number: byte(n)}
		}
		return nil
	}
	number, ok := numbers[string(key)]
	if !ok {
		return nil
	}
	base := 0 // hexadecimal after "0x"
	if number.field == flowField || number.field == idField {
		base = 10
	}
	n, err := strconv.ParseUint(string(value), base, number.bits)
	e.field[number.field] = uint32(n)
	return errors.Unwrap(err)
}

// address parses an address. Those in a line have no zone.
func address(b []byte) (netip.Addr, error) {
	a, err := netip.ParseAddr(string(b))
	if err != nil || a.Zone() != "" {
		return netip.Addr{}, errAddress
	}
	return a, nil
}

func (e *entry) setPath(p *Packet, in, out, mac []byte) error {
	if string(in) != e.in {
		if e.in = deviceName(in); e.in == "" && len(in) > 0 {
			return damagef("a packet of the interface %.40q", in)
		}
	}
	p.In = e.in
	group := len(mac) > 1 && bytes.IndexByte([]byte("13579bdf"), mac[1]) >= 0
	switch {
	case len(in) == 0 && len(out) > 0:
		p.Path = Sent
	case len(out) > 0:
		p.Path = Forwarded
	case group:
		p.Path = Elsewhere
	case len(in) > 0:
		p.Path = Received
	}
	return nil
}

// encode writes the headers, except that of the protocol if the kernel had
// none.
func (e *entry) encode() []byte {
	b := e.data[:0]
	f := &e.field
	if e.src.Is4() {
		fragment := e.offset & 0x1fff
		if e.dontFrag {
			fragment |= 0x4000
		}
		if e.moreFrag {
			fragment |= 0x2000
		}
		b = append(b, 0x45, byte(f[tosField]|f[precField]))
		b = be.AppendUint16(b, uint16(f[lengthField]))
		b = be.AppendUint16(b, uint16(f[idField]))
		b = be.AppendUint16(b, fragment)
		b = append(b, byte(f[ttlField]), e.protocol.number, 0, 0)
	} else {
		b = be.AppendUint32(b, 6<<28|f[tosField]<<20|f[flowField])
		b = be.AppendUint16(b, uint16(max(f[lengthField], ipv6HeaderLen)-ipv6HeaderLen))
		b = append(b, e.protocol.number, byte(f[ttlField]))
	}
	b = append(append(b, e.src.AsSlice()...), e.dst.AsSlice()...)
	if e.absent {
		return b
	}
	switch e.protocol.number {
	case unix.IPPROTO_TCP:
		b = be.AppendUint32(b, f[srcPortField]<<16|f[dstPortField])
		b = be.AppendUint32(b, f[seqField])
		b = be.AppendUint32(b, f[ackField])
		b = append(b, 5<<4, e.flags)
		b = be.AppendUint16(b, uint16(f[windowField]))
		b = be.AppendUint32(b, f[urgentField])
	case unix.IPPROTO_UDP, unix.IPPROTO_UDPLITE:
		b = be.AppendUint32(b, f[srcPortField]<<16|f[dstPortField])
		b = be.AppendUint32(b, f[datagramField]<<16)
	case unix.IPPROTO_ICMP, unix.IPPROTO_ICMPV6:
		b = be.AppendUint32(b, f[typeField]<<24|f[codeField]<<16)
		b = be.AppendUint32(b, f[queryField]<<16|f[seqField])
	}
	return b
}

const ipv6HeaderLen = 40

var be = binary.BigEndian

// deviceName returns the name of an interface, or "" if none can have that name
// (dev_valid_name).
func deviceName(b []byte) string {
	if len(b) >= unix.IFNAMSIZ || bytes.ContainsFunc(b, func(r rune) bool { return r <= ' ' || r >= 0x7f || r == '/' }) {
		return ""
	}
	return string(b)
}
