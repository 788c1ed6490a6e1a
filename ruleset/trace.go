package ruleset

import (
	"cmp"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/nftset"
)

// Packet is the first packet of a connection that nothing has translated, and
// what the host would answer if the packet path asked about it.
type Packet struct {
	From  netip.Addr
	To    netip.Addr // the zero Addr if it is not known
	Port  uint16     // destination; 0 if it is not known
	Proto uint8      // unix.IPPROTO_TCP, which stands for a SYN, _UDP, _ICMP or _ICMPV6

	// Device and Index are of the interface that it comes in by. If they are not
	// known, "" and 0, it is any but lo, whose index is 1, and those that are
	// whitelisted.
	Device string
	Index  uint32

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
	AskAllowed     = "allowed"
	AskInterface   = "interface"  // is it whitelisted?
	AskKnock       = "knock_port" // is the port one of the sequence?
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
	// WouldDrop reports that the packet passes because the table observes, which
	// drops it otherwise: Because and Ban are as if it did.
	WouldDrop bool
	// Because is the name of the question that settled it, or [OtherRule]; ""
	// if no rule did. If it leads to a ban, it is the cause of that.
	Because string
	// NotKnown reports that the packet came to a rule that is not portmon's and
	// cannot be evaluated. Dropped and Ban are not set then.
	NotKnown bool
	// OtherChain is the chain of the first rule that is not portmon's and gave
	// a verdict, or cannot be evaluated; "" if there is none.
	OtherChain string
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
// changes nothing. If the packet comes to a rule that cannot be evaluated, and
// portmon makes none, the verdict is not known. Rate limits and full sets are
// taken to let the packet through, and of packets to traps and of sources in a
// subnet none are taken to have come before: the kernel does not report those
// numbers.
func (h *Handle) Trace(p Packet) (Trace, error) {
	t := tracer{h: h, p: p, changed: make(map[setElement]bool)}
	if h.Dormant {
		t.ask(AskDormant, true, nftset.Element{})
		t.Because = AskDormant
		return t.Trace, nil
	}
	var base []Chain
	for _, ch := range h.Chains {
		if ch.Hook != nil && ch.Hook.Number == unix.NF_INET_PRE_ROUTING {
			base = append(base, ch)
		}
	}
	slices.SortStableFunc(base, func(a, b Chain) int { return cmp.Compare(a.Hook.Priority, b.Hook.Priority) })
	for _, ch := range base {
		t.Because, t.asked = "", ""
		t.tracked = ch.Hook.Priority > conntrackPriority
		verdict, err := t.follow(&ch)
		if err == nil && verdict == expr.VerdictContinue && !ch.Hook.Plain { // its policy may be to drop
			err = t.notKnown(ch.Name)
		}
		switch {
		case errors.Is(err, errNotKnown):
			t.NotKnown, t.Ban, t.Because = true, nil, OtherRule
			return t.Trace, nil
		case err != nil || verdict == expr.VerdictDrop:
			t.Dropped = err == nil && !t.WouldDrop
			return t.Trace, err
		}
	}
	return t.Trace, nil
}

// errNotKnown is about an expression that is not portmon's, and that cannot be
// evaluated for want of knowledge about it or the packet.
var errNotKnown = errors.New("not known what it does to the packet")

// conntrackPriority is NF_IP_PRI_CONNTRACK of
// include/uapi/linux/netfilter_ipv4.h. Before it, no packet has a connection.
const conntrackPriority = -200

// tracer is a packet on its way.
type tracer struct {
	h *Handle
	p Packet
	Trace
	changed map[setElement]bool // elements that the packet has added (true) or deleted
	tracked bool                // the chain is behind conntrack

	// Of the rule:
	reg    [96]byte
	unsure [96]bool // bytes of reg that are not known
	about  string   // the question that the loaded value answers; "" for none
	yes    bool
	asked  string // last
}

// notKnown notes that a rule of the chain is not portmon's, and returns
// errNotKnown.
func (t *tracer) notKnown(chain string) error {
	t.OtherChain = cmp.Or(t.OtherChain, chain)
	return errNotKnown
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
func (t *tracer) follow(ch *Chain) (expr.VerdictKind, error) {
	last := t.asked
	for _, rule := range ch.Rules {
		t.asked = ""
		v, err := t.rule(ch.Name, rule.Exprs)
		last = cmp.Or(t.asked, last)
		if err != nil {
			return 0, err
		}
		if v.Kind == expr.VerdictAccept && rule.Comment == wouldDrop {
			v.Kind, t.WouldDrop = expr.VerdictDrop, true
		}
		switch v.Kind {
		case expr.VerdictAccept, expr.VerdictDrop:
			t.Because = t.because(ch.Name, v.Kind, last)
			return v.Kind, nil
		case expr.VerdictGoto, expr.VerdictJump:
			next := t.h.chain(v.Chain)
			if next == nil { // it was made after the chains were read
				return 0, t.notKnown(ch.Name)
			}
			t.asked = last
			if kind, err := t.follow(next); v.Kind == expr.VerdictGoto || kind != expr.VerdictContinue || err != nil {
				return kind, err
			}
			last = t.asked
		case expr.VerdictReturn:
			return expr.VerdictContinue, nil
		case expr.VerdictContinue:
		default: // as to a queue
			return 0, t.notKnown(ch.Name)
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
	case slices.Contains([]string{chainEarly, chainEarlyOpening, chainGuard}, chain) && t.asked != AskBanned:
		// No rule of ours there asks for anything else last.
	case t.asked != "":
		return t.asked
	case strings.HasPrefix(chain, chainRetry) && verdict == expr.VerdictDrop:
		return AskRetries
	case verdict == expr.VerdictAccept && (last == AskTrapPort || last == AskScore):
		return last
	}
	t.OtherChain = cmp.Or(t.OtherChain, chain)
	return OtherRule
}

// rule returns the verdict of a rule of the chain, VerdictContinue if it has
// none or does not match.
func (t *tracer) rule(chain string, exprs []expr.Any) (expr.Verdict, error) {
	t.about, t.unsure = "", [len(t.unsure)]bool{}
	if name, ok := interfaceOf(chain, exprs); ok {
		yes := t.p.Device != "" && strings.HasPrefix(t.p.Device+strings.Repeat("\x00", unix.IFNAMSIZ), name)
		if t.ask(AskInterface, yes, nftset.Element{}); yes {
			return expr.Verdict{Kind: expr.VerdictAccept}, nil
		}
		return expr.Verdict{Kind: expr.VerdictContinue}, nil
	}
	for _, e := range exprs {
		if v, ok := e.(*expr.Verdict); ok {
			return *v, nil
		}
		matches, err := t.evaluate(e)
		if errors.Is(err, errNotKnown) {
			err = t.notKnown(chain)
		}
		if !matches || err != nil {
			return expr.Verdict{Kind: expr.VerdictContinue}, err
		}
	}
	return expr.Verdict{Kind: expr.VerdictContinue}, nil
}

// interfaceOf returns the name, or the beginning of one, of the interface that a
// rule of the chain whitelists.
func interfaceOf(chain string, exprs []expr.Any) (name string, ok bool) {
	if len(exprs) != 3 || !slices.Contains([]string{chainEarlyBanned, chainBanned, chainExempt}, chain) {
		return "", false
	}
	meta, isMeta := exprs[0].(*expr.Meta)
	cmp, isCmp := exprs[1].(*expr.Cmp)
	v, isVerdict := exprs[2].(*expr.Verdict)
	if !isMeta || !isCmp || !isVerdict || meta.Key != expr.MetaKeyIIFNAME || cmp.Op != expr.CmpOpEq || v.Kind != expr.VerdictAccept {
		return "", false
	}
	return string(cmp.Data), true
}

// Interfaces returns those by which what comes in is never dropped, as Spec has
// them, by the rules that the kernel holds.
func (s *State) Interfaces() (names []string) {
	ch := s.chain(chainBanned)
	if ch == nil {
		return nil
	}
	for _, rule := range ch.Rules {
		if name, ok := interfaceOf(ch.Name, rule.Exprs); ok {
			start, _, whole := strings.Cut(name, "\x00")
			if !whole {
				start += "*"
			}
			names = append(names, start)
		}
	}
	return names
}

// questionOf returns the question that a set answers, "" for one that is of no
// interest to users.
func questionOf(set string) string {
	if role, _ := RoleOf(set); role.Bans() || role == RoleFleet {
		return AskBanned
	}
	for _, q := range []struct{ prefix, name string }{
		{"served_", AskServed}, {"trap_", AskTrapPort}, {setIgnoreTCP, AskIgnored}, {"probed", AskProbed},
		{"whitelist", AskWhitelisted}, {"allow", AskAllowed}, {"knocked", AskAllowed}, {setKnockTCP, AskKnock},
		{"grace_", AskGrace}, {setStarting, AskStarting},
	} {
		if strings.HasPrefix(set, q.prefix) {
			return q.name
		}
	}
	return ""
}

// needed returns for the packet of which number a rule goes on behind a
// dynset: 1 without a limit.
func needed(e *expr.Dynset) int {
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
	return h.counts(families[0].score())
}

// Retries returns how many packets to trap ports within a time are an offence by
// the rules that the kernel holds: 1 and no time if one is enough.
func (h *Handle) Retries() (n int, within time.Duration) { return h.counts(families[0].hits()) }

// counts returns of how many packets within a time the last one passes the rule
// that counts them in a set: 1 and no time if no rule does.
func (s *State) counts(name string) (n int, within time.Duration) {
	if set := s.Set(name); set != nil {
		for _, ch := range s.Chains {
			for _, rule := range ch.Rules {
				for _, e := range rule.Exprs {
					if d, ok := e.(*expr.Dynset); ok && d.SetName == name && d.Operation != dynsetDelete {
						return needed(d), set.Timeout
					}
				}
			}
		}
	}
	return 1, 0
}
