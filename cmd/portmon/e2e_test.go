package main

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/internal/listeners"
	"github.com/portmon/portmon/netnstest"
)

// testConfig writes a configuration for a test, whose state is its own: the
// machine that the tests run on may have a watcher, and bans. Traps are armed
// at once.
func testConfig(t *testing.T) (file string) {
	t.Helper()
	dir := t.TempDir()
	file = filepath.Join(dir, "portmon.toml")
	text := fmt.Appendf(nil, "[trap]\ngrace = \"0s\"\n[watch]\nstate = %q\n", filepath.Join(dir, "state.jsonl"))
	if err := os.WriteFile(file, text, 0o644); err != nil {
		t.Fatal(err)
	}
	return file
}

// portmon runs a command on a host and returns what it wrote. It must succeed.
func portmon(t *testing.T, h *netnstest.Host, args ...string) string {
	t.Helper()
	e, stdout, stderr := hostEnv(h)
	var code int
	h.Do(func() { code = run(e, slices.Concat(args, []string{"--config", testConfig(t)})) })
	if code != exitDone {
		t.Fatalf("portmon %s: exit code %d, %s", strings.Join(args, " "), code, stderr)
	}
	return stdout.String()
}

// listedBan is what list --json says of a ban.
type listedBan struct {
	Prefix         netip.Prefix
	Family, Set    string
	Cause          string
	Tier           int
	TimeoutSeconds float64 `json:"timeout_seconds"`
	ExpiresSeconds float64 `json:"expires_seconds"`
	Until, Since   time.Time
}

func listBans(t *testing.T, h *netnstest.Host) []listedBan {
	t.Helper()
	var list struct{ Bans []listedBan }
	if err := json.Unmarshal([]byte(portmon(t, h, "list", "--json")), &list); err != nil {
		t.Fatal(err)
	}
	return list.Bans
}

// A scanner touches a trap and is shut out, list and why say so, and unban lets
// it in again. A bystander notices nothing.
func TestScannerIsShutOut(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, scanner, neighbour, bystander, banned, family, set string
	}{
		{"IPv4", "203.0.113.7", "203.0.113.7", "203.0.113.8", "203.0.113.7/32", "ip", "ban4"},
		{"IPv6", "2001:db8:5:6::7", "2001:db8:5:6:ffff::1", "2001:db8:5:7::7", "2001:db8:5:6::/64", "ip6", "ban6"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			site := newSite(t)
			site.Host.Listen("tcp", "[::]:80")
			scanner, bystander := netip.MustParseAddr(tt.scanner), netip.MustParseAddr(tt.bystander)
			neighbour := netip.MustParseAddr(tt.neighbour) // the same source, as far as bans go
			want := func(src netip.Addr, port uint16, want netnstest.AnswerKind) {
				t.Helper()
				if got := site.Probe(src, port).Kind; got != want {
					t.Errorf("SYN from %v to port %d: got %v, want %v", src, port, netnstest.Answer{Kind: got}, netnstest.Answer{Kind: want})
				}
			}
			want(scanner, 23, netnstest.AnswerRST) // no trap yet
			portmon(t, site.Host, "apply")
			want(scanner, 80, netnstest.AnswerSYNACK)
			want(scanner, 82, netnstest.AnswerRST)

			before := time.Now()
			want(scanner, 23, netnstest.NoAnswer)
			want(scanner, 80, netnstest.NoAnswer)
			want(neighbour, 80, netnstest.NoAnswer)
			want(bystander, 80, netnstest.AnswerSYNACK)

			bans := listBans(t, site.Host)
			if len(bans) != 1 {
				t.Fatalf("%d bans: %v", len(bans), bans)
			}
			b := bans[0]
			if b.Prefix.String() != tt.banned || b.Family != tt.family || b.Set != tt.set || b.Tier != 1 || b.Cause != "trap" || b.TimeoutSeconds != 600 {
				t.Errorf("listed as %+v", b)
			}
			if b.ExpiresSeconds > 600 || b.ExpiresSeconds < 540 || b.Until.Sub(b.Since).Round(time.Second) != 10*time.Minute {
				t.Errorf("times: %+v", b)
			}
			if b.Since.Before(before.Add(-2*time.Second)) || b.Since.After(time.Now()) {
				t.Errorf("banned at %v, but the packet was sent at %v", b.Since, before)
			}
			if why := portmon(t, site.Host, "why", neighbour.String()); !strings.HasPrefix(why, neighbour.String()+" is banned") {
				t.Errorf("why: %s", why)
			}
			if why := portmon(t, site.Host, "why", bystander.String()); !strings.HasPrefix(why, bystander.String()+" is not banned") {
				t.Errorf("why: %s", why)
			}

			portmon(t, site.Host, "unban", neighbour.String())
			if bans := listBans(t, site.Host); len(bans) != 0 {
				t.Errorf("listed after it was lifted: %v", bans)
			}
			want(scanner, 80, netnstest.AnswerSYNACK)
			want(neighbour, 80, netnstest.AnswerSYNACK)
		})
	}
}

// A listener is enough to make a trap an ordinary port, and status is right
// about it.
func TestStatusTellsOfListeners(t *testing.T) {
	t.Parallel()
	site := newSite(t)
	portmon(t, site.Host, "apply")
	server := site.Host.Listen("tcp4", "0.0.0.0:3389")
	const line = "  tcp 3389 has a listener for IPv4: not a trap there while it listens\n"
	if got := portmon(t, site.Host, "status"); !strings.Contains(got, line) {
		t.Errorf("with a listener:\n%s", got)
	}
	if a := site.Probe(netip.MustParseAddr("203.0.113.7"), 3389); a.Kind != netnstest.AnswerSYNACK {
		t.Errorf("the listener's client gets %v", a)
	}
	server.Close()
	if got := portmon(t, site.Host, "status"); strings.Contains(got, "listener") {
		t.Errorf("without a listener:\n%s", got)
	}
	if a := site.Probe(netip.MustParseAddr("203.0.113.8"), 3389); a.Kind != netnstest.NoAnswer {
		t.Errorf("the trap answers %v", a)
	}
	if bans := listBans(t, site.Host); len(bans) != 1 || bans[0].Prefix.String() != "203.0.113.8/32" {
		t.Errorf("banned are %v", bans)
	}
}

// A kernel need not tell who listens: what is not known of UDP is said, and
// what is known of TCP is too.
func TestWhyWithoutUDPDiag(t *testing.T) {
	t.Parallel()
	site := newSite(t)
	file := filepath.Join(t.TempDir(), "portmon.toml")
	text := fmt.Appendf(nil, "[trap]\ntcp = [3389]\nudp = [5060]\n[watch]\nstate = %q\n", file+".state")
	if err := os.WriteFile(file, text, 0o644); err != nil {
		t.Fatal(err)
	}
	site.Host.Listen("tcp4", "0.0.0.0:3389")
	e, stdout, stderr := hostEnv(site.Host)
	missing := fmt.Errorf("the kernel has no udp_diag: %w", unix.ENOENT)
	e.listeners = func(proto string) ([]listeners.Socket, error) {
		if proto == "udp" {
			return nil, missing
		}
		return listeners.Read(proto)
	}
	for _, tt := range []struct{ command, want, warning string }{
		{"apply", "", "tcp 3389 has a listener for IPv4"},
		{"apply", "", missing.Error()},
		{"why 203.0.113.7 --port 3389", "passes: a program listens on the port", ""},
		{"why 203.0.113.7 --port 5060 --proto udp", "not known: whether a program listens on the port: " + missing.Error(), ""},
		{"why 203.0.113.7 --port 5060 --proto udp", "listener?       not known\n", ""},
		{"why 203.0.113.7 --port 5060 --proto udp --json", `"verdict": "not_known"`, ""},
		{"status", "tcp 3389 has a listener for IPv4", missing.Error()},
	} {
		stdout.Reset()
		stderr.Reset()
		var code int
		site.Host.Do(func() { code = run(e, append(strings.Fields(tt.command), "--config", file)) })
		if code != exitDone || !strings.Contains(stdout.String(), tt.want) {
			t.Errorf("%s: exit code %d\n%s%s\nwant %q", tt.command, code, stdout, stderr, tt.want)
		}
		if n := strings.Count(stderr.String(), missing.Error()); tt.warning != "" && n != 1 || !strings.Contains(stderr.String(), tt.warning) {
			t.Errorf("%s warns %d times of what is missing, want %q:\n%s", tt.command, n, tt.warning, stderr)
		}
	}
}

// However bans are counted, the number is that of the lines of the list.
func TestCountIsThatOfTheList(t *testing.T) {
	t.Parallel()
	site := newSite(t)
	portmon(t, site.Host, "apply")
	steps := []func(){
		func() {},
		func() { portmon(t, site.Host, "ban", "203.0.113.1", "203.0.113.2", "2001:db8:5::/64") },
		func() { portmon(t, site.Host, "ban", "198.51.100.0/24", "2001:db8:7::/48", "--for", "forever") },
		func() { // a source with a step and no ban is not banned
			site.addElement(t, "tier4_2", "203.0.113.1")
			site.addElement(t, "tier4_2", "203.0.113.9")
			site.addElement(t, "ban4", "203.0.113.8")
		},
		func() { // a range that is not a prefix has several lines
			site.addElement(t, "net4", "192.0.2.1-192.0.2.3")
		},
	}
	wants := []int{0, 3, 5, 6, 8}
	for i, step := range steps {
		step()
		if n := len(listBans(t, site.Host)); n != wants[i] {
			t.Errorf("step %d: %d listed, want %d", i, n, wants[i])
		}
		if n := portmon(t, site.Host, "list", "--count"); n != fmt.Sprintln(wants[i]) {
			t.Errorf("step %d: counted %s, want %d", i, n, wants[i])
		}
	}
}
