package ruleset

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Rule is a rule of a chain. Those of a compiled table have a Text; those that
// the kernel holds have a Handle.
type Rule struct {
	Text    string // in nft syntax, without the comment
	Exprs   []expr.Any
	Comment string
	Handle  uint64
}

// String returns the rule in nft syntax.
func (r Rule) String() string {
	if r.Comment == "" {
		return r.Text
	}
	return fmt.Sprintf("%s comment %q", r.Text, r.Comment)
}

// rule makes a rule of statements in nft syntax. It knows those that the rules
// of a table are made of, and panics at others.
func rule(statements ...string) Rule {
	words := slices.DeleteFunc(statements, func(s string) bool { return s == "" })
	r := Rule{Text: strings.Join(words, " ")}
	p := parser{text: r.Text, rest: r.Text}
	for p.rest != "" {
		p.statement()
	}
	r.Exprs = p.exprs
	return r
}

// parser makes the expressions of a rule: those that nft would make, but for
// addresses that are loaded once for several lookups.
type parser struct {
	text, rest string // the rule, and what is yet to be read of it
	exprs      []expr.Any

	// nfproto and l4proto are the protocols that the rule has tested for. Whoever
	// reads a header must test for it once; nft does so without writing it.
	nfproto, l4proto byte

	// Of a run of statements that ask whether one address is in no set:
	run      string // the address that register holds
	into     uint32 // the register that holds it masked
	intoBits int
}

// register is NFT_REG_1: 16 bytes, enough for an IPv6 address.
const register = 1

// check panics at a rule that is not understood: no input makes one.
func (p *parser) check(ok bool) {
	if !ok {
		panic(fmt.Sprintf("ruleset: rule %q is not understood before %q", p.text, p.rest))
	}
}

// next reads a word, or a text in quotes.
func (p *parser) next() string {
	word, rest, _ := strings.Cut(p.rest, " ")
	if quoted, ok := strings.CutPrefix(p.rest, `"`); ok {
		word, rest, _ = strings.Cut(quoted, `"`)
		rest = strings.TrimPrefix(rest, " ")
	}
	p.rest = rest
	return word
}

// accept reads a text if it comes next.
func (p *parser) accept(text string) bool {
	if p.rest != text && !strings.HasPrefix(p.rest, text+" ") {
		return false
	}
	p.rest = strings.TrimPrefix(p.rest[len(text):], " ")
	return true
}

func (p *parser) expect(text string) { p.check(p.accept(text)) }

// number reads a number of so many bits.
func (p *parser) number(bits int) uint64 { return p.parse(p.next(), bits) }

func (p *parser) parse(number string, bits int) uint64 {
	n, err := strconv.ParseUint(number, 10, bits)
	p.check(err == nil)
	return n
}

func (p *parser) duration() time.Duration {
	days, rest, ok := strings.Cut(p.next(), "d")
	if !ok {
		days, rest = "0", days
	}
	d, err := time.ParseDuration(cmp.Or(rest, "0s"))
	p.check(err == nil)
	return time.Duration(p.parse(days, 32))*24*time.Hour + d
}

func (p *parser) add(e ...expr.Any) { p.exprs = append(p.exprs, e...) }

// require tests for the protocols that packets with a field have, unless the
// rule has.
func (p *parser) require(nfproto, l4proto byte) {
	if nfproto != 0 && p.nfproto != nfproto {
		p.nfproto = nfproto
		p.add(&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: register}, compare(expr.CmpOpEq, nfproto))
	}
	if l4proto != anyProtocol && p.l4proto != l4proto {
		p.l4proto = l4proto
		p.add(&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: register}, compare(expr.CmpOpEq, l4proto))
	}
}

func compare(op expr.CmpOp, data ...byte) *expr.Cmp {
	return &expr.Cmp{Op: op, Register: register, Data: data}
}

// hostOrder encodes a number as the kernel keeps it in a register.
func hostOrder(v uint32) []byte { return binaryutil.NativeEndian.PutUint32(v) }

// protocols are the words for transport protocols.
var protocols = map[string]byte{"icmp": unix.IPPROTO_ICMP, "icmpv6": unix.IPPROTO_ICMPV6}

const anyProtocol = 0

// fixed are statements that have no parameters. The index of lo is 1 in every
// network namespace. The bits of a connection's state and status are
// NF_CT_STATE_BIT, NF_CT_STATE_UNTRACKED_BIT and IPS_DST_NAT of
// include/uapi/linux/netfilter/nf_conntrack_common.h.
var fixed = []struct {
	text  string
	exprs []expr.Any
}{
	{accept, []expr.Any{&expr.Verdict{Kind: expr.VerdictAccept}}},
	{drop, []expr.Any{&expr.Verdict{Kind: expr.VerdictDrop}}},
	{fromLoopback, []expr.Any{iif, compare(expr.CmpOpEq, hostOrder(1)...)}},
	{notFromLoopback, []expr.Any{iif, compare(expr.CmpOpNeq, hostOrder(1)...)}},
	{isReply, []expr.Any{
		&expr.Ct{Key: expr.CtKeyDIRECTION, Register: register}, compare(expr.CmpOpEq, 1), // IP_CT_DIR_REPLY
	}},
	{"ct state established", anyBit(expr.CtKeySTATE, 1<<1)},
	{"ct state related", anyBit(expr.CtKeySTATE, 1<<2)},
	{"ct state untracked", anyBit(expr.CtKeySTATE, 1<<6)},
	{"ct status dnat", anyBit(expr.CtKeySTATUS, 1<<5)},
	{"fib saddr . mark . iif oif missing", []expr.Any{
		&expr.Fib{Register: register, FlagSADDR: true, FlagMARK: true, FlagIIF: true, FlagPRESENT: true, ResultOIF: true},
		compare(expr.CmpOpEq, hostOrder(0)...),
	}},
	{"fib saddr type local", addressType(expr.Fib{FlagSADDR: true}, expr.CmpOpEq)},
	{"fib daddr type != local", addressType(expr.Fib{FlagDADDR: true}, expr.CmpOpNeq)},
	{"socket transparent 0", []expr.Any{socketTransparent, compare(expr.CmpOpEq, 0)}},
	{"socket transparent 1", []expr.Any{socketTransparent, compare(expr.CmpOpEq, 1)}},
	{"socket wildcard 0", []expr.Any{
		&expr.Socket{Key: expr.SocketKeyWildcard, Register: register}, compare(expr.CmpOpEq, 0),
	}},
	{isOpening, []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: register}, compare(expr.CmpOpEq, unix.IPPROTO_TCP),
		&expr.Payload{DestRegister: register, Base: expr.PayloadBaseTransportHeader, Offset: tcpFlagsAt, Len: 1},
		mask(register, []byte{tcpRST | tcpACK}), compare(expr.CmpOpEq, 0),
	}},
}

var (
	iif               = &expr.Meta{Key: expr.MetaKeyIIF, Register: register}
	socketTransparent = &expr.Socket{Key: expr.SocketKeyTransparent, Register: register}
)

// The flags of the TCP header.
const (
	tcpFlagsAt = 13
	tcpSYN     = 0x02
	tcpRST     = 0x04
	tcpACK     = 0x10
)

// anyBit matches packets of whose connection one of the bits of a number is set.
func anyBit(key expr.CtKey, bits uint32) []expr.Any {
	return []expr.Any{
		&expr.Ct{Key: key, Register: register},
		mask(register, hostOrder(bits)), compare(expr.CmpOpNeq, make([]byte, 4)...),
	}
}

// addressType matches packets by whether an address is one of this host.
func addressType(fib expr.Fib, op expr.CmpOp) []expr.Any {
	fib.Register, fib.ResultADDRTYPE = register, true
	return []expr.Any{&fib, compare(op, hostOrder(unix.RTN_LOCAL)...)}
}

// mask cuts what is in the first register, into another one.
func mask(into uint32, bits []byte) *expr.Bitwise {
	return &expr.Bitwise{
		SourceRegister: register, DestRegister: into, Len: uint32(len(bits)), Mask: bits, Xor: make([]byte, len(bits)),
	}
}

// dynsetOps are the operations of enum nft_dynset_ops of
// include/uapi/linux/netfilter/nf_tables.h.
var dynsetOps = map[string]uint32{
	"add": unix.NFT_DYNSET_OP_ADD, "update": unix.NFT_DYNSET_OP_UPDATE, "delete": dynsetDelete,
}

const dynsetDelete = 2 // NFT_DYNSET_OP_DELETE, of Linux 5.4

// statement reads a statement.
func (p *parser) statement() {
	if !strings.HasPrefix(p.rest, "ip") {
		p.run = ""
	}
	for _, f := range fixed {
		if p.accept(f.text) {
			p.add(f.exprs...)
			return
		}
	}
	switch word := p.next(); word {
	case "goto":
		p.add(&expr.Verdict{Kind: expr.VerdictGoto, Chain: p.next()})
	case "jump":
		p.add(&expr.Verdict{Kind: expr.VerdictJump, Chain: p.next()})
	case "counter":
		p.expect("name")
		p.add(&expr.Objref{Type: unix.NFT_OBJECT_COUNTER, Name: p.next()})
	case "meta":
		p.meta()
	case "iifname":
		p.iifname()
	case "log":
		p.log()
	case "limit":
		p.add(p.limit())
	case "ip", "ip6", "tcp", "udp", "th", "icmpv6":
		p.match(p.key(word))
	case "add", "update", "delete":
		p.dynset(dynsetOps[word])
	default:
		p.check(false)
	}
}

// relation reads what the register, of so many bytes, is compared with: a set, a
// range or a value, which is equality unless it says otherwise.
func (p *parser) relation(length uint32) {
	op := expr.CmpOpEq
	if p.accept("!=") {
		op = expr.CmpOpNeq
	}
	word := p.next()
	if set, ok := strings.CutPrefix(word, "@"); ok {
		p.add(&expr.Lookup{SourceRegister: register, SetName: set, Invert: op == expr.CmpOpNeq})
		return
	}
	encode := func(number string) []byte {
		return binary.BigEndian.AppendUint64(nil, p.parse(number, int(8*length)))[8-length:]
	}
	if from, to, ok := strings.Cut(word, "-"); ok {
		p.add(compare(expr.CmpOpGte, encode(from)...), compare(expr.CmpOpLte, encode(to)...))
		return
	}
	p.add(compare(op, encode(word)...))
}

func (p *parser) meta() {
	switch key := p.next(); {
	case key == "nfproto":
		p.require(map[string]byte{"ipv4": unix.NFPROTO_IPV4, "ipv6": unix.NFPROTO_IPV6}[p.next()], anyProtocol)
	case key == "l4proto" && strings.HasPrefix(p.rest, "@"):
		p.add(&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: register})
		p.relation(1)
	case key == "l4proto":
		p.require(0, protocols[p.next()])
	default:
		p.check(false)
	}
}

// iifname reads the name of an interface, or its beginning and *.
func (p *parser) iifname() {
	name, begins := strings.CutSuffix(p.next(), "*")
	data := []byte(name)
	if !begins {
		data = make([]byte, unix.IFNAMSIZ)
		copy(data, name)
	}
	p.add(&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: register}, compare(expr.CmpOpEq, data...))
}

func (p *parser) log() {
	const key = 1<<unix.NFTA_LOG_GROUP | 1<<unix.NFTA_LOG_PREFIX | 1<<unix.NFTA_LOG_SNAPLEN | 1<<unix.NFTA_LOG_QTHRESHOLD
	l := &expr.Log{Key: key}
	p.expect("prefix")
	l.Data = []byte(p.next())
	p.expect("group")
	l.Group = uint16(p.number(16))
	p.expect("snaplen")
	l.Snaplen = uint32(p.number(32))
	p.expect("queue-threshold")
	l.QThreshold = uint16(p.number(16))
	p.add(l)
}

func (p *parser) limit() *expr.Limit {
	p.expect("rate")
	l := &expr.Limit{Type: expr.LimitTypePkts, Over: p.accept("over")}
	n, unit, _ := strings.Cut(p.next(), "/")
	l.Rate = p.parse(n, 64)
	l.Unit = limitUnits[unit]
	p.expect("burst")
	l.Burst = uint32(p.number(32))
	p.expect("packets")
	return l
}

var limitUnits = map[string]expr.LimitTime{
	"second": expr.LimitTimeSecond, "minute": expr.LimitTimeMinute, "hour": expr.LimitTimeHour,
	"day": expr.LimitTimeDay, "week": expr.LimitTimeWeek,
}
