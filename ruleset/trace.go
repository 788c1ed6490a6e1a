package ruleset

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/internal/nfnl"
	"github.com/portmon/portmon/nftset"
)

// Packet is the first packet of a connection that nothing has translated or
// marked, and what the host would answer if the packet path asked about it.
type Packet struct {
	From, To netip.Addr
	Port     uint16 // destination
	Proto    uint8  // unix.IPPROTO_TCP, which stands for a SYN, or unix.IPPROTO_UDP

	Loopback         bool // it comes in by lo
	FromSelf, ToSelf bool // the routes say that the address is one of this host
	Listener         bool // a socket would get it
	RouteBack        bool // a route to From leads by the interface that it came in by
}

// Names of the questions of a [Trace].
const (
	AskDormant     = "dormant"
	AskBanned      = "banned"
	AskServed      = "served"
	AskTrapPort    = "trap_port"
	AskIgnored     = "ignored"
	AskProbed      = "probed_before"
	AskToThisHost  = "to_this_host"
	AskLoopback    = "loopback"
	AskWhitelisted = "whitelisted"
	AskOwnAddress  = "own_address"
	AskListener    = "listener"
	AskRouteBack   = "route_back"
	AskStarting    = "starting"
	AskGrace       = "grace"
	AskScore       = "score"          // enough distinct closed ports?
	AskRetries     = "retries_needed" // is one packet to a trap not enough?
)

// OtherRule stands for the question of a rule that is not portmon's.
const OtherRule = "other_rule"

// Question is a question of the packet path, and the answer to it.
type Question struct {
	Name    string
	Yes     bool
	Element nftset.Element // that was found, if it was a set that was asked
}

// Trace is what the rules in the kernel do to a packet.
type Trace struct {
	Asked   []Question // each name once, in the order of the kernel
	Dropped bool
	// Because is the name of the question that settled it, or [OtherRule]; ""
	// if no rule did. If it leads to a ban, it is the cause of that.
	Because string
	// Ban is the ban that the packet leads to, nil if there is none; Step is that
	// of the ladder, 0 for a ban of a subnet, and Cause is why.
	Ban   *Entry
	Step  int
	Cause Cause
	// Probes counts the distinct closed ports of the source, that of the packet
	// included, of which ScanPorts are an offence; 0 if they were not counted.
	Probes, ScanPorts int
}

// Trace follows a packet through the rules that the kernel holds, those of
// others included, and asks the kernel for the elements that they look up. It
// changes nothing. Rate limits and full sets are taken to let the packet
// through, and of packets to traps and of sources in a subnet none are taken to
// have come before: the kernel does not report those numbers.
func (h *Handle) Trace(p Packet) (Trace, error) {
	t := tracer{h: h, p: p, added: make(map[setElement]bool)}
	if h.Dormant {
		t.ask(AskDormant, true, nftset.Element{})
		t.Because = AskDormant
		return t.Trace, nil
	}
	var base []ChainState
	for _, ch := range h.Chains {
		if ch.Hook != nil && ch.Hook.Number == unix.NF_INET_PRE_ROUTING {
			base = append(base, ch)
		}
	}
	slices.SortStableFunc(base, func(a, b ChainState) int { return cmp.Compare(a.Hook.Priority, b.Hook.Priority) })
	for _, ch := range base {
		t.Because, t.asked = "", ""
		verdict, err := t.follow(ch.Name)
		if t.Dropped = verdict == expr.VerdictDrop; t.Dropped || err != nil {
			return t.Trace, err
		}
	}
	return t.Trace, nil
}

// tracer is a packet on its way.
type tracer struct {
	h *Handle
	p Packet
	Trace
	added map[setElement]bool // elements that the packet has added
	reg   [80]byte
	about string // the question that the loaded value answers; "" for none
	yes   bool
	asked string // by the rule, last
}

// setElement is one element of a set.
type setElement struct {
	set string
	key nftset.Key
}

// ask notes a question. One that is asked again, about another prefix length or
// by another chain, is one question, and yes if any answer is.
func (t *tracer) ask(name string, yes bool, el nftset.Element) {
	if name == "" {
		return
	}
	t.asked = name
	i := slices.IndexFunc(t.Asked, func(q Question) bool { return q.Name == name })
	switch {
	case i < 0:
		t.Asked = append(t.Asked, Question{name, yes, el})
	case yes && !t.Asked[i].Yes:
		t.Asked[i] = Question{name, yes, el}
	}
}

// follow goes through a chain, and returns VerdictContinue at its end.
func (t *tracer) follow(chain string) (expr.VerdictKind, error) {
	ch := t.h.chain(chain)
	if ch == nil {
		return expr.VerdictContinue, nil
	}
	last := t.asked
	for _, rule := range ch.Rules {
		t.asked = ""
		v, err := t.rule(rule.Exprs)
		last = cmp.Or(t.asked, last)
		if err != nil {
			return 0, err
		}
		switch v.Kind {
		case expr.VerdictAccept, expr.VerdictDrop:
			t.Because = t.because(chain, v.Kind, last)
			return v.Kind, nil
		case expr.VerdictGoto:
			t.asked = last
			return t.follow(v.Chain)
		case expr.VerdictJump:
			t.asked = last
			if kind, err := t.follow(v.Chain); kind != expr.VerdictContinue || err != nil {
				return kind, err
			}
			last = t.asked
		case expr.VerdictReturn:
			return expr.VerdictContinue, nil
		}
	}
	t.asked = last
	return expr.VerdictContinue, nil
}

// because returns the question that a verdict turned on: the last one of its
// rule or, where a chain of ours ends in a verdict, the one before that.
func (t *tracer) because(chain string, verdict expr.VerdictKind, last string) string {
	switch {
	case t.Ban != nil:
		return t.Cause.String()
	case chain == chainListens:
		return AskListener
	case t.asked != "":
		return t.asked
	case strings.HasPrefix(chain, chainRetry) && verdict == expr.VerdictDrop:
		return AskRetries
	case verdict == expr.VerdictAccept && (last == AskTrapPort || last == AskScore):
		return last
	}
	return OtherRule
}

// rule returns the verdict of a rule, VerdictContinue if it has none or does
// not match.
func (t *tracer) rule(exprs [][]byte) (expr.Verdict, error) {
	t.about = ""
	for _, b := range exprs {
		e, err := decodeExpr(t.h.Family, b)
		if err != nil {
			return expr.Verdict{}, err
		}
		if v, ok := e.(*expr.Verdict); ok {
			return *v, nil
		}
		if matches, err := t.evaluate(e); !matches || err != nil {
			return expr.Verdict{Kind: expr.VerdictContinue}, err
		}
	}
	return expr.Verdict{Kind: expr.VerdictContinue}, nil
}

// decodeExpr returns an expression of a rule, nil for a kind that our rules do
// not have.
func decodeExpr(family nftset.Family, b []byte) (expr.Any, error) {
	attrs, err := nfnl.Parse(b)
	if err != nil {
		return nil, err
	}
	e := map[string]expr.Any{
		"payload": &expr.Payload{}, "meta": &expr.Meta{}, "ct": &expr.Ct{}, "fib": &expr.Fib{}, "socket": &expr.Socket{},
		"bitwise": &expr.Bitwise{}, "cmp": &expr.Cmp{}, "lookup": &expr.Lookup{}, "dynset": &expr.Dynset{},
		"limit": &expr.Limit{}, "objref": &expr.Objref{}, "immediate": &expr.Immediate{}, "log": &expr.Log{},
		"counter": &expr.Counter{},
	}[string(attrs[unix.NFTA_EXPR_NAME].Text())]
	if e == nil {
		return nil, nil
	}
	data := attrs[unix.NFTA_EXPR_DATA].Data
	err = expr.Unmarshal(byte(family), data, e)
	if imm, ok := e.(*expr.Immediate); ok && err == nil && imm.Register == unix.NFT_REG_VERDICT {
		e = &expr.Verdict{}
		err = expr.Unmarshal(byte(family), data, e)
	}
	return e, err
}

// evaluate runs an expression, and reports whether the rule goes on behind it.
func (t *tracer) evaluate(e expr.Any) (matches bool, err error) {
	switch e := e.(type) {
	case *expr.Payload:
		header := t.network()
		if e.Base == expr.PayloadBaseTransportHeader {
			header = t.transport()
		}
		if int(e.Offset+e.Len) > len(header) {
			return false, nil
		}
		t.load(e.DestRegister, header[e.Offset:][:e.Len])
	case *expr.Immediate:
		t.load(e.Register, e.Data)
	case *expr.Meta:
		if e.SourceRegister {
			return true, nil // sets a mark, which no rule of ours asks for
		}
		switch e.Key {
		case expr.MetaKeyNFPROTO:
			t.load(e.Register, []byte{familyOfAddr(t.p.From).number()})
		case expr.MetaKeyL4PROTO:
			t.load(e.Register, []byte{t.p.Proto})
		case expr.MetaKeyIIF:
			t.loadAnswer(e.Register, AskLoopback, t.p.Loopback, 1, 2) // lo is 1, as always
		default:
			return false, nil
		}
	case *expr.Ct: // of a new connection
		value := map[expr.CtKey]uint32{expr.CtKeySTATE: 1 << (2 + 1)}[e.Key] // IP_CT_NEW is 2
		t.load(e.Register, hostOrder(value))
	case *expr.Fib:
		switch {
		case !e.ResultADDRTYPE:
			t.loadAnswer(e.Register, AskRouteBack, t.p.RouteBack, 1, 0)
		case e.FlagDADDR:
			t.loadAnswer(e.Register, AskToThisHost, t.p.ToSelf, unix.RTN_LOCAL, unix.RTN_UNICAST)
		default:
			t.loadAnswer(e.Register, AskOwnAddress, t.p.FromSelf, unix.RTN_LOCAL, unix.RTN_UNICAST)
		}
	case *expr.Socket:
		t.ask(AskListener, t.p.Listener, nftset.Element{})
		t.load(e.Register, make([]byte, 4)) // not transparent, and on any address
		return t.p.Listener, nil
	case *expr.Bitwise:
		if len(e.Mask) != int(e.Len) || len(e.Xor) != int(e.Len) {
			return false, nil // a shift, which none of our rules has
		}
		value := slices.Clone(t.at(e.SourceRegister)[:e.Len])
		for i := range value {
			value[i] = value[i]&e.Mask[i] ^ e.Xor[i]
		}
		t.load(e.DestRegister, value)
	case *expr.Cmp:
		t.ask(t.about, t.yes, nftset.Element{})
		c := bytes.Compare(t.at(e.Register)[:len(e.Data)], e.Data)
		return e.Op == expr.CmpOpEq && c == 0 || e.Op == expr.CmpOpNeq && c != 0 ||
			e.Op == expr.CmpOpGte && c >= 0 || e.Op == expr.CmpOpLte && c <= 0, nil
	case *expr.Lookup:
		return t.lookup(e)
	case *expr.Dynset:
		return t.dynset(e)
	case *expr.Limit:
		return !e.Over, nil
	case *expr.Objref:
		switch e.Name {
		case CounterTrapped:
			t.Cause = CauseTrap
		case CounterScanned:
			t.Cause = CauseScan
		case CounterDropped:
			t.asked = AskBanned
		}
	case *expr.Log, *expr.Counter:
	default:
		return false, nil
	}
	return true, nil
}

// at returns a register and those behind it. The first four, of 16 bytes each,
// are also numbered as words of 4 bytes. An expression that has no register, such
// as one that sets the mark of a connection, gets one that no other reads.
func (t *tracer) at(register uint32) []byte {
	switch {
	case register >= unix.NFT_REG32_00 && register <= unix.NFT_REG32_15:
		return t.reg[4*(register-unix.NFT_REG32_00):]
	case register >= unix.NFT_REG_1 && register <= unix.NFT_REG_4:
		return t.reg[16*(register-unix.NFT_REG_1):]
	}
	return make([]byte, len(t.reg))
}

func (t *tracer) load(register uint32, value []byte) {
	copy(t.at(register), value)
	t.about = ""
}

// loadAnswer loads what answers a question: one value for yes, another for no.
func (t *tracer) loadAnswer(register uint32, question string, yes bool, ifYes, ifNo uint32) {
	value := ifNo
	if yes {
		value = ifYes
	}
	t.load(register, hostOrder(value))
	t.about, t.yes = question, yes
}

// network returns the header of IPv4 or IPv6, as far as rules read it.
func (t *tracer) network() []byte {
	f := familyOfAddr(t.p.From)
	header := make([]byte, f.daddrAt)
	copy(header[f.saddrAt:], t.p.From.AsSlice())
	return append(header, t.p.To.AsSlice()...)
}

// transport returns the header of TCP or UDP, as far as rules read it.
func (t *tracer) transport() []byte {
	header := make([]byte, 20)
	binary.BigEndian.PutUint16(header[portAt:], t.p.Port)
	if t.p.Proto == unix.IPPROTO_TCP {
		header[13] = tcpSYN
	}
	return header
}

// questionOf returns the question that a set answers, "" for one that is of no
// interest to users.
func questionOf(set string) string {
	if role, _ := RoleOf(set); role.Bans() {
		return AskBanned
	}
	for _, q := range []struct{ prefix, name string }{
		{"served_", AskServed}, {"trap_", AskTrapPort}, {setIgnoreTCP, AskIgnored}, {"probed", AskProbed},
		{"whitelist", AskWhitelisted}, {"grace_", AskGrace}, {setStarting, AskStarting},
	} {
		if strings.HasPrefix(set, q.prefix) {
			return q.name
		}
	}
	return ""
}

func (t *tracer) lookup(e *expr.Lookup) (matches bool, err error) {
	set := t.h.Set(e.SetName)
	if set == nil {
		return false, nil
	}
	key, _ := nftset.ParseKey(set.Type, t.at(e.SourceRegister)[:set.Type.Len()])
	if t.added[setElement{set.Name, key}] {
		return !e.Invert, nil // by this packet: no question about it
	}
	el, found, err := t.h.get(set.Name, key)
	t.ask(questionOf(set.Name), found, el)
	return found != e.Invert, err
}

func (t *tracer) dynset(e *expr.Dynset) (matches bool, err error) {
	set := t.h.Set(e.SetName)
	if set == nil || e.Operation == dynsetDelete {
		return set != nil, nil
	}
	key, _ := nftset.ParseKey(set.Type, t.at(e.SrcRegKey)[:set.Type.Len()])
	t.added[setElement{set.Name, key}] = true
	if need := threshold(e); need > 1 {
		switch f := familyOf(set.Type); set.Name {
		case f.score():
			probed, err := t.h.Probed(netip.PrefixFrom(key.Addr(), key.Addr().BitLen()))
			if err != nil {
				return false, err
			}
			t.Probes, t.ScanPorts = len(probed)+1, need
			t.ask(AskScore, t.Probes >= need, nftset.Element{})
			return t.Probes >= need, nil
		case f.hits():
			t.ask(AskRetries, true, nftset.Element{})
		}
		return false, nil
	}
	switch role, step := RoleOf(set.Name); role {
	case RoleBan, RoleSubnet:
		if role == RoleSubnet {
			t.Cause = CauseSubnet
		}
		el := nftset.Element{Interval: nftset.Single(key).Interval, Timeout: cmp.Or(e.Timeout, set.Timeout)}
		if ban, ok := t.h.Entry(set.Name, el); ok {
			t.Ban = &ban
		}
	case RoleStep:
		t.Step = step
	}
	return true, nil
}

// threshold returns for the packet of which number a rule goes on behind a
// dynset: 1 without a limit.
func threshold(e *expr.Dynset) int {
	for _, inner := range e.Exprs {
		if l, ok := inner.(*expr.Limit); ok && l.Over {
			return int(l.Burst) + 1
		}
	}
	return 1
}

// ScanPorts returns how many distinct closed ports within a time are an offence
// by the rules that the kernel holds: 0 if none are, 1 and no time if any is.
func (h *Handle) ScanPorts() (n int, within time.Duration) {
	if h.Set(setIgnoreTCP) == nil {
		return 0, 0
	}
	score := h.Set(families[0].score())
	if ch := h.chain(chainScan); ch != nil && score != nil {
		for _, rule := range ch.Rules {
			for _, b := range rule.Exprs {
				if e, err := decodeExpr(h.Family, b); err == nil {
					if d, ok := e.(*expr.Dynset); ok && d.SetName == score.Name {
						return threshold(d), score.Timeout
					}
				}
			}
		}
	}
	return 1, 0
}
