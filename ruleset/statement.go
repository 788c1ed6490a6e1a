package ruleset

import (
	"fmt"

	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// statement is one statement of a rule in both of its forms, side by side so
// that they cannot drift apart: as nft writes it, and as the expressions that
// nft would make of it.
type statement struct {
	text  string
	exprs []expr.Any
	// nfproto and l4proto, unless 0, are the family and the transport protocol
	// of whose header the expressions read. They must be tested once in a rule,
	// before that; nft does so without writing it.
	nfproto, l4proto byte
}

// expressions returns those of a list of statements, with the tests that they
// need.
func expressions(statements []statement) []expr.Any {
	var out []expr.Any
	var nfproto, l4proto byte
	for _, s := range statements {
		if s.nfproto != 0 && s.nfproto != nfproto {
			nfproto = s.nfproto
			out = append(out, &expr.Meta{Key: expr.MetaKeyNFPROTO, Register: register}, eq(nfproto))
		}
		if s.l4proto != 0 && s.l4proto != l4proto {
			l4proto = s.l4proto
			out = append(out, &expr.Meta{Key: expr.MetaKeyL4PROTO, Register: register}, eq(l4proto))
		}
		out = append(out, s.exprs...)
	}
	return out
}

// register is NFT_REG_1: 16 bytes, enough for an IPv6 address.
const register = 1

func eq(data ...byte) *expr.Cmp { return &expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: data} }

// hostOrder encodes a number as the kernel keeps it in a register.
func hostOrder(v uint32) []byte { return binaryutil.NativeEndian.PutUint32(v) }

// eqHost compares with a number that the kernel keeps in host byte order.
func eqHost(v uint32) *expr.Cmp { return eq(hostOrder(v)...) }

// anyBit matches if one of the bits of a 32-bit number in host byte order is
// set.
func anyBit(bits uint32) []expr.Any {
	return []expr.Any{
		&expr.Bitwise{SourceRegister: register, DestRegister: register, Len: 4, Mask: hostOrder(bits), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: register, Data: make([]byte, 4)},
	}
}

func verdict(text string, kind expr.VerdictKind, chain string) statement {
	return statement{text: text, exprs: []expr.Any{&expr.Verdict{Kind: kind, Chain: chain}}}
}

func accept() statement             { return verdict("accept", expr.VerdictAccept, "") }
func drop() statement               { return verdict("drop", expr.VerdictDrop, "") }
func goTo(chain string) statement   { return verdict("goto "+chain, expr.VerdictGoto, chain) }
func jumpTo(chain string) statement { return verdict("jump "+chain, expr.VerdictJump, chain) }

// fromLoopback matches packets that this host sent to itself. The index of lo
// is 1 in every network namespace.
func fromLoopback() statement {
	return statement{text: `iif "lo"`, exprs: []expr.Any{&expr.Meta{Key: expr.MetaKeyIIF, Register: register}, eqHost(1)}}
}

func notFromLoopback() statement {
	return statement{text: `iif != "lo"`, exprs: []expr.Any{
		&expr.Meta{Key: expr.MetaKeyIIF, Register: register},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: register, Data: hostOrder(1)},
	}}
}

// isReply matches the packets of the far end of a connection that was opened
// from here, ICMP errors about it among them. A packet that conntrack does not
// know ends the rule.
func isReply() statement {
	return statement{text: "ct direction reply", exprs: []expr.Any{
		&expr.Ct{Key: expr.CtKeyDIRECTION, Register: register}, eq(1), // IP_CT_DIR_REPLY
	}}
}

// Bits of a connection's state and status: NF_CT_STATE_BIT and
// NF_CT_STATE_UNTRACKED_BIT of
// include/uapi/linux/netfilter/nf_conntrack_common.h and IPS_DST_NAT of the
// same file.
const (
	ctEstablished = 1 << (0 + 1) // IP_CT_ESTABLISHED is 0
	ctRelated     = 1 << (1 + 1) // IP_CT_RELATED is 1
	ctUntracked   = 1 << 6
	ctDNAT        = 1 << 5
)

// ctState matches packets whose connection is in a state.
func ctState(name string, bit uint32) statement {
	state := &expr.Ct{Key: expr.CtKeySTATE, Register: register}
	return statement{text: "ct state " + name, exprs: append([]expr.Any{state}, anyBit(bit)...)}
}

// isTranslated matches packets whose destination was translated, also by
// redirect: the port is not the one that the client asked for.
func isTranslated() statement {
	status := &expr.Ct{Key: expr.CtKeySTATUS, Register: register}
	return statement{text: "ct status dnat", exprs: append([]expr.Any{status}, anyBit(ctDNAT)...)}
}

// isICMP matches ICMP, or ICMPv6.
func isICMP(f family) statement {
	if f.is6() {
		return statement{text: "meta l4proto icmpv6", l4proto: unix.IPPROTO_ICMPV6}
	}
	return statement{text: "meta l4proto icmp", l4proto: unix.IPPROTO_ICMP}
}

// protocolIn matches transport protocols in the set.
func protocolIn(set string) statement {
	return statement{text: "meta l4proto @" + set, exprs: []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: register}, &expr.Lookup{SourceRegister: register, SetName: set},
	}}
}

func transport(offset, length uint32) *expr.Payload {
	return &expr.Payload{DestRegister: register, Base: expr.PayloadBaseTransportHeader, Offset: offset, Len: length}
}

// portAt is the offset of the destination port, of TCP and UDP alike.
const portAt = 2

// isNeighbourDiscovery matches router and neighbour solicitations and
// advertisements, ICMPv6 types 133 to 136. Those of a neighbour have a hop
// limit of 255, which no router has lowered; receivers of others ignore them.
func isNeighbourDiscovery() statement {
	return statement{"ip6 hoplimit 255 icmpv6 type 133-136", []expr.Any{
		&expr.Payload{DestRegister: register, Base: expr.PayloadBaseNetworkHeader, Offset: 7, Len: 1}, eq(255),
		transport(0, 1),
		&expr.Cmp{Op: expr.CmpOpGte, Register: register, Data: []byte{133}},
		&expr.Cmp{Op: expr.CmpOpLte, Register: register, Data: []byte{136}},
	}, unix.NFPROTO_IPV6, unix.IPPROTO_ICMPV6}
}

// TCP flags, offset 13 of the header.
const (
	tcpFIN = 0x01
	tcpSYN = 0x02
	tcpRST = 0x04
	tcpACK = 0x10
)

// tcpFlags matches packets of which the flags in mask are exactly those of
// value.
func tcpFlags(text string, mask, value byte) statement {
	return statement{text: text, l4proto: unix.IPPROTO_TCP, exprs: []expr.Any{transport(13, 1),
		&expr.Bitwise{SourceRegister: register, DestRegister: register, Len: 1, Mask: []byte{mask}, Xor: []byte{0}},
		eq(value),
	}}
}

// anyProtocol is for rules that only packets of one protocol come to. Their
// ports are read without asking again which it is.
const anyProtocol = 0

func protoName(proto byte) string {
	switch proto {
	case unix.IPPROTO_UDP:
		return "udp"
	case unix.IPPROTO_TCP:
		return "tcp"
	}
	return "th"
}

// dportIn matches destination ports in the set.
func dportIn(proto byte, set string) statement {
	return statement{text: protoName(proto) + " dport @" + set, l4proto: proto,
		exprs: []expr.Any{transport(portAt, 2), &expr.Lookup{SourceRegister: register, SetName: set}}}
}

// dportWithin matches destination ports of any protocol in a range.
func dportWithin(p Ports) statement {
	return statement{text: "th dport " + p.String(), exprs: []expr.Any{transport(portAt, 2),
		&expr.Cmp{Op: expr.CmpOpGte, Register: register, Data: binaryutil.BigEndian.PutUint16(p.From)},
		&expr.Cmp{Op: expr.CmpOpLte, Register: register, Data: binaryutil.BigEndian.PutUint16(p.To)},
	}}
}

// fromOwnAddress matches sources that are an address of this host.
func fromOwnAddress() statement {
	return statement{text: "fib saddr type local", exprs: []expr.Any{
		&expr.Fib{Register: register, FlagSADDR: true, ResultADDRTYPE: true}, eqHost(unix.RTN_LOCAL),
	}}
}

// toElsewhere matches packets that are not for an address of this host: those
// to be forwarded, broadcast and multicast.
func toElsewhere() statement {
	return statement{text: "fib daddr type != local", exprs: []expr.Any{
		&expr.Fib{Register: register, FlagDADDR: true, ResultADDRTYPE: true},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: register, Data: hostOrder(unix.RTN_LOCAL)},
	}}
}

// unroutable matches sources to which no route leads back by the interface that
// the packet came in by. The mark counts, as rules may choose the route by it.
func unroutable() statement {
	return statement{text: "fib saddr . mark . iif oif missing", exprs: []expr.Any{
		&expr.Fib{Register: register, FlagSADDR: true, FlagMARK: true, FlagIIF: true, FlagPRESENT: true, ResultOIF: true},
		eqHost(0),
	}}
}

// toSocket matches packets for which there is a socket, a listening one
// included. Without one the expression ends the rule, so that transparent 0 and
// 1 together mean "any socket".
func toSocket(transparent byte) statement {
	return statement{text: fmt.Sprintf("socket transparent %d", transparent), exprs: []expr.Any{
		&expr.Socket{Key: expr.SocketKeyTransparent, Register: register}, eq(transparent),
	}}
}

// toBoundSocket matches packets for which there is a socket that is bound to
// one address, as one that is connected always is.
func toBoundSocket() statement {
	return statement{text: "socket wildcard 0", exprs: []expr.Any{
		&expr.Socket{Key: expr.SocketKeyWildcard, Register: register}, eq(0),
	}}
}

// count adds the packet to a named counter.
func count(name string) statement {
	return statement{text: fmt.Sprintf("counter name %q", name), exprs: []expr.Any{
		&expr.Objref{Type: unix.NFT_OBJECT_COUNTER, Name: name},
	}}
}

// logSnaplen is what a message holds of the packet: the network header, options
// not counted, and the ports.
const logSnaplen = 64

func logTo(prefix string, group, threshold uint16) statement {
	const key = 1<<unix.NFTA_LOG_GROUP | 1<<unix.NFTA_LOG_PREFIX | 1<<unix.NFTA_LOG_SNAPLEN | 1<<unix.NFTA_LOG_QTHRESHOLD
	return statement{
		text: fmt.Sprintf("log prefix %q group %d snaplen %d queue-threshold %d", prefix, group, logSnaplen, threshold),
		exprs: []expr.Any{&expr.Log{
			Key: key, Group: group, QThreshold: threshold, Snaplen: logSnaplen, Data: []byte(prefix),
		}},
	}
}

// number returns NFPROTO_IPV4 or NFPROTO_IPV6.
func (f family) number() byte {
	if f.is6() {
		return unix.NFPROTO_IPV6
	}
	return unix.NFPROTO_IPV4
}

// isFamily matches packets of the family.
func (f family) isFamily() statement {
	return statement{text: "meta nfproto ipv" + f.suffix, nfproto: f.number()}
}
