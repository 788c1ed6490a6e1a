package ruleset

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/nftset"
)

// statement is one statement of a rule in both of its forms, side by side so that they cannot drift apart: as nft writes it,
// and as the expressions that nft would make of it.
type statement struct {
	text  string
	exprs []expr.Any
}

const register = 1 // NFT_REG_1, 16 bytes: enough for an IPv6 address

func eq(data ...byte) *expr.Cmp { return &expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: data} }

// eqHost compares with a number that the kernel keeps in host byte order.
func eqHost(v uint32) *expr.Cmp { return eq(binaryutil.NativeEndian.PutUint32(v)...) }

func verdict(text string, kind expr.VerdictKind, chain string) statement {
	return statement{text, []expr.Any{&expr.Verdict{Kind: kind, Chain: chain}}}
}

func accept() statement           { return verdict("accept", expr.VerdictAccept, "") }
func drop() statement             { return verdict("drop", expr.VerdictDrop, "") }
func back() statement             { return verdict("return", expr.VerdictReturn, "") }
func goTo(chain string) statement { return verdict("goto "+chain, expr.VerdictGoto, chain) }

// nfproto matches the family. In an inet table that must come before the network header is read; nft implies it.
func (f family) nfproto() []expr.Any {
	proto := byte(unix.NFPROTO_IPV4)
	if f.key == nftset.IPv6Addr {
		proto = unix.NFPROTO_IPV6
	}
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: register}, eq(proto)}
}

// saddr loads the source address, of IPv6 only its first bits, and says how nft writes that.
func (f family) saddr(bits int) statement {
	if f.key == nftset.IPv4Addr {
		return statement{"ip saddr", []expr.Any{
			&expr.Payload{DestRegister: register, Base: expr.PayloadBaseNetworkHeader, Offset: 12, Len: 4},
		}}
	}
	s := statement{"ip6 saddr", []expr.Any{
		&expr.Payload{DestRegister: register, Base: expr.PayloadBaseNetworkHeader, Offset: 8, Len: 16},
	}}
	if bits < 128 {
		mask := mask6(bits)
		s.text += " & " + netip.AddrFrom16(mask).String()
		s.exprs = append(s.exprs, &expr.Bitwise{
			SourceRegister: register, DestRegister: register, Len: 16, Mask: mask[:], Xor: make([]byte, 16),
		})
	}
	return s
}

func mask6(bits int) (mask [16]byte) {
	for i := range bits {
		mask[i/8] |= 0x80 >> (i % 8)
	}
	return mask
}

// in matches packets whose source, or of IPv6 the first bits of it, is in the set. An element with a limit is one packet nearer to
// it each time that it is found.
func (f family) in(set string, bits int) statement {
	return f.lookup(" @", &expr.Lookup{SourceRegister: register, SetName: set}, bits)
}

// notIn matches packets whose source is not in the set. It does not spend anything of an element's limit.
func (f family) notIn(set string, bits int) statement {
	return f.lookup(" != @", &expr.Lookup{SourceRegister: register, SetName: set, Invert: true}, bits)
}

func (f family) lookup(op string, l *expr.Lookup, bits int) statement {
	s := f.saddr(bits)
	s.exprs = append(append(f.nfproto(), s.exprs...), l)
	s.text += op + l.SetName
	return s
}

// inNone matches packets whose source is in none of the sets: its first bits in none of the tiers, and all of it not in that of
// prefixes. The source is loaded once for all tiers. nft would do so for each, and lists both in the same way.
//
// A packet may ask one set before a transaction and the next one after it, and not all sets change at the same instant. So a ban that
// moves must be in both for a while, whatever the order: the watcher adds to longer tiers and lets the shorter expire; [Apply] adds
// to the set of prefixes before it deletes from the tiers.
func (f family) inNone(tiers []string, net string, bits int) statement {
	load := f.saddr(bits)
	s := statement{exprs: append(f.nfproto(), load.exprs...)}
	for _, set := range tiers {
		s.text += load.text + " != @" + set + " "
		s.exprs = append(s.exprs, &expr.Lookup{SourceRegister: register, SetName: set, Invert: true})
	}
	whole := f.saddr(128)
	if len(whole.exprs) != len(load.exprs) {
		s.exprs = append(s.exprs, whole.exprs...)
	}
	s.text += whole.text + " != @" + net
	s.exprs = append(s.exprs, &expr.Lookup{SourceRegister: register, SetName: net, Invert: true})
	return s
}

// add puts the source into the set, if it is not there. If the set is full the rule ends here, and the packet goes on to the next.
// With a burst, it matches only a source that has come more often than that: the rate is that of a limit which, within any
// findtime we allow for, gives back nothing. The timeout stands here because kernels before 6.1's stable series do not change that
// of a live set.
func (f family) add(set string, bits int, timeout time.Duration, burst int) statement {
	s := f.saddr(bits)
	dyn := &expr.Dynset{SrcRegKey: register, SetName: set, Operation: uint32(unix.NFT_DYNSET_OP_ADD), Timeout: timeout}
	s.text = fmt.Sprintf("add @%s { %s timeout %s", set, s.text, nftDuration(timeout))
	if burst > 0 {
		dyn.Exprs = []expr.Any{&expr.Limit{Type: expr.LimitTypePkts, Rate: 1, Over: true, Unit: expr.LimitTimeWeek, Burst: uint32(burst)}}
		s.text += fmt.Sprintf(" limit rate over 1/week burst %d packets", burst)
	}
	s.text += " }"
	s.exprs = append(append(f.nfproto(), s.exprs...), dyn)
	return s
}

// fromLoopback matches packets that this host sent to itself. The index of lo is 1 in every network namespace.
func fromLoopback() statement {
	return statement{`iif "lo"`, []expr.Any{&expr.Meta{Key: expr.MetaKeyIIF, Register: register}, eqHost(1)}}
}

// isReply matches the packets of the far end of a connection that was opened from here, ICMP errors about it among them. A packet
// that conntrack does not know ends the rule.
func isReply() statement {
	return statement{"ct direction reply", []expr.Any{
		&expr.Ct{Key: expr.CtKeyDIRECTION, Register: register}, eq(1), // IP_CT_DIR_REPLY
	}}
}

// l4proto matches the transport protocol; nft implies it before it reads the transport header.
func l4proto(proto byte) []expr.Any {
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: register}, eq(proto)}
}

func transport(offset, length uint32) *expr.Payload {
	return &expr.Payload{DestRegister: register, Base: expr.PayloadBaseTransportHeader, Offset: offset, Len: length}
}

// isNeighbourDiscovery matches router and neighbour solicitations and advertisements: ICMPv6 types 133 to 136.
func isNeighbourDiscovery() statement {
	exprs := append(families[1].nfproto(), l4proto(unix.IPPROTO_ICMPV6)...)
	return statement{"icmpv6 type 133-136", append(exprs, transport(0, 1),
		&expr.Cmp{Op: expr.CmpOpGte, Register: register, Data: []byte{133}},
		&expr.Cmp{Op: expr.CmpOpLte, Register: register, Data: []byte{136}},
	)}
}

// TCP flags, offset 13 of the header.
const (
	tcpFIN = 0x01
	tcpSYN = 0x02
	tcpRST = 0x04
	tcpACK = 0x10
)

// tcpFlags matches packets of which the flags in mask are exactly those of value.
func tcpFlags(text string, mask, value byte) statement {
	return statement{text, append(l4proto(unix.IPPROTO_TCP), transport(13, 1),
		&expr.Bitwise{SourceRegister: register, DestRegister: register, Len: 1, Mask: []byte{mask}, Xor: []byte{0}},
		eq(value),
	)}
}

// dportIn matches destination ports in the set.
func dportIn(proto byte, set string) statement {
	name := "tcp"
	if proto == unix.IPPROTO_UDP {
		name = "udp"
	}
	return statement{name + " dport @" + set,
		append(l4proto(proto), transport(2, 2), &expr.Lookup{SourceRegister: register, SetName: set})}
}

// and appends a statement, leaving out the expressions that both begin with, as nft does: the test for TCP is made once.
func (s statement) and(o statement, implied int) statement {
	return statement{s.text + " " + o.text, append(s.exprs[:len(s.exprs):len(s.exprs)], o.exprs[implied:]...)}
}

// fromOwnAddress matches sources that are an address of this host.
func fromOwnAddress() statement {
	return statement{"fib saddr type local", []expr.Any{
		&expr.Fib{Register: register, FlagSADDR: true, ResultADDRTYPE: true}, eqHost(unix.RTN_LOCAL),
	}}
}

// unroutable matches sources to which no route leads back by the interface the packet came in by.
func unroutable() statement {
	return statement{"fib saddr . iif oif missing", []expr.Any{
		&expr.Fib{Register: register, FlagSADDR: true, FlagIIF: true, FlagPRESENT: true, ResultOIF: true}, eqHost(0),
	}}
}

// toSocket matches packets for which there is a socket, a listening one included. Without one the expression ends the rule, so
// that transparent 0 and 1 together mean "any socket".
func toSocket(transparent byte) statement {
	return statement{fmt.Sprintf("socket transparent %d", transparent), []expr.Any{
		&expr.Socket{Key: expr.SocketKeyTransparent, Register: register}, eq(transparent),
	}}
}

// count adds the packet to a named counter.
func count(name string) statement {
	return statement{fmt.Sprintf("counter name %q", name), []expr.Any{
		&expr.Objref{Type: unix.NFT_OBJECT_COUNTER, Name: name},
	}}
}

// LogPrefix begins the netlink log messages of new bans.
const LogPrefix = "portmon ban"

// logSnaplen is what a message holds of the packet: the network header, options not counted, and the ports.
const logSnaplen = 64

func logTo(group, threshold uint16) statement {
	key := uint32(1<<unix.NFTA_LOG_GROUP | 1<<unix.NFTA_LOG_PREFIX | 1<<unix.NFTA_LOG_SNAPLEN | 1<<unix.NFTA_LOG_QTHRESHOLD)
	return statement{
		fmt.Sprintf("log prefix %q group %d snaplen %d queue-threshold %d", LogPrefix, group, logSnaplen, threshold),
		[]expr.Any{&expr.Log{Key: key, Group: group, QThreshold: threshold, Snaplen: logSnaplen, Data: []byte(LogPrefix)}},
	}
}

// nftDuration writes a duration as nft does: 1d2h3m4s5ms.
func nftDuration(d time.Duration) string {
	ms := int64((d + time.Millisecond - 1) / time.Millisecond)
	s := ""
	for _, u := range []struct {
		ms   int64
		name string
	}{{86400_000, "d"}, {3600_000, "h"}, {60_000, "m"}, {1000, "s"}, {1, "ms"}} {
		if n := ms / u.ms; n > 0 {
			s += fmt.Sprintf("%d%s", n, u.name)
			ms -= n * u.ms
		}
	}
	if s == "" {
		return "0s"
	}
	return s
}
