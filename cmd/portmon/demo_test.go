package main

import (
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/portmon/portmon/internal/lab"
	"github.com/portmon/portmon/netnstest"
)

// TestDemo shows what portmon is about, on hosts that exist only as long as it
// runs, and that README.md shows what it prints. With PORTMON_DEMO=1 it can be
// watched:
//
//	PORTMON_DEMO=1 go test -run '^TestDemo$' ./cmd/portmon -v
func TestDemo(t *testing.T) {
	d := demo{T: t, host: netnstest.NewHost(t, "host"), loud: os.Getenv("PORTMON_DEMO") == "1", shown: shownInReadme(t)}
	from := func(name, network string) netnstest.End {
		return netnstest.Connect(t, netnstest.NewHost(t, name), d.host, network).A
	}
	knocker, scanner := from("knocker", "203.0.113.0/24"), from("scanner", "192.0.2.0/24")
	bystander := from("bystander", "198.51.100.0/24")
	d.host.Listen("tcp", "[::]:80")

	d.tell("A host serves the web on port 80. Nobody listens on the other ports, but scanners ask for them all day.")
	d.portmon("", "apply")
	for _, source := range []netnstest.End{bystander, knocker, scanner} {
		d.visit(source, 80, netnstest.AnswerSYNACK)
	}

	d.tell("One touches a trap. From that packet on, the host is silent to it.")
	for _, port := range []uint16{23, 80, 22} {
		d.visit(knocker, port, netnstest.NoAnswer)
	}
	// So that the next ban is newer by the kernel's clock.
	lab.Await(t, "the ban is a second old", func() bool { return !strings.Contains(portmon(t, d.host, "list"), " 0s ") })
	d.tell("Another asks for one closed port after the other. The fifth is enough.")
	for port := uint16(9001); port < 9005; port++ {
		d.visit(scanner, port, netnstest.AnswerRST)
	}
	d.visit(scanner, 9005, netnstest.NoAnswer)
	d.visit(scanner, 80, netnstest.NoAnswer)

	d.tell("Nobody else notices.")
	d.visit(bystander, 80, netnstest.AnswerSYNACK)
	if err := bystander.Host.Exchange("tcp", netip.Addr{}, netip.AddrPortFrom(bystander.IPv4.Next(), 80), 10*time.Second); err != nil {
		t.Errorf("the bystander is not served: %v", err)
	}

	d.tell("No program has run for that: the kernel did it. This is what it holds.")
	d.portmon("", "list")
	d.portmon("", "why", "203.0.113.1")
	d.portmon("198.51.100.1 is not banned", "why", "198.51.100.1")
	d.portmon("dropped     3 ", "status")

	d.tell("Everybody makes mistakes.")
	d.portmon("", "unban", "203.0.113.1")
	d.visit(knocker, 80, netnstest.AnswerSYNACK)

	d.tell("A fire drill shows that it works, and affects no one else.")
	d.portmon("", "test")
	if len(d.shown) > 0 {
		t.Errorf("README.md shows commands that are not played: %q", d.shown)
	}
}

// demo is a test that can be watched.
type demo struct {
	*testing.T
	host  *netnstest.Host
	loud  bool
	shown map[string]string // commands in README.md, and what they print; without those that were played
}

// shownInReadme returns the commands of the transcript in README.md, and what
// they print.
func shownInReadme(t *testing.T) map[string]string {
	t.Helper()
	text, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	shown, command := make(map[string]string), ""
	for _, b := range blocks(string(text)) {
		for _, line := range b.lines {
			switch typed, ok := strings.CutPrefix(line, "# "); {
			case b.lang != "console":
			case strings.HasPrefix(line, "portmon: "): // that traps are armed in a minute: here they are at once
			case ok:
				command = typed
			default:
				shown[command] += line + "\n"
			}
		}
	}
	if len(shown) < 4 {
		t.Fatalf("only %d commands found", len(shown))
	}
	return shown
}

func (d *demo) print(format string, args ...any) {
	if d.loud {
		fmt.Printf(format, args...)
	}
}

func (d *demo) tell(text string) { d.print("\n%s\n\n", text) }

// portmon runs a command on the host. It must print what README.md shows or,
// if that does not, something that has what is wanted.
func (d *demo) portmon(want string, args ...string) {
	d.Helper()
	out := portmon(d.T, d.host, args...)
	command := strings.Join(append([]string{"portmon"}, args...), " ")
	d.print("# %s\n%s", command, out)
	if shown, ok := d.shown[command]; ok {
		if steady(out) != steady(shown) {
			d.Errorf("%s prints\n%s\nbut in README.md\n%s", command, out, shown)
		}
		delete(d.shown, command)
	} else if want == "" || !strings.Contains(out, want) {
		d.Errorf("%s: got\n%s\nwant %q in it", command, out, want)
	}
}

// visit opens a connection to a port of the host.
func (d *demo) visit(from netnstest.End, port uint16, want netnstest.AnswerKind) {
	d.Helper()
	to := netip.AddrPortFrom(from.IPv4.Next(), port)
	got := from.Host.Probe(netnstest.SYN(from.IPv4, to)).Kind
	outcome := map[netnstest.AnswerKind]string{
		netnstest.AnswerSYNACK: "connected", netnstest.AnswerRST: "refused", netnstest.NoAnswer: "silence",
	}[got]
	d.print("%s %v -> %v: %s\n", from.Host.Name(), from.IPv4, to, outcome)
	if got != want {
		d.Errorf("%s, SYN to %v: got %v, want %v", from.Host.Name(), to, netnstest.Answer{Kind: got}, netnstest.Answer{Kind: want})
	}
}
