package main

import (
	"github.com/portmon/portmon/internal/control"
	"time"

	"io"
	"net/netip"
	"strings"
	"testing"

	"github.com/portmon/portmon/internal/config"
	"github.com/portmon/portmon/internal/listeners"
	"github.com/portmon/portmon/nftset"
	"github.com/portmon/portmon/ruleset"
)

// defaultTraps are the trap ports of a host without a configuration.
func defaultTraps() traps {
	return trapsOf(ruleset.Compile(ruleset.Default(), ruleset.Features{}, nil))
}

func TestStatusText(t *testing.T) {
	r := &report{
		Table: "inet portmon", InForce: true, Current: new(false),
		Differences:     []string{"whitelist4", "rules"},
		FeaturesMissing: []string{"no moonlight"},
		Sets: []setReport{
			{Name: "ban4", Tier: 1, Count: 65536, Size: 65536, Full: true, timeout: "8h"},
			{Name: "ban6", Tier: 1, Count: 7, Size: 65536, timeout: "8h"},
			{Name: "net4", Count: 1, timeout: "-"},
		},
		Counters: map[string]traffic{
			"trapped": {1234567, 74074020}, "banned": {65536, 3932160}, "full": {2, 120}, "dropped": {98765432, 5925925920}, "mine": {1, 1},
		},
		Watcher: watcherReport{true, &control.Status{PID: 4321, Since: testNow.Add(-2 * time.Hour), Offenders: 12}},
		zone:    testNow.Location(),
		traps:   defaultTraps(),
		hearing: []string{"tcp 3389 has a listener: not a trap while it listens"},
	}
	const want = `
inet portmon: in force, but not as configured: whitelist4, rules
missing: no moonlight
traps: tcp 23, 445, 1433, 2323, 3389, 5900-5910, 6379
  tcp 3389 has a listener: not a trap while it listens
watcher: running since 2026-01-18 09:04:26, pid 4321; knows 12 offenders

SET   BANS   SIZE   TIMEOUT
ban4  65536  65536  8h       FULL
ban6  7      65536  8h
net4  1      -      -

COUNTER  PACKETS   BYTES
trapped  1234567   74074020    packets to a trap port
banned   65536     3932160     bans that they made
full     2         120         of them dropped with no room for a ban
dropped  98765432  5925925920  packets from banned sources
`
	e, stdout, stderr := testEnv()
	u := newUI(e)
	r.print(&u)
	u.finish(nil)
	if stdout.String() != want[1:] {
		t.Errorf("got\n%swant%s", stdout, want)
	}
	if !strings.HasPrefix(stderr.String(), "portmon: warning: 2 trap packets came when there was no room") {
		t.Errorf("stderr: %s", stderr)
	}

	// In colours it says the same.
	e, stdout, _ = testEnv()
	e.isTerminal = func(io.Writer) bool { return true }
	u = newUI(e)
	r.print(&u)
	u.finish(nil)
	if got := uncoloured(stdout.String()); got != want[1:] {
		t.Errorf("without its colours\n%swant%s", got, want)
	}
	for _, text := range []string{"\x1b[31min force, but not as configured\x1b[0m", "\x1b[31mFULL\x1b[0m", "\x1b[1mSET   BANS   SIZE   TIMEOUT\x1b[0m"} {
		if !strings.Contains(stdout.String(), text) {
			t.Errorf("no %q in %q", text, stdout)
		}
	}
}

func TestStatusWithoutTraps(t *testing.T) {
	e, stdout, _ := testEnv()
	u := newUI(e)
	(&report{Table: "inet portmon", InForce: true, Current: new(true)}).print(&u)
	u.finish(nil)
	if !strings.HasPrefix(stdout.String(), "inet portmon: in force, as configured\ntraps: none\n") {
		t.Errorf("got\n%s", stdout)
	}
}

func TestHearing(t *testing.T) {
	var sockets []listeners.Socket
	for _, s := range []string{
		"tcp 0.0.0.0:3389", "tcp [::]:3389", "tcp [2001:db8::2]:445", "tcp 192.0.2.2:445", "tcp 127.0.0.1:6379", "tcp [::1]:6379",
		"tcp 0.0.0.0:80", "udp 0.0.0.0:23", "tcp 192.0.2.2:5900", "tcp [::]:5900", "udp 0.0.0.0:5060",
	} {
		proto, addr, _ := strings.Cut(s, " ")
		sockets = append(sockets, listeners.Socket{Proto: proto, Addr: netip.MustParseAddrPort(addr)})
	}
	ports := defaultTraps()
	ports.udp = []nftset.Interval{nftset.FromPorts(5060, 5061)}
	const want = `tcp 445 has a listener on 192.0.2.2, 2001:db8::2: not a trap there while it listens
tcp 3389 has a listener: not a trap while it listens
tcp 5900 has a listener: not a trap while it listens
udp 5060 has a listener: not a trap while it listens`
	if got := strings.Join(hearing(ports.heard(sockets)), "\n"); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if got := ports.String(); got != "tcp 23, 445, 1433, 2323, 3389, 5900-5910, 6379; udp 5060-5061" {
		t.Errorf("traps: %s", got)
	}
	if n := count(ports.tcp); n != 17 {
		t.Errorf("%d TCP traps, want 17", n)
	}
}

func TestAdviceOnMissingFeatures(t *testing.T) {
	conf := config.Default()
	for _, f := range []ruleset.Features{{}, {ReversePath: true, Log: true}} {
		e, _, stderr := testEnv()
		p := &cli{env: e, ui: newUI(e)}
		p.adviseOn(ruleset.Result{Plan: &ruleset.Plan{Table: ruleset.Compile(conf.Spec, f, nil)}, Features: f}, conf)
		if got, want := strings.Count(stderr.String(), "portmon: warning: "), len(f.Missing()); got != want {
			t.Errorf("%+v: %d warnings, want %d:\n%s", f, got, want, stderr)
		}
	}
}
