package ruleset

import (
	"bytes"
	"cmp"
	"net/netip"
	"slices"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/nftset"
)

// evaluate runs an expression, and reports whether the rule goes on behind it.
func (t *tracer) evaluate(e expr.Any) (matches bool, err error) {
	switch e := e.(type) {
	case *expr.Payload:
		if e.OperationType == expr.PayloadWrite {
			return false, errNotKnown
		}
		value, sure := t.payload(e)
		t.load(e.DestRegister, value, sure)
	case *expr.Meta:
		return true, t.meta(e)
	case *expr.Ct: // of a new connection
		state := uint32(1) // NF_CT_STATE_INVALID_BIT: it has none yet
		if t.tracked {
			state = 1 << (2 + 1) // IP_CT_NEW is 2
		}
		switch e.Key {
		case expr.CtKeySTATE:
			t.load(e.Register, hostOrder(state), true)
		case expr.CtKeyDIRECTION, expr.CtKeySTATUS:
			t.load(e.Register, make([]byte, 4), true)
			return t.tracked, nil
		default:
			return false, errNotKnown
		}
	case *expr.Fib:
		switch {
		case e.ResultOIF && e.FlagPRESENT && e.FlagSADDR && e.FlagIIF:
			t.loadAnswer(e.Register, AskRouteBack, t.p.RouteBack, 1, 0)
		case !e.ResultADDRTYPE || e.FlagIIF || e.FlagOIF:
			return false, errNotKnown
		case e.FlagDADDR:
			t.loadAnswer(e.Register, AskToThisHost, t.p.ToSelf, unix.RTN_LOCAL, unix.RTN_UNICAST)
		default:
			t.loadAnswer(e.Register, AskOwnAddress, t.p.FromSelf, unix.RTN_LOCAL, unix.RTN_UNICAST)
		}
	case *expr.Socket:
		t.ask(AskListener, t.p.Listener, nftset.Element{})
		// It is not transparent, and on any address.
		t.load(e.Register, make([]byte, 16), e.Key == expr.SocketKeyTransparent || e.Key == expr.SocketKeyWildcard)
		return t.p.Listener, nil
	case *expr.Bitwise:
		if len(e.Mask) != int(e.Len) || len(e.Xor) != int(e.Len) { // a shift, which none of our rules has
			return false, errNotKnown
		}
		value := make([]byte, e.Len)
		for i, b := range t.reg[registerAt(e.SourceRegister):][:e.Len] {
			value[i] = b&e.Mask[i] ^ e.Xor[i]
		}
		t.load(e.DestRegister, value, t.sure(e.SourceRegister, e.Len))
	case *expr.Cmp:
		t.ask(t.about, t.yes, nftset.Element{})
		// Our rules ask for no interface but lo.
		isLo := t.about == AskLoopback && bytes.Equal(e.Data, hostOrder(1))
		if !isLo && !t.sure(e.Register, uint32(len(e.Data))) {
			return false, errNotKnown
		}
		c := bytes.Compare(t.reg[registerAt(e.Register):][:len(e.Data)], e.Data)
		return map[expr.CmpOp]bool{
			expr.CmpOpEq: c == 0, expr.CmpOpNeq: c != 0, expr.CmpOpLt: c < 0, expr.CmpOpLte: c <= 0,
			expr.CmpOpGt: c > 0, expr.CmpOpGte: c >= 0,
		}[e.Op], nil
	case *expr.Lookup:
		return t.lookup(e)
	case *expr.Dynset:
		return t.dynset(e)
	case *expr.Limit:
		return !e.Over, nil
	case *expr.Objref:
		if e.Type != unix.NFT_OBJECT_COUNTER {
			return false, errNotKnown
		}
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
		return false, errNotKnown
	}
	return true, nil
}

// registerAt returns where a register, and those behind it, begin. The first four,
// of 16 bytes each, are also numbered as words of 4 bytes. An expression that
// has no register gets one that no other reads.
func registerAt(register uint32) int {
	switch {
	case register >= unix.NFT_REG32_00 && register <= unix.NFT_REG32_15:
		return int(4 * (register - unix.NFT_REG32_00))
	case register >= unix.NFT_REG_1 && register <= unix.NFT_REG_4:
		return int(16 * (register - unix.NFT_REG_1))
	}
	return 80
}

// load loads a value into a register; sure is false if it is not known.
func (t *tracer) load(register uint32, value []byte, sure bool) {
	at := registerAt(register)
	copy(t.reg[at:], value)
	for i := range value {
		t.unsure[at+i] = !sure
	}
	t.about = ""
}

// sure reports whether n bytes from a register on are known.
func (t *tracer) sure(register, n uint32) bool {
	return !slices.Contains(t.unsure[registerAt(register):][:n], true)
}

// loadAnswer loads what answers a question: one value for yes, another for no.
func (t *tracer) loadAnswer(register uint32, question string, yes bool, ifYes, ifNo uint32) {
	value := ifNo
	if yes {
		value = ifYes
	}
	t.load(register, hostOrder(value), true)
	t.about, t.yes = question, yes
}

// meta loads what the kernel knows of the packet beside its headers.
func (t *tracer) meta(e *expr.Meta) error {
	switch {
	case e.SourceRegister:
		return errNotKnown
	case e.Key == expr.MetaKeyNFPROTO:
		t.load(e.Register, []byte{familyOfAddr(t.p.From).number()}, true)
	case e.Key == expr.MetaKeyL4PROTO:
		t.load(e.Register, []byte{t.p.Proto}, true)
	case e.Key == expr.MetaKeyIIF:
		t.load(e.Register, hostOrder(t.p.Index), t.p.Index != 0)
		t.about, t.yes = AskLoopback, t.p.Index == 1 // lo is 1, as always
	case e.Key == expr.MetaKeyIIFNAME:
		name := make([]byte, unix.IFNAMSIZ)
		copy(name, t.p.Device)
		t.load(e.Register, name, t.p.Device != "")
	default:
		return errNotKnown
	}
	return nil
}

// payload returns a part of a header, and whether it is known. What is not known
// is 0, as if a port or an address that no set of ours has.
func (t *tracer) payload(e *expr.Payload) (value []byte, sure bool) {
	header, known := make([]byte, 40), make([]bool, 40)
	put := func(at uint32, b ...byte) {
		copy(header[at:], b)
		for i := range b {
			known[int(at)+i] = true
		}
	}
	f := familyOfAddr(t.p.From)
	switch e.Base {
	case expr.PayloadBaseNetworkHeader:
		put(f.saddrAt, t.p.From.AsSlice()...)
		put(f.daddrAt, t.p.To.AsSlice()...)
		if !f.is6() {
			put(9, t.p.Proto)
		} else if put(6, t.p.Proto); t.p.Proto == unix.IPPROTO_ICMPV6 {
			put(7, 64) // the hop limit: this is not neighbour discovery
		}
	case expr.PayloadBaseTransportHeader:
		if t.p.Port > 0 {
			put(portAt, byte(t.p.Port>>8), byte(t.p.Port))
		}
		if t.p.Proto == unix.IPPROTO_TCP {
			put(tcpFlagsAt, tcpSYN)
		}
	}
	if e.Offset+e.Len > uint32(len(header)) {
		return make([]byte, e.Len), false
	}
	return header[e.Offset:][:e.Len], !slices.Contains(known[e.Offset:][:e.Len], false)
}

// lookup asks a set; those without a name are not read.
func (t *tracer) lookup(e *expr.Lookup) (matches bool, err error) {
	set := t.h.Set(e.SetName)
	switch {
	case e.IsDestRegSet, set == nil, !isOurs(set.Name) && !t.sure(e.SourceRegister, uint32(set.Type.Len())):
		return false, errNotKnown
	}
	key, ok := nftset.ParseKey(set.Type, t.reg[registerAt(e.SourceRegister):][:set.Type.Len()])
	if !ok {
		return false, errNotKnown
	}
	if added, ok := t.changed[setElement{set.Name, key}]; ok {
		return added != e.Invert, nil // by this packet: no question about it
	}
	el, found, err := t.h.get(set.Name, key)
	t.ask(questionOf(set.Name), found, el)
	return found != e.Invert, err
}

// dynset adds to a set, or deletes from it.
func (t *tracer) dynset(e *expr.Dynset) (matches bool, err error) {
	set := t.h.Set(e.SetName)
	if set == nil || !isOurs(set.Name) { // its rule ends there if the set is full, or by a limit
		return false, errNotKnown
	}
	key, _ := nftset.ParseKey(set.Type, t.reg[registerAt(e.SrcRegKey):][:set.Type.Len()])
	t.changed[setElement{set.Name, key}] = e.Operation != dynsetDelete
	if e.Operation == dynsetDelete {
		return true, nil
	}
	if need := needed(e); need > 1 {
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
