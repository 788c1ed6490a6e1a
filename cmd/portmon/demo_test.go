package main

import (
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/portmon/portmon/netnstest"
)

// TestDemo shows what portmon is about, on hosts that exist only as long as it
// runs. With PORTMON_DEMO=1 it can be watched:
//
//	PORTMON_DEMO=1 go test -run '^TestDemo$' ./cmd/portmon -v
func TestDemo(t *testing.T) {
	d := demo{T: t, host: netnstest.NewHost(t, "host"), loud: os.Getenv("PORTMON_DEMO") == "1"}
	scanner, bystander := netnstest.NewHost(t, "scanner"), netnstest.NewHost(t, "bystander")
	d.scanner = netnstest.Connect(t, scanner, d.host, "203.0.113.0/24").A
	d.bystander = netnstest.Connect(t, bystander, d.host, "198.51.100.0/24").A
	d.host.Listen("tcp", "[::]:80")

	d.tell("A host serves the web on port 80. Nobody listens on port 23, but scanners ask for it all day.")
	d.portmon(
		"inet portmon: installed, 44 TCP and 0 UDP trap ports, 5 closed ports make a scan, ladder 10m 8h 30d",
		"apply")
	d.visit(d.bystander, 80, netnstest.AnswerSYNACK)
	d.visit(d.scanner, 80, netnstest.AnswerSYNACK)

	d.tell("The scanner touches the trap. From that packet on, the host is silent to it.")
	d.visit(d.scanner, 23, netnstest.NoAnswer)
	d.visit(d.scanner, 80, netnstest.NoAnswer)
	d.visit(d.scanner, 22, netnstest.NoAnswer)

	d.tell("Nobody else notices.")
	d.visit(d.bystander, 80, netnstest.AnswerSYNACK)
	if err := bystander.Exchange("tcp", netip.Addr{}, netip.AddrPortFrom(netip.MustParseAddr("198.51.100.2"), 80), 10*time.Second); err != nil {
		t.Errorf("the bystander is not served: %v", err)
	}

	d.tell("No program has run for that: the kernel did it. This is what it holds.")
	d.portmon("203.0.113.1  1     trap   ", "list")
	d.portmon("203.0.113.1 is banned: packets from it are dropped", "why", "203.0.113.1")
	d.portmon("198.51.100.1 is not banned", "why", "198.51.100.1")
	d.portmon("dropped     2 ", "status")

	d.tell("Everybody makes mistakes.")
	d.portmon("unbanned 203.0.113.1", "unban", "203.0.113.1")
	d.visit(d.scanner, 80, netnstest.AnswerSYNACK)
}

// demo is a test that can be watched.
type demo struct {
	*testing.T
	host               *netnstest.Host
	scanner, bystander netnstest.End
	loud               bool
}

func (d *demo) print(format string, args ...any) {
	if d.loud {
		fmt.Printf(format, args...)
	}
}

func (d *demo) tell(text string) { d.print("\n%s\n\n", text) }

// portmon runs a command on the host; its output must hold what is wanted.
func (d *demo) portmon(want string, args ...string) {
	d.Helper()
	out := portmon(d.T, d.host, args...)
	d.print("  host$ portmon %s\n", strings.Join(args, " "))
	for line := range strings.Lines(out) {
		d.print("    %s", line)
	}
	if !strings.Contains(out, want) {
		d.Errorf("portmon %v: got\n%s\nwant %q in it", args, out, want)
	}
}

// visit opens a connection to a port of the host.
func (d *demo) visit(from netnstest.End, port uint16, want netnstest.AnswerKind) {
	d.Helper()
	to := netip.AddrPortFrom(from.IPv4.Next(), port)
	got := from.Host.Probe(netnstest.SYN(from.IPv4, to)).Kind
	outcome := map[netnstest.AnswerKind]string{netnstest.AnswerSYNACK: "connected", netnstest.NoAnswer: "silence"}[got]
	d.print("  %s: %v -> %v: %s\n", from.Host.Name(), from.IPv4, to, outcome)
	if got != want {
		d.Errorf("%s, SYN to %v: got %v, want %v", from.Host.Name(), to, netnstest.Answer{Kind: got}, netnstest.Answer{Kind: want})
	}
}
