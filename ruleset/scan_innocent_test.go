package ruleset

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/portmon/portmon/netnstest"
)

// probeSource is a source that sends.
type probeSource struct {
	l    *fixture
	addr netip.Addr
}

// send sends a packet with these flags to each port, and wants an answer.
func (src probeSource) send(flags netnstest.TCPFlags, want netnstest.AnswerKind, ports ...uint16) {
	src.l.T.Helper()
	for _, port := range ports {
		src.l.Want(src.l.TCP(src.addr, port, flags), want)
	}
}

// innocent runs do, and fails the test if a source has come nearer to a ban by
// that, or a counter has moved.
func (l *fixture) innocent(f family, what string, do func(src probeSource)) {
	l.T.Helper()
	src := probeSource{l, l.source(f)}
	before := l.counters()
	do(src)
	l.wantCounts(before, nil)
	l.Visit(src.addr)
	if st := l.lookup(src.addr); len(st.Bans) > 0 || st.Suspect {
		l.T.Errorf("%s: %v stands at %+v", what, src.addr, st)
	}
}

// TestWhatIsNotAScan asks strictly: a single packet that counts is a ban.
func TestWhatIsNotAScan(t *testing.T) {
	t.Parallel()
	const fin, syn, rst, psh, ack = netnstest.FlagFIN, netnstest.FlagSYN, netnstest.FlagRST, netnstest.FlagPSH, netnstest.FlagACK
	for _, n := range []int{1, 2} {
		spec := scanSpec(n)
		spec.Scan.Ignore = []Ports{{80, 80}, {443, 443}, {30000, 30100}}
		l := newTrap(t, spec)
		for port := 3001; port <= 3012; port++ {
			l.Host.Listen("tcp", fmt.Sprintf("[::]:%d", port))
		}
		l.families(func(l *fixture, f family) {
			bystander := l.source(f)
			l.innocent(f, "open ports", func(src probeSource) {
				src.send(syn, netnstest.AnswerSYNACK, ports(3001, 12)...)
				src.send(fin, netnstest.NoAnswer, ports(3001, 12)...) // nor what no client sends
				src.send(0, netnstest.NoAnswer, ports(3001, 12)...)
			})
			l.innocent(f, "ignored ports", func(src probeSource) {
				src.send(syn, netnstest.AnswerRST, 443, 30000, 30001, 30050, 30099, 30100)
				src.send(fin, netnstest.AnswerRST, 443, 30000, 30001, 30050, 30099, 30100)
			})
			l.innocent(f, "the end of a connection that is gone", func(src probeSource) {
				src.send(ack, netnstest.AnswerRST, ports(200, 10)...)
				src.send(psh|ack, netnstest.AnswerRST, ports(200, 10)...)
				src.send(fin|ack, netnstest.AnswerRST, ports(200, 10)...)
				src.send(rst, netnstest.NoAnswer, ports(200, 10)...)
				src.send(rst|ack, netnstest.NoAnswer, ports(200, 10)...)
			})
			l.innocent(f, "backscatter", func(src probeSource) {
				src.send(syn|ack, netnstest.AnswerRST, ports(200, 10)...)
				src.send(rst|ack, netnstest.NoAnswer, ports(210, 10)...)
				src.send(syn|rst, netnstest.NoAnswer, ports(220, 10)...)
			})
			l.innocent(f, "UDP", func(src probeSource) {
				for _, port := range ports(200, 10) {
					l.Want(l.UDP(src.addr, port), netnstest.AnswerPortUnreachable)
				}
			})
			for _, port := range []uint16{29999, 30101} { // beside a range
				scanner := l.source(f)
				l.probe(scanner, ports(200, n-1)...)
				l.Want(l.SYN(scanner, port), netnstest.NoAnswer)
				l.wantStanding(scanner, 1, CauseScan)
			}
			l.Visit(bystander)
		})
	}
}

// TestScanOfRestartingServices has a client of ten services that restart all at
// once.
func TestScanOfRestartingServices(t *testing.T) {
	t.Parallel()
	spec := scanSpec(5)
	spec.Grace = time.Second
	separately(t, spec, func(l *fixture, f family) {
		l.armed()
		client, bystander := l.source(f), l.source(f)
		var services []*netnstest.Server
		for _, port := range ports(3001, 10) {
			services = append(services, l.Host.Listen("tcp", fmt.Sprintf("[::]:%d", port)))
			l.Want(l.SYN(client, port), netnstest.AnswerSYNACK)
		}
		for _, s := range services {
			s.Close()
		}
		l.probe(client, ports(3001, 10)...)
		l.Served(bystander)
		for _, port := range ports(3001, 10) {
			l.Host.Listen("tcp", fmt.Sprintf("[::]:%d", port))
			l.Want(l.SYN(client, port), netnstest.AnswerSYNACK)
		}
		l.Visit(client)
		l.wantStanding(client, 0, CauseUnknown)
		if got := l.probed(client); len(got) > 0 {
			l.T.Errorf("the ports %v count against a client", got)
		}
	})
}
