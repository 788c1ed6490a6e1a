package main

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/internal/route"
	"github.com/portmon/portmon/internal/text"
	"github.com/portmon/portmon/nftset"
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

// walk follows a packet through the table.
type walk struct {
	*packetAnswer
	c *nftset.Conn
	h *ruleset.Handle
	a *answer
	q query
}

// ask notes a question. It returns yes for the caller to act on.
func (w *walk) ask(name string, yes bool, more string) bool {
	text := "no"
	if yes {
		text = "yes"
	}
	if more != "" {
		text += ": " + more
	}
	w.Asked = append(w.Asked, question{name, text})
	return yes
}

// end settles what becomes of the packet.
func (w *walk) end(verdict, because, format string, args ...any) error {
	w.Verdict, w.Because, w.Text = verdict, because, fmt.Sprintf(format, args...)
	return nil
}

// follow asks the questions that the kernel would ask about the packet, in the
// same order. Where the order makes no difference, related ones stand together.
func (p *cli) follow(c *nftset.Conn, h *ruleset.Handle, a *answer, q query) (*packetAnswer, error) {
	back, err := route.Back(q.from, q.iif)
	if err != nil {
		return nil, err
	}
	if !q.to.IsValid() {
		q.to = back.Local
	}
	if !q.to.IsValid() { // there is no route
		if q.to, err = ownOf(q.from); err != nil {
			return nil, err
		}
	}
	if q.iif == "" {
		q.iif = back.Device
	}
	w := &walk{&packetAnswer{Protocol: q.proto, To: q.to, Port: q.port, Interface: q.iif}, c, h, a, q}
	if h.Dormant {
		w.ask("dormant", true, "the table is switched off")
		return w.packetAnswer, w.end(packetPasses, "dormant", "the table is dormant: it sees no packets")
	}
	if w.ask("banned", len(a.bans) > 0, shortBans(a.bans)) {
		if w.ask("loopback", q.iif == "lo", "") || w.ask("whitelisted", a.WhitelistedBy != "", a.WhitelistedBy) {
			return w.packetAnswer, w.end(packetPasses, "exempt", "no ban has an effect on it")
		}
		return w.packetAnswer, w.end(packetDropped, "banned", "its source is banned")
	}
	if q.proto == "tcp" {
		if served, err := w.spared("served_", "served"); served || err != nil {
			return w.packetAnswer, err
		}
	}
	switch {
	case w.ask("trap_port", hasPort(a.traps.of(q.proto), q.port), ""):
		err = w.trap(p, back)
	case q.proto == "tcp" && w.ask("scans_counted", a.scans, ""):
		err = w.scan(p, back)
	default:
		err = w.end(packetPasses, "no_trap", "the port is not a trap")
	}
	return w.packetAnswer, err
}

func shortBans(bans []ban) string {
	if len(bans) == 0 {
		return ""
	}
	return bans[0].describe()
}

// trap follows a packet to a trap port.
func (w *walk) trap(p *cli, back route.Answer) error {
	if done, err := w.exempt(p, back); done || err != nil {
		return err
	}
	if grace, err := w.spared("grace_", "grace"); grace || err != nil {
		return err
	}
	if w.ask("retries_needed", w.a.retries > 0, "") {
		return w.end(packetDropped, "retries", "it is dropped, and bans once enough such packets came within %s", text.Duration(w.a.retries))
	}
	return w.offence("trap", "it is a packet to a trap port")
}

// scan follows a packet to a port that may be closed.
func (w *walk) scan(p *cli, back route.Answer) error {
	_, ignored, err := w.get(setIgnoreTCP, nftset.PortKey(w.q.port))
	if err != nil {
		return err
	}
	if w.ask("ignored", ignored, "") {
		return w.end(packetPasses, "ignored", "the port never counts as closed ([scan] ignore)")
	}
	if w.a.ScanPorts != 1 && w.ask("probed_before", slices.Contains(w.a.ProbedPorts, w.q.port), "") {
		return w.end(packetPasses, "probed_before", "the port counts against its source already")
	}
	if done, err := w.exempt(p, back); done || err != nil {
		return err
	}
	n, of := len(w.a.ProbedPorts)+1, w.a.ScanPorts
	switch {
	case of == 1:
		if grace, err := w.spared("grace_", "grace"); grace || err != nil {
			return err
		}
		return w.offence("scan", "the port is closed")
	case of == 0:
		w.ask("score", true, fmt.Sprintf("%d", n))
		return w.end(packetPasses, "counted", "the port is closed: it is number %d that counts against its source", n)
	case w.ask("score", n >= of, fmt.Sprintf("%d of %d", n, of)):
		return w.offence("scan", fmt.Sprintf("it is distinct closed port %d of %d", n, of))
	}
	return w.end(packetPasses, "counted", "the port is closed: it is number %d of %d that count against its source", n, of)
}

// exempt asks what spares a packet that could be an offence.
func (w *walk) exempt(p *cli, back route.Answer) (done bool, err error) {
	own, err := isOwn(w.q.to)
	if err != nil {
		return false, err
	}
	if !w.ask("to_this_host", own, w.q.to.String()) {
		return true, w.end(packetPasses, "not_to_this_host", "it is not addressed to this host itself")
	}
	if w.ask("loopback", w.q.iif == "lo", "") {
		return true, w.end(packetPasses, "loopback", "it comes in by loopback")
	}
	if w.ask("whitelisted", w.a.WhitelistedBy != "", w.a.WhitelistedBy) {
		return true, w.end(packetPasses, "whitelisted", "its source is whitelisted")
	}
	if w.ask("own_address", w.a.Verdict == ownAddress, "") {
		return true, w.end(packetPasses, "own_address", "its source is an address of this host")
	}
	sockets, err := p.listeners()
	if err != nil {
		return false, err
	}
	to := netip.AddrPortFrom(w.q.to, w.q.port)
	for _, s := range sockets {
		if s.Proto == w.q.proto && s.Takes(to, w.q.iif) {
			w.ask("listener", true, listener(s).where())
			return true, w.end(packetPasses, "listener", "a program listens on the port")
		}
	}
	w.ask("listener", false, "")
	if !w.ask("route_back", back.Found, back.Device) {
		return true, w.end(packetDropped, "unroutable", "it has no route back by the interface it came in by, and may be forged: no ban is made")
	}
	number := uint8(unix.IPPROTO_TCP)
	if w.q.proto == "udp" {
		number = unix.IPPROTO_UDP
	}
	el, starting, err := w.get(setStarting, nftset.ProtoKey(number))
	if w.ask("starting", starting, graceLeft(el.Remaining)) {
		return true, w.end(packetPasses, "starting", "the traps are not armed yet")
	}
	return false, err
}

// offence ends with a ban.
func (w *walk) offence(because, reason string) error {
	return w.end(packetBans, because, "%s: it would ban %s for %s (tier %d)",
		reason, text.Prefix(w.a.Source), text.Duration(time.Duration(w.a.NextBanSeconds)), w.a.NextTier)
}

// spared asks a set of the services where a program was seen listening.
func (w *walk) spared(set, question string) (bool, error) {
	name := set + w.q.proto + "4"
	if w.q.to.Is6() {
		name = set + w.q.proto + "6"
	}
	el, ok, err := w.get(name, nftset.AddrPortKey(netip.AddrPortFrom(w.q.to, w.q.port)))
	if err != nil || !w.ask(question, ok, graceLeft(el.Remaining)) {
		return false, err
	}
	return true, w.end(packetPasses, question, "a program listens on the port, or did a moment ago")
}

func graceLeft(d time.Duration) string {
	if d <= 0 {
		return ""
	}
	return text.ShortDuration(d) + " left"
}

// get asks for an element of a set, which need not be there.
func (w *walk) get(set string, key nftset.Key) (el nftset.Element, ok bool, err error) {
	s := w.h.Set(set)
	if s == nil {
		return el, false, nil
	}
	el, err = w.c.Get(s, key)
	if errors.Is(err, os.ErrNotExist) {
		return el, false, nil
	}
	return el, err == nil, err
}

// isOwn reports whether an address is one of this host.
func isOwn(addr netip.Addr) (bool, error) {
	own, err := ownAddrs()
	return slices.Contains(own, addr), err
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

// ownAddrs returns the addresses of this host.
func ownAddrs() (own []netip.Addr, err error) {
	all, err := net.InterfaceAddrs()
	for _, a := range all {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			own = append(own, p.Addr().WithZone(""))
		}
	}
	return own, err
}

// print writes the answer for people: the questions, and the verdict.
func (a *packetAnswer) print(p *cli) {
	by := ""
	if a.Interface != "" {
		by = " on " + text.Printable(a.Interface)
	}
	kind := map[string]string{"tcp": "a TCP SYN", "udp": "a UDP packet"}[a.Protocol]
	is := map[string]string{packetPasses: "passes", packetDropped: "is dropped", packetBans: "is dropped, and bans"}[a.Verdict]
	colour := red
	if a.Verdict == packetPasses {
		colour = green
	}
	p.print("%s to %s port %d%s %s: %s\n", kind, a.To, a.Port, by, paint(p.outColour, is, colour), a.Text)
	for _, q := range a.Asked {
		p.print("  %-16s%s\n", strings.ReplaceAll(q.Question, "_", " ")+"?", text.Printable(q.Answer))
	}
}
