package ruleset

import (
	"bytes"
	"context"
	"net/netip"
	"os/exec"
	"testing"

	"github.com/portmon/portmon/internal/lab"
	"github.com/portmon/portmon/netnstest"
)

// scanners are real programs, and how each is told to ask for a hundred TCP
// ports.
var scanners = map[string]func(l *fixture, to netip.Addr) []string{
	"nmap": func(_ *fixture, to netip.Addr) []string {
		args := []string{"-n", "-Pn", "--disable-arp-ping", "-F", "-T5", "--max-retries", "0", to.String()}
		if to.Is6() {
			args = append(args, "-6")
		}
		return args
	},
	"masscan": func(l *fixture, to netip.Addr) []string {
		return []string{
			to.String(), "-p", "1000-1099", "--rate", "2000", "--wait", "1", "--interface", l.Link.A.Dev,
			"--source-ip", l.ours(to).String(), "--router-mac", l.Link.B.MAC.String(), "--seed", "1",
		}
	},
}

// ours returns the outside's address of the family of another one.
func (l *fixture) ours(a netip.Addr) netip.Addr {
	if a.Is4() {
		return l.Link.A.IPv4
	}
	return l.Link.A.IPv6
}

// running runs a program on the outside while f does, and returns what it
// prints.
func (l *fixture) running(f func(), path string, args ...string) string {
	l.T.Helper()
	var out bytes.Buffer
	ctx, stop := context.WithTimeout(l.T.Context(), 2*lab.Patience)
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Stdout, cmd.Stderr = &out, &out
	var err error
	l.Internet.Do(func() { err = cmd.Start() })
	if err != nil {
		l.T.Fatal(err)
	}
	f()
	stop() // kills it: masscan waits ten seconds for answers
	_ = cmd.Wait()
	return out.String()
}

// TestScanByPrograms is caught at exactly the fifth closed port: no more than
// four of them answer.
func TestScanByPrograms(t *testing.T) {
	t.Parallel()
	const n = 5
	for name, args := range scanners {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := lab.Program(t, name)
			spec := scanSpec(n)
			spec.Scan.Ignore = nil // nmap asks for those too, at a time of its own choice
			separately(t, spec, func(l *fixture, f family) {
				bystander := l.source(f)
				to := l.To(bystander, 0).Addr()
				scanner := l.ours(to)
				sniffer := l.Internet.Sniff(l.Link.A.Dev)
				asked, closed := make(map[uint16]bool), make(map[uint16]bool)
				note := func(p netnstest.Packet) bool {
					reset := p.Flags&netnstest.FlagRST != 0
					switch {
					case p.Proto != netnstest.TCP:
					case p.Outgoing && !reset:
						asked[p.Dst.Port()] = true
					case !p.Outgoing && reset:
						closed[p.Src.Port()] = true
					}
					return len(asked) == 100
				}
				out := l.running(func() {
					if _, err := sniffer.Await(note, lab.Patience); err != nil {
						l.T.Errorf("it asked for %d ports only: %v", len(asked), err)
					}
				}, path, args(l, to)...)
				l.Internet.Fence()
				_, _ = sniffer.Await(func(p netnstest.Packet) bool { note(p); return false }, 0) // until there are no more
				if len(closed) != n-1 {
					l.T.Errorf("%d closed ports have answered, want %d:\n%s", len(closed), n-1, out)
				}
				if got := l.probed(scanner); len(got) != n {
					l.T.Errorf("it was caught with the ports %v, want %d", got, n)
				}
				l.wantStanding(scanner, 1, CauseScan)
				l.wantBans(scanner.String()) // of IPv6 by its full address: it is a neighbour
				l.Cut(scanner)
				l.Served(bystander)
			})
		})
	}
}
