package main

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/internal/route"
	"github.com/portmon/portmon/internal/text"
	"github.com/portmon/portmon/ruleset"
)

// query is the packet to explain: the first of a connection.
type query struct {
	from, to netip.Addr
	port     uint16 // 0: none in particular
	proto    string
	iif      string
}

// Verdicts about a packet. To pass means that portmon does not drop it.
const (
	packetPasses  = "passes"
	packetDropped = "dropped"
	packetBans    = "dropped_and_bans" // it is the offence
	packetUnknown = "not_known"        // a rule that is not portmon's may decide
)

// packetAnswer is what would become of a packet, and why.
type packetAnswer struct {
	Protocol  string     `json:"protocol"`
	To        netip.Addr `json:"to"`
	Port      uint16     `json:"port"`
	Interface string     `json:"interface,omitempty"`
	Verdict   string     `json:"verdict"`
	Because   string     `json:"because"` // a word for what settles it
	Text      string     `json:"text"`    // and a sentence
	Asked     []question `json:"asked"`
}

// question is one that the kernel asks about a packet.
type question struct {
	Question string `json:"question"`
	Answer   string `json:"answer"`
}

// settled says, for the question that a packet's fate turned on, what that
// means: a word and a sentence.
var settled = map[string][2]string{
	ruleset.AskDormant:     {"dormant", "the table is dormant: it sees no packets"},
	ruleset.AskBanned:      {"no_trap", "the port is not a trap"},
	ruleset.AskTrapPort:    {"no_trap", "the port is not a trap"},
	ruleset.AskServed:      {"served", "a program listens on the port, or did a moment ago"},
	ruleset.AskGrace:       {"grace", "a program listens on the port, or did a moment ago"},
	ruleset.AskIgnored:     {"ignored", "the port never counts as closed ([scan] ignore)"},
	ruleset.AskProbed:      {"probed_before", "the port counts against its source already"},
	ruleset.AskToThisHost:  {"not_to_this_host", "it is not addressed to this host itself"},
	ruleset.AskLoopback:    {"loopback", "it comes in by loopback"},
	ruleset.AskWhitelisted: {"whitelisted", "its source is whitelisted"},
	ruleset.AskOwnAddress:  {"own_address", "its source is an address of this host"},
	ruleset.AskListener:    {"listener", "a program listens on the port"},
	ruleset.AskRouteBack:   {"unroutable", "it has no route back by the interface it came in by, and may be forged"},
	ruleset.AskStarting:    {"starting", "the traps are not armed yet"},
	ruleset.OtherRule:      {"other_rule", "a rule decides that is not portmon's: run `portmon apply`"},
	"":                     {"not_in_force", "the rules of the table are missing"},
}

// follow has the kernel's rules judge the packet.
func (p *cli) follow(h *ruleset.Handle, a *answer, q query) (*packetAnswer, error) {
	back, err := route.Back(q.from, q.iif)
	if err != nil {
		return nil, err
	}
	if q.iif = cmp.Or(q.iif, back.Device); !q.to.IsValid() {
		if q.to = back.Local; !q.to.IsValid() { // there is no route
			if q.to, err = ownOf(q.from); err != nil {
				return nil, err
			}
		}
	}
	packet := ruleset.Packet{
		From: q.from, To: q.to, Port: q.port, Proto: unix.IPPROTO_TCP, RouteBack: back.Found,
	}
	if dev, err := net.InterfaceByName(q.iif); err == nil { // "" if there is no route
		packet.Device, packet.Index = dev.Name, uint32(dev.Index)
	}
	if q.proto == "udp" {
		packet.Proto = unix.IPPROTO_UDP
	}
	var fromErr, toErr error
	packet.FromSelf, fromErr = route.IsLocal(q.from)
	packet.ToSelf, toErr = route.IsLocal(q.to)
	sockets, err := p.listeners()
	if err := errors.Join(fromErr, toErr, err); err != nil {
		return nil, err
	}
	details := map[string]string{ruleset.AskToThisHost: q.to.String(), ruleset.AskRouteBack: back.Device}
	for _, s := range sockets {
		if s.Proto == q.proto && s.Takes(netip.AddrPortFrom(q.to, q.port), q.iif) {
			packet.Listener, details[ruleset.AskListener] = true, newListener(s).where()
		}
	}
	t, err := h.Trace(packet)
	if err != nil {
		return nil, err
	}
	details[ruleset.AskScore] = fmt.Sprintf("%d of %d", t.Probes, t.ScanPorts)
	if len(a.bans) > 0 {
		details[ruleset.AskBanned] = a.bans[0].describe()
	}
	answer := &packetAnswer{Protocol: q.proto, To: q.to, Port: q.port, Interface: q.iif, Asked: []question{}}
	answer.settle(t, a.retries)
	for _, asked := range t.Asked {
		answer.Asked = append(answer.Asked, question{asked.Name, answerTo(asked, details[asked.Name])})
	}
	return answer, nil
}

// settle fills in what becomes of the packet, and why.
func (a *packetAnswer) settle(t ruleset.Trace, retries time.Duration) {
	word := settled[t.Because]
	a.Verdict, a.Because, a.Text = packetPasses, word[0], word[1]
	if t.Dropped {
		a.Verdict = packetDropped
	}
	switch {
	case t.NotKnown:
		a.Verdict = packetUnknown
		a.Text = "not known: a rule that is not portmon's, in chain " + text.Printable(t.OtherChain) + ", may match: run `portmon apply`"
	case t.Ban != nil:
		reason := "it is a packet to a trap port"
		switch {
		case t.Cause == ruleset.CauseSubnet:
			reason = "enough sources of its network offended"
		case t.Cause == ruleset.CauseScan && t.ScanPorts == 0:
			reason = "the port is closed"
		case t.Cause == ruleset.CauseScan:
			reason = fmt.Sprintf("it is distinct closed port %d of %d", t.Probes, t.ScanPorts)
		}
		a.Verdict, a.Because = packetBans, t.Because
		a.Text = fmt.Sprintf("%s: it would ban %s %s (tier %d)", reason, t.Ban.Interval, banTime(t.Ban.Timeout), t.Step)
	case t.Dropped && t.Because == ruleset.AskBanned:
		a.Because, a.Text = "banned", "its source is banned"
	case t.Because == ruleset.AskRetries:
		a.Because = "retries"
		a.Text = "it bans once enough such packets have come within " + text.Duration(retries)
	case t.Because == ruleset.AskScore:
		a.Because = "counted"
		a.Text = fmt.Sprintf("the port is closed: it is number %d of %d that count against its source", t.Probes, t.ScanPorts)
	}
}

// answerTo writes the answer to a question, with what is known beside it.
func answerTo(q ruleset.Question, detail string) string {
	answer := "no"
	if q.Yes {
		answer = "yes"
	}
	switch q.Name {
	case ruleset.AskBanned, ruleset.AskListener:
		if !q.Yes {
			return answer
		}
	case ruleset.AskWhitelisted:
		if q.Yes {
			detail = q.Element.Interval.String()
		}
	case ruleset.AskServed, ruleset.AskGrace, ruleset.AskStarting:
		if q.Element.Remaining > 0 {
			detail = text.ShortDuration(q.Element.Remaining) + " left"
		}
	}
	if detail == "" {
		return answer
	}
	return answer + ": " + detail
}

// ownOf returns an address of this host of the family of another.
func ownOf(other netip.Addr) (netip.Addr, error) {
	own, err := ownAddrs()
	for _, a := range own {
		if a.Is4() == other.Is4() && a.IsGlobalUnicast() {
			return a, nil
		}
	}
	return netip.Addr{}, cmp.Or(err, errors.New("this host has no address of that family: name one with --to"))
}

// ownAddrs returns the addresses of the interfaces of this host.
func ownAddrs() (own []netip.Addr, err error) {
	all, err := net.InterfaceAddrs()
	for _, a := range all {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			own = append(own, p.Addr().WithZone(""))
		}
	}
	return own, err
}

// print writes the answer for people: the verdict, and the questions.
func (a *packetAnswer) print(p *cli) {
	on := ""
	if a.Interface != "" {
		on = " on " + text.Printable(a.Interface)
	}
	kind := map[string]string{"tcp": "a TCP SYN", "udp": "a UDP packet"}[a.Protocol]
	colour, is := red, "is dropped"
	switch a.Verdict {
	case packetPasses:
		colour, is = green, "passes"
	case packetUnknown:
		colour, is = yellow, "passes or is dropped"
	case packetBans:
		is = "is dropped, and bans"
	}
	p.print("%s to %s port %d%s %s: %s\n", kind, a.To, a.Port, on, paint(p.outColour, is, colour), a.Text)
	for _, q := range a.Asked {
		p.print("  %-16s%s\n", strings.ReplaceAll(q.Question, "_", " ")+"?", text.Printable(q.Answer))
	}
}
