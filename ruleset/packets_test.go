package ruleset

import (
	"net/netip"

	"github.com/portmon/portmon/netnstest"
)

// to returns a port of the host, at its address of the source's family.
func (l *lab) to(src netip.Addr, port uint16) netip.AddrPort {
	if src.Is4() {
		return at(l.link.B.IPv4, port)
	}
	return at(l.link.B.IPv6, port)
}

// tcp returns a TCP packet with these flags.
func (l *lab) tcp(src netip.Addr, port uint16, flags netnstest.TCPFlags) netnstest.Packet {
	p := netnstest.SYN(src, l.to(src, port))
	p.Flags = flags
	return p
}

func (l *lab) syn(src netip.Addr, port uint16) netnstest.Packet {
	return l.tcp(src, port, netnstest.FlagSYN)
}

func (l *lab) udp(src netip.Addr, port uint16) netnstest.Packet {
	return netnstest.Datagram(src, l.to(src, port), "hello")
}

// want probes from the outside and fails the test unless the answer is of that kind.
func (l *lab) want(p netnstest.Packet, kind netnstest.AnswerKind) {
	l.t.Helper()
	if got := l.outside.Probe(p); got.Kind != kind {
		l.t.Errorf("%v: got answer %v, want %v", p, got, netnstest.Answer{Kind: kind})
	}
}

// served fails the test unless the host serves a source, and answers it at ports that are closed.
func (l *lab) served(sources ...netip.Addr) {
	l.t.Helper()
	for _, src := range sources {
		l.want(l.syn(src, openTCP), netnstest.AnswerSYNACK)
		l.want(l.udp(src, openUDP), netnstest.AnswerUDP)
		l.want(l.syn(src, closed), netnstest.AnswerRST)
		l.want(netnstest.Ping(src, l.to(src, 0).Addr(), 7), netnstest.AnswerEcho)
	}
}

// cut fails the test unless the host is silent to a source.
func (l *lab) cut(sources ...netip.Addr) {
	l.t.Helper()
	for _, src := range sources {
		l.want(l.syn(src, openTCP), netnstest.NoAnswer)
		l.want(l.tcp(src, openTCP, netnstest.FlagACK), netnstest.NoAnswer)
		l.want(l.udp(src, openUDP), netnstest.NoAnswer)
		l.want(netnstest.Ping(src, l.to(src, 0).Addr(), 7), netnstest.NoAnswer)
	}
}

// offend sends a trap packet from each source, which must get no answer.
func (l *lab) offend(sources ...netip.Addr) {
	l.t.Helper()
	for _, src := range sources {
		l.want(l.syn(src, trapTCP), netnstest.NoAnswer)
	}
}
