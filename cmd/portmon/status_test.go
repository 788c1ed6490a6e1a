package main

import (
	"errors"
	"io"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/portmon/portmon/internal/control"
	"github.com/portmon/portmon/internal/listeners"
	"github.com/portmon/portmon/nftset"
	"github.com/portmon/portmon/ruleset"
)

func TestStatusText(t *testing.T) {
	r := &report{
		Table: "inet portmon", Present: true, InForce: new(bool), Current: new(bool),
		Differences: []string{"whitelist4", "rules"},
		trapReport:  trapReport{TrapTCP: []string{"23", "5900-5910"}, ArmedInSeconds: seconds(40 * time.Second)},
		Sets: []setReport{
			{Name: "ban4", Count: 65536, Size: 65536, Full: true, TimeoutSeconds: seconds(10 * time.Minute)},
			{Name: "net4", Count: 1},
			{Name: "tier4_1", Tier: 1, Count: 7, Size: 131072, TimeoutSeconds: seconds(30 * day)},
		},
		Counters: map[string]traffic{
			"trapped": {1234567, 74074020}, "banned": {65536, 3932160}, "full": {2, 120}, "dropped": {98765432, 5925925920},
			"held_back": {7, 420}, "mine": {1, 1},
		},
		Watcher: watcherReport{true, &control.Status{
			PID: 4321, Since: testNow.Add(-2 * time.Hour), Rows: 12, SaveError: "disk full",
			Names: []control.Name{
				{Name: "home.example.org", Addresses: []netip.Addr{netip.MustParseAddr("203.0.113.7"), netip.MustParseAddr("2001:db8::7")}, Since: testNow.Add(-time.Hour)},
				{Name: "new.example.org", Error: "lookup new.example.org: i/o timeout"},
			},
		}},
		zone:      testNow.Location(),
		Listeners: []listener{{"tcp", 5900, "0.0.0.0", []string{"ip"}, "eth1", "IPv4 on eth1"}},
	}
	const want = `
inet portmon: not as configured: whitelist4, rules
traps: tcp 23, 5900-5910
  armed in 40s
  tcp 5900 has a listener for IPv4 on eth1: not a trap there while it listens
watcher: running since 2026-01-18 09:04:26, pid 4321; remembers 12 sources
  home.example.org: 203.0.113.7 and 2001:db8::7 since 2026-01-18 10:04:26
  new.example.org: no address yet

SET      COUNT  SIZE    TIMEOUT
ban4     65536  65536   10m      FULL
net4     1      -       -
tier4_1  7      131072  30d

COUNTER    PACKETS   BYTES
trapped    1234567   74074020    packets to trap ports that count against their source
banned     65536     3932160     bans made
dropped    98765432  5925925920  packets dropped because their source is banned
full       2         120         offences dropped, but not banned: a set was full
held_back  7         420         first offences dropped, but not banned: too many at a time
98830977 packets dropped in all
`
	e, stdout, stderr := testEnv()
	u := newUI(e)
	r.print(&u)
	u.finish(nil)
	if stdout.String() != want[1:] {
		t.Errorf("got\n%swant%s", stdout, want)
	}
	for _, text := range []string{
		"portmon: warning: full: ban4: ", "portmon: hint: raise size",
		"warning: the watcher cannot save its state: disk full",
		"warning: the watcher has no good answer for new.example.org: lookup new.example.org: i/o timeout",
	} {
		if !strings.Contains(stderr.String(), text) {
			t.Errorf("stderr: no %q in\n%s", text, stderr)
		}
	}

	// In colours it says the same.
	e, stdout, _ = testEnv()
	e.width = func(io.Writer) int { return 80 }
	u = newUI(e)
	r.print(&u)
	u.finish(nil)
	if got := uncoloured(stdout.String()); got != want[1:] {
		t.Errorf("without its colours\n%swant%s", got, want)
	}
	for _, text := range []string{"\x1b[31mnot as configured\x1b[0m", "\x1b[31mFULL\x1b[0m", "\x1b[1mSET      COUNT  SIZE    TIMEOUT\x1b[0m"} {
		if !strings.Contains(stdout.String(), text) {
			t.Errorf("no %q in %q", text, stdout)
		}
	}
}

// A table is only called in force if it is what the configuration says.
func TestStatusInForce(t *testing.T) {
	yes := true
	for want, r := range map[string]*report{
		"in force, as configured\ntraps: none\n":                                 {Present: true, InForce: &yes, Current: &yes},
		"not in force: there is no such table\nwatcher: not running\n":           {idle: "there is no such table", InForce: new(bool), Current: new(bool)},
		"not in force: the table is dormant, and sees no packets\ntraps: none\n": {Present: true, Dormant: true, idle: "the table is dormant, and sees no packets", InForce: new(bool), Current: &yes},
		"installed; whether as configured is not known\ntraps: none\n":           {Present: true},
		"not as configured: rules\ntraps: none\n":                                {Present: true, InForce: new(bool), Current: new(bool), Differences: []string{"rules"}},
		"observing, as configured: nothing is dropped\ntraps: none\n":            {Present: true, Mode: "observe", InForce: new(bool), Current: &yes},
		"observing: nothing is dropped; not as configured: mode\ntraps: none\n":  {Present: true, Mode: "observe", InForce: new(bool), Current: new(bool), Differences: []string{"mode"}},
		"not in force: chain guard is missing\ntraps: none\n":                    {Present: true, Mode: "observe", idle: "chain guard is missing", InForce: new(bool), Current: new(bool)},
	} {
		e, stdout, _ := testEnv()
		u := newUI(e)
		r.Table = "inet portmon"
		r.print(&u)
		u.finish(nil)
		if !strings.HasPrefix(stdout.String(), "inet portmon: "+want) {
			t.Errorf("got\n%swant %s", stdout, want)
		}
	}
}

func TestListenersOnTraps(t *testing.T) {
	sockets := make(map[string][]listeners.Socket)
	for _, s := range []string{
		"tcp 0.0.0.0:3389", "tcp [::]:3389 only6", "tcp [2001:db8::2]:445", "tcp 192.0.2.2:445", "tcp 127.0.0.1:6379", "tcp [::1]:6379",
		"tcp 0.0.0.0:80", "udp 0.0.0.0:23", "tcp 192.0.2.2:5900 eth1", "tcp [::]:5900", "tcp [::]:5900", "udp 0.0.0.0:5060 eth1", "tcp 0.0.0.0:23 lo",
	} {
		fields := append(strings.Fields(s), "")
		l := listeners.Socket{Proto: fields[0], Addr: netip.MustParseAddrPort(fields[1]), Device: fields[2]}
		if l.Device == "only6" {
			l.Device, l.Only6 = "", true
		}
		sockets[l.Proto] = append(sockets[l.Proto], l)
	}
	ports := ruleset.Traps{
		TCP: []nftset.Interval{
			nftset.Ports(23, 23).Interval, nftset.Ports(445, 445).Interval, nftset.Ports(3389, 3389).Interval, nftset.Ports(5900, 5910).Interval, nftset.Ports(6379, 6379).Interval,
		},
		UDP: []nftset.Interval{nftset.Ports(5060, 5061).Interval},
	}
	var got []string
	e, _, _ := testEnv()
	e.listeners = func(proto string) ([]listeners.Socket, error) { return sockets[proto], nil }
	p := &cli{env: e, ui: newUI(e)}
	for _, l := range p.listenersOn(ports) {
		text, _, _ := strings.Cut(l.String(), ": not a trap there while it listens")
		got = append(got, text)
	}
	const want = `tcp 445 has a listener for 192.0.2.2
tcp 445 has a listener for 2001:db8::2
tcp 3389 has a listener for IPv4
tcp 3389 has a listener for IPv6
tcp 5900 has a listener for 192.0.2.2 on eth1
tcp 5900 has a listener for IPv4 and IPv6
udp 5060 has a listener for IPv4 on eth1`
	if text := strings.Join(got, "\n"); text != want {
		t.Errorf("got\n%s\nwant\n%s", text, want)
	}
	missing := errors.New("the kernel has no udp_diag")
	e, _, stderr := testEnv()
	e.listeners = func(proto string) ([]listeners.Socket, error) {
		if proto == "udp" {
			return nil, missing
		}
		return sockets[proto], nil
	}
	p = &cli{env: e, ui: newUI(e)}
	if n := len(p.listenersOn(ports)); n != len(got)-1 {
		t.Errorf("without those of UDP there are %d listeners, want %d", n, len(got)-1)
	}
	if text := stderr.String(); strings.Count(text, missing.Error()) != 1 || strings.Count(text, "\n") != 1 {
		t.Errorf("the warning about UDP: %q", text)
	}
	stderr.Reset()
	if p.listenersOn(ruleset.Traps{TCP: ports.TCP}); stderr.Len() > 0 {
		t.Errorf("a warning about UDP, of which there are no traps: %q", stderr)
	}
	odd := newListener(listeners.Socket{Proto: "tcp", Addr: netip.MustParseAddrPort("0.0.0.0:23"), Device: "e\x1b[31m"})
	if text := odd.String(); !strings.Contains(text, " on e\ufffd[31m: ") {
		t.Errorf("the name of a device reaches the terminal as it is: %q", text)
	}
	report := trapReport{TrapTCP: portTexts(ports.TCP), TrapUDP: portTexts(ports.UDP)}
	if got := report.String(); got != "tcp 23, 445, 3389, 5900-5910, 6379; udp 5060-5061" {
		t.Errorf("traps: %s", got)
	}
	if n := countPorts([]ruleset.Ports{{From: 23, To: 23}, {From: 1, To: 65535}}); n != 65536 {
		t.Errorf("%d ports, want 65536", n)
	}
}
