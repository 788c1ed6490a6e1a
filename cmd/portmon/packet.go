package main

import (
	"cmp"
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
	// It passes, because the table observes.
	packetWouldDrop = "would_be_dropped"
	packetWouldBan  = "would_be_dropped_and_ban"
)

// packetAnswer is what would become of a packet, and why.
type packetAnswer struct {
	Protocol  string     `json:"protocol"`
	To        netip.Addr `json:"to,omitzero"` // an address of this host, if it is not known
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
	ruleset.AskAllowed:     {"allowed", "its source is allowed"},
	ruleset.AskInterface:   {"interface", "it comes in by an interface that is whitelisted"},
	ruleset.AskKnock:       {"knock_port", "the port is one of a knock, and never an offence ([knock] tcp)"},
	ruleset.AskOwnAddress:  {"own_address", "its source is an address of this host"},
	ruleset.AskListener:    {"listener", "a program listens on the port"},
	ruleset.AskRouteBack:   {"unroutable", "it has no route back by the interface it came in by, and may be forged"},
	ruleset.AskStarting:    {"starting", "the traps are not armed yet"},
	ruleset.AskRetries:     {"retries", "it bans once enough such packets have come within "},
	ruleset.AskScore:       {"counted", ""},
	ruleset.OtherRule:      {"other_rule", "a rule decides that is not portmon's: " + runApply},
	"":                     {"not_in_force", "the rules of the table are missing"},
}

// follow has the kernel's rules judge the packet.
func (p *cli) follow(h *ruleset.Handle, a *answer, q query) (*packetAnswer, error) {
	back, err := route.Back(q.from, q.iif)
	if err != nil {
		return nil, err
	}
	if !q.to.IsValid() {
		q.to = back.Local
	}
	q.iif = cmp.Or(q.iif, back.Device)
	packet := ruleset.Packet{
		From: q.from, To: q.to, Port: q.port, Proto: map[string]uint8{"tcp": unix.IPPROTO_TCP, "udp": unix.IPPROTO_UDP}[q.proto],
		RouteBack: back.Found,
	}
	if dev, err := net.InterfaceByName(q.iif); err == nil { // "" if there is no route
		packet.Device, packet.Index = dev.Name, uint32(dev.Index)
	}
	packet.FromSelf, packet.ToSelf = back.Own, true
	details := map[string]string{ruleset.AskRouteBack: back.Device}
	listensAt := netip.IPv4Unspecified()
	if q.from.Is6() {
		listensAt = netip.IPv6Unspecified()
	}
	if q.to.IsValid() { // otherwise there is no route
		to, err := route.Back(q.to, "")
		if err != nil {
			return nil, err
		}
		packet.ToSelf, details[ruleset.AskToThisHost], listensAt = to.Own, q.to.String(), q.to
	}
	sockets, socketsErr := p.listeners(q.proto)
	for _, s := range sockets {
		if s.Takes(netip.AddrPortFrom(listensAt, q.port), q.iif) {
			packet.Listener, details[ruleset.AskListener] = true, newListener(s).where
		}
	}
	t, err := h.Trace(packet)
	if err != nil {
		return nil, err
	}
	details[ruleset.AskScore] = fmt.Sprintf("%d of %d", t.Probes, t.ScanPorts)
	answer := &packetAnswer{Protocol: q.proto, To: q.to, Port: q.port, Interface: q.iif, Asked: []question{}}
	answer.settle(t, a.retryTime)
	for _, asked := range t.Asked {
		if asked.Name == ruleset.AskInterface && asked.Yes && len(a.Bans) > 0 {
			a.spared, a.NoEffect = true, "the packet comes in by "+text.Printable(q.iif)+", which is whitelisted"
		}
		if asked.Name == ruleset.AskListener && socketsErr != nil {
			answer.Verdict, answer.Because = packetUnknown, settled[ruleset.AskListener][0]
			answer.Text = "not known: whether a program listens on the port: " + text.Printable(socketsErr.Error())
			answer.Asked = append(answer.Asked, question{asked.Name, "not known"})
			break
		}
		detail := details[asked.Name]
		switch {
		case !asked.Yes:
		case asked.Name == ruleset.AskBanned && len(a.Bans) > 0:
			detail = a.Bans[0].describe()
		case asked.Name == ruleset.AskWhitelisted:
			detail = asked.Element.Interval.String()
		case asked.Element.Remaining > 0:
			detail = text.ShortDuration(asked.Element.Remaining) + " left"
		}
		answer.Asked = append(answer.Asked, question{asked.Name, strings.TrimSuffix(yesNo[asked.Yes]+": "+detail, ": ")})
	}
	return answer, nil
}

var yesNo = map[bool]string{true: "yes", false: "no"}

// settle fills in what becomes of the packet, and why.
func (a *packetAnswer) settle(t ruleset.Trace, retries time.Duration) {
	word := settled[t.Because]
	a.Verdict, a.Because, a.Text = packetPasses, word[0], word[1]
	if t.Dropped {
		a.Verdict = packetDropped
	} else if t.WouldDrop {
		a.Verdict = packetWouldDrop
	}
	switch {
	case t.NotKnown:
		a.Verdict = packetUnknown
		a.Text = "not known: a rule that is not portmon's, in chain " + text.Printable(t.OtherChain) + ", may match: " + runApply
	case t.Ban != nil:
		reason := map[ruleset.Cause]string{
			ruleset.CauseTrap:   "it is a packet to a trap port",
			ruleset.CauseSubnet: "enough sources of its network offended",
			ruleset.CauseScan:   fmt.Sprintf("it is distinct closed port %d of %d", max(t.Probes, 1), max(t.ScanPorts, 1)),
		}[t.Cause]
		if a.Verdict, a.Because = packetBans, t.Because; t.WouldDrop {
			a.Verdict = packetWouldBan
		}
		a.Text = fmt.Sprintf("%s: it would ban %s %s (tier %d)", reason, t.Ban.Interval, banTime(t.Ban.Timeout), t.Step)
	case (t.Dropped || t.WouldDrop) && t.Because == ruleset.AskBanned:
		a.Because, a.Text = "banned", "its source is banned"
	case t.Because == ruleset.AskRetries:
		a.Text += text.Duration(retries)
	case t.Because == ruleset.AskScore:
		a.Text = fmt.Sprintf("the port is closed: it is number %d of %d that count against its source", t.Probes, t.ScanPorts)
	}
}

// print writes the answer for people: the verdict, and the questions.
func (a *packetAnswer) print(p *cli) {
	to, on := "this host", ""
	if a.To.IsValid() {
		to = a.To.String()
	}
	if a.Interface != "" {
		on = " on " + text.Printable(a.Interface)
	}
	kind := map[string]string{"tcp": "a TCP SYN", "udp": "a UDP packet"}[a.Protocol]
	is := map[string]string{
		packetPasses: paint(p.outColour, "passes", green), packetDropped: paint(p.outColour, "is dropped", red),
		packetBans: paint(p.outColour, "is dropped, and bans", red), packetUnknown: paint(p.outColour, "passes or is dropped", yellow),
		packetWouldDrop: paint(p.outColour, "passes, but would be dropped", yellow),
		packetWouldBan:  paint(p.outColour, "passes, but would be dropped, and ban", yellow),
	}[a.Verdict]
	p.print("%s to %s port %d%s %s: %s\n", kind, to, a.Port, on, is, a.Text)
	for _, q := range a.Asked {
		p.print("  %-16s%s\n", strings.ReplaceAll(q.Question, "_", " ")+"?", text.Printable(q.Answer))
	}
}
