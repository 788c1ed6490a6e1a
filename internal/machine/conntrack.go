package machine

import (
	"encoding/binary"
	"hash/maphash"
	"time"

	"golang.org/x/sys/unix"
)

// connection is what conntrack knows of the connection of a packet.
type connection struct {
	known bool
	reply bool   // the packet goes from the end that did not open it
	state uint32 // the bits of ct state
}

// NF_CT_STATE_BIT of include/uapi/linux/netfilter/nf_conntrack_common.h.
const (
	stateInvalid     = 1 << 0
	stateEstablished = 1 << 1
	stateRelated     = 1 << 2
	stateNew         = 1 << 3
	stateUntracked   = 1 << 6
)

var noConnection = connection{state: stateInvalid}

// maxFlows bounds the connections that are remembered, as
// net.netfilter.nf_conntrack_max does.
const maxFlows = 1 << 18

// flows are the connections, by the hash of their addresses and ports.
type flows struct {
	seed maphash.Seed
	all  map[uint64]flow
	next flow // the one that a packet opens, until the packet has been let through
	key  uint64
}

type flow struct {
	expires int64
	state   tcpState
	tcp     bool
	replied bool
	low     bool // the end with the lower address opened it
}

// tuple is the addresses and ports of a connection, the lower end first.
type tuple struct {
	low, high end
	proto     uint8
}

type end struct {
	addr [16]byte
	port uint16
}

func (e end) less(o end) bool {
	if e.addr != o.addr {
		return string(e.addr[:]) < string(o.addr[:])
	}
	return e.port < o.port
}

// tuple returns the connection that a packet belongs to, and whether the lower
// end sent it. It returns false for packets that belong to none.
func (p *Packet) tuple() (t tuple, fromLow, ok bool) {
	src, dst := end{addr: p.Src.As16()}, end{addr: p.Dst.As16()}
	switch p.Proto {
	case unix.IPPROTO_TCP, unix.IPPROTO_UDP:
		if src.port, dst.port, ok = p.ports(); !ok {
			return t, false, false
		}
	case unix.IPPROTO_ICMP, unix.IPPROTO_ICMPV6:
		if len(p.transport) < 8 || p.echo() == notEcho {
			return t, false, false
		}
		src.port = binary.BigEndian.Uint16(p.transport[4:])
		dst.port = src.port
	}
	if src.less(dst) {
		return tuple{src, dst, p.Proto}, true, true
	}
	return tuple{dst, src, p.Proto}, false, true
}

type echo uint8

const (
	notEcho echo = iota
	echoRequest
	echoReply
)

func (p *Packet) echo() echo {
	switch typ := p.transport[0]; {
	case p.Proto == unix.IPPROTO_ICMP && typ == 8, p.Proto == unix.IPPROTO_ICMPV6 && typ == 128:
		return echoRequest
	case p.Proto == unix.IPPROTO_ICMP && typ == 0, p.Proto == unix.IPPROTO_ICMPV6 && typ == 129:
		return echoReply
	}
	return notEcho
}

// inner returns the packet that an ICMP error quotes.
func (p *Packet) inner() (q Packet, ok bool) {
	if len(p.transport) < 8 {
		return q, false
	}
	switch typ := p.transport[0]; {
	case p.Proto == unix.IPPROTO_ICMP && (typ == 3 || typ == 4 || typ == 5 || typ == 11 || typ == 12):
	case p.Proto == unix.IPPROTO_ICMPV6 && typ < 128:
	default:
		return q, false
	}
	return q, q.Parse(p.transport[8:])
}

// isUntracked reports whether conntrack ignores a packet: neighbour discovery
// and the like.
func (p *Packet) isUntracked() bool {
	if p.Proto != unix.IPPROTO_ICMPV6 || len(p.transport) == 0 {
		return false
	}
	typ := p.transport[0]
	return typ >= 130 && typ <= 136 || typ == 143
}

// track finds the connection of a packet and updates it. A new connection is
// not remembered until confirm is called.
func (f *flows) track(p *Packet) connection {
	f.next = flow{}
	if p.isUntracked() {
		return connection{state: stateUntracked}
	}
	if inner, ok := p.inner(); ok {
		return f.related(&inner, p.Now)
	}
	t, fromLow, ok := p.tuple()
	if !ok {
		return noConnection
	}
	f.key = maphash.Comparable(f.seed, t)
	fl, ok := f.all[f.key]
	if !ok || fl.expires <= p.Now {
		return f.open(p, fromLow)
	}
	reply := fl.low != fromLow
	c := connection{known: true, reply: reply, state: stateNew}
	if reply || fl.replied {
		c.state = stateEstablished
	}
	if fl.tcp {
		event := tcpEventOf(p)
		next := tcpTable[index(reply)][event][fl.state]
		switch {
		case next == tcpInvalid:
			return noConnection
		case next == tcpIgnored:
			return c
		case next == tcpSynSent && fl.state >= tcpTimeWait:
			delete(f.all, f.key)
			return f.open(p, fromLow)
		case event == eventRST && !fl.replied:
			delete(f.all, f.key)
			return c
		}
		fl.state = next
	}
	fl.replied = fl.replied || reply
	fl.renew(p)
	f.all[f.key] = fl
	return c
}

func (f *flows) open(p *Packet, fromLow bool) connection {
	next := flow{low: fromLow}
	switch p.Proto {
	case unix.IPPROTO_TCP:
		next.tcp = true
		next.state = tcpTable[0][tcpEventOf(p)][tcpNone]
		if next.state >= tcpIgnored {
			return noConnection
		}
	case unix.IPPROTO_ICMP, unix.IPPROTO_ICMPV6:
		if p.echo() != echoRequest {
			return noConnection
		}
	}
	next.renew(p)
	f.next = next
	return connection{known: true, state: stateNew}
}

// confirm remembers the connection that the last packet opened.
func (f *flows) confirm(now int64) {
	if f.next.expires == 0 {
		return
	}
	if len(f.all) >= maxFlows {
		f.sweep(now)
	}
	if len(f.all) < maxFlows {
		f.all[f.key] = f.next
	}
	f.next = flow{}
}

// sweep makes room as the kernel does: it removes expired connections, and
// those without an answer. If that does not help for long, it removes all.
func (f *flows) sweep(now int64) {
	for key, fl := range f.all {
		if fl.expires <= now || !fl.replied {
			delete(f.all, key)
		}
	}
	if len(f.all) >= maxFlows*7/8 {
		clear(f.all)
	}
}

// related returns the connection of an ICMP error that quotes a packet.
func (f *flows) related(inner *Packet, now int64) connection {
	t, fromLow, ok := inner.tuple()
	if !ok {
		return noConnection
	}
	fl, ok := f.all[maphash.Comparable(f.seed, t)]
	if !ok || fl.expires <= now {
		return noConnection
	}
	// It comes from where that packet was sent to.
	return connection{known: true, reply: fl.low == fromLow, state: stateRelated}
}

func index(b bool) int {
	if b {
		return 1
	}
	return 0
}

// renew sets the time at which the connection is forgotten, which depends on
// its last packet.
func (fl *flow) renew(p *Packet) {
	timeout := 600 * time.Second
	switch {
	case fl.tcp:
		timeout = tcpTimeouts[fl.state]
	case p.Proto == unix.IPPROTO_UDP && fl.replied:
		timeout = 120 * time.Second
	case p.Proto == unix.IPPROTO_UDP, p.Proto == unix.IPPROTO_ICMP, p.Proto == unix.IPPROTO_ICMPV6:
		timeout = 30 * time.Second
	}
	fl.expires = p.Now + int64(timeout)
}
