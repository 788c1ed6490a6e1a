package notice

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/portmon/portmon/internal/watch"
)

// One event is told in full.
func TestOne(t *testing.T) {
	four, six := prefix("203.0.113.7/32"), prefix("2001:db8:0:1::/64")
	until := noon.Add(8 * time.Hour)
	tests := []struct {
		event          Event
		title, message string
		priority       int
		emoji          string
	}{
		{banned(four, 23), "203.0.113.7 banned", "203.0.113.7 banned for 8h: tcp port 23", 2, "no_entry"},
		{Event{Kind: watch.Banned, Prefix: six, Proto: 17, Port: 53, Time: noon, Until: until}, "2001:db8:0:1::/64 banned", "2001:db8:0:1::/64 banned for 8h: udp port 53", 2, "no_entry"},
		{Event{Kind: watch.Banned, Prefix: four, Time: noon, Until: until}, "203.0.113.7 banned", "203.0.113.7 banned for 8h", 2, "no_entry"},
		{Event{Kind: watch.Banned, Prefix: four, Time: noon, Until: noon, Proto: 132, Port: 7}, "203.0.113.7 banned", "203.0.113.7 banned: 132 port 7", 2, "no_entry"},
		{escalated(four, 2), "203.0.113.7 escalated", "203.0.113.7 escalated to tier 2, banned for 3d after 2 offences: tcp port 23", 2, "no_entry"},
		{escalated(four, 3), "203.0.113.7 escalated", "203.0.113.7 escalated to tier 3, banned for 3d after 3 offences: tcp port 23", 3, "no_entry"},
		{Event{Kind: watch.Escalated, Prefix: four, Tier: 2, Offences: 1}, "203.0.113.7 escalated", "203.0.113.7 escalated to tier 2, banned after 1 offence", 2, "no_entry"},
		{Event{Kind: watch.ByHand, Prefix: prefix("198.51.100.0/24"), Forever: true, Reason: "a bad network"}, "198.51.100.0/24 banned by hand", "198.51.100.0/24 banned by hand forever: a bad network", 3, "no_entry_sign"},
		{Event{Kind: watch.ByHand, Time: noon, Until: noon.Add(90 * time.Second)}, "banned by hand", "banned by hand for 1m30s", 3, "no_entry_sign"},
		{Event{Kind: watch.Lifted, Prefix: four, Time: noon, Until: until}, "203.0.113.7 lifted", "203.0.113.7 lifted", 3, "unlock"},
		{Event{Kind: watch.Full, Count: 7}, "no room for bans", "7 offences banned nobody, as a set is full: the packets are still dropped", 4, "warning"},
		{Event{Kind: watch.Restored, Count: 1204}, "1204 restored", "1204 bans restored", 3, "recycle"},
		{Event{Kind: watch.Restored, Count: 1}, "1 restored", "1 ban restored", 3, "recycle"},
		{Event{Kind: watch.Whitelisted, Prefix: four, Time: noon}, "203.0.113.7 whitelisted", "203.0.113.7 whitelisted: its ban was lifted", 3, "unlock"},
		{Event{Kind: watch.Repaired, Wrong: "chain guard"}, "table repaired", "the table was not what the configuration says, and was put right: chain guard", 3, "warning"},
		{Event{Kind: watch.TableGone}, "table gone", "the table was deleted: until it is back nobody is banned; the bans are remembered", 4, "rotating_light"},
		{Event{Kind: watch.Removed}, "table removed", "the table was deleted by portmon remove: nobody is banned", 3, "warning"},
	}
	for _, tt := range tests {
		got := composed(tt.event)
		want := notice{title: "web1: " + tt.title, message: tt.message, priority: tt.priority, tags: []string{tt.emoji, "portmon"}, host: "web1", count: 1, event: &tt.event}
		if d := diff(want, got); d != "" {
			t.Errorf("%v (-want +got)\n%s", tt.event.Kind, d)
		}
	}
	var d digest
	d.add(Event{Kind: watch.TableGone})
	if n := d.compose(""); n.title != "table gone" {
		t.Errorf("without the name of a host: %q", n.title)
	}
}

// A ban is told to last as long as it was meant to, although it takes a moment
// until it is known.
func TestDuration(t *testing.T) {
	tests := []struct {
		left time.Duration
		want string
	}{
		{8 * time.Hour, " for 8h"},
		{8*time.Hour - 1700*time.Millisecond, " for 8h"},
		{8*time.Hour - 61*time.Second, " for 7h59m"},
		{3*day - 10*time.Minute, " for 3d"},
		{3*day - 5*time.Hour, " for 2d19h"},
		{90 * time.Second, " for 1m30s"},
		{200 * time.Millisecond, " for 1s"},
		{0, ""},
		{-time.Hour, ""},
	}
	for _, tt := range tests {
		if got := (&Event{Time: noon, Until: noon.Add(tt.left)}).duration(); got != tt.want {
			t.Errorf("%v: got %q, want %q", tt.left, got, tt.want)
		}
	}
	if got := (&Event{Time: noon}).duration(); got != "" {
		t.Errorf("if the end is not known: %q", got)
	}
}

func TestSummary(t *testing.T) {
	repeat := func(n int, event func(int) Event) (events []Event) {
		for i := range n {
			events = append(events, event(i))
		}
		return events
	}
	bans := repeat(9, func(i int) Event { return banned(host(i), uint16(20+i%7)) })
	tests := []struct {
		name     string
		events   []Event
		title    string
		lines    []string
		priority int
		emoji    string
	}{
		{
			"two bans", []Event{banned(host(1), 23), banned(host(2), 445)}, "2 banned",
			[]string{"2 banned: 198.51.0.1, 198.51.0.2", "offences at tcp port 23 (1), tcp port 445 (1)"}, low, "no_entry",
		},
		{
			"more bans and ports than are shown", bans, "9 banned",
			[]string{
				"9 banned: 198.51.0.0, 198.51.0.1, 198.51.0.2, 198.51.0.3, 198.51.0.4 and 4 more",
				"offences at tcp port 20 (2), tcp port 21 (2), tcp port 22 (1), tcp port 23 (1), tcp port 24 (1), others (2)",
			}, low, "no_entry",
		},
		{
			"ports not known", []Event{{Kind: watch.Banned, Prefix: host(1)}, {Kind: watch.Banned, Prefix: host(2)}}, "2 banned",
			[]string{"2 banned: 198.51.0.1, 198.51.0.2"}, low, "no_entry",
		},
		{
			"the same port of two protocols, and some not known",
			[]Event{{Kind: watch.Banned, Prefix: host(1), Proto: 17, Port: 53}, banned(host(2), 53), {Kind: watch.Banned, Prefix: host(3), Proto: 17, Port: 53}, {Kind: watch.Banned, Prefix: host(4)}}, "4 banned",
			[]string{"4 banned: 198.51.0.1, 198.51.0.2, 198.51.0.3, 198.51.0.4", "offences at udp port 53 (2), tcp port 53 (1), others (1)"}, low, "no_entry",
		},
		{
			"the worst of the escalated",
			[]Event{
				escalated(host(1), 2), escalated(host(2), 2), escalated(host(3), 2), escalated(host(4), 2), escalated(host(5), 2),
				{Kind: watch.Escalated, Prefix: host(6), Tier: 2, Offences: 9}, escalated(host(7), 3),
			}, "7 escalated",
			[]string{"7 escalated: 198.51.0.7 to tier 3, 198.51.0.6 to tier 2, 198.51.0.1 to tier 2, 198.51.0.2 to tier 2, 198.51.0.3 to tier 2 and 2 more", "offences at tcp port 23 (6), others (1)"}, standard, "no_entry",
		},
		{
			"all sorts",
			[]Event{
				banned(host(1), 23), {Kind: watch.Lifted, Prefix: host(2)}, {Kind: watch.ByHand, Prefix: prefix("198.51.100.0/24")}, escalated(host(3), 2),
				{Kind: watch.TableGone}, {Kind: watch.Full, Count: 3}, {Kind: watch.Full, Count: 1}, {Kind: watch.Full},
				{Kind: watch.Restored, Count: 1200}, {Kind: watch.Restored, Count: 4}, {Kind: watch.Removed},
				{Kind: watch.Repaired, Wrong: "chain guard"}, {Kind: watch.Repaired, Wrong: "set ban4"}, {Kind: watch.Repaired, Wrong: "chain guard"}, {Kind: watch.Whitelisted, Prefix: host(4)},
			},
			"table gone, table removed, table repaired, no room for bans, 1204 restored, 1 escalated, 1 banned by hand, 1 whitelisted, 1 lifted, 1 banned",
			[]string{
				goneText, removedText, repairedText + ": chain guard; set ban4", "5 offences" + fullText, "1204 restored",
				"1 escalated: 198.51.0.3 to tier 2", "1 banned by hand: 198.51.100.0/24", "1 whitelisted: 198.51.0.4", "1 lifted: 198.51.0.2",
				"1 banned: 198.51.0.1", "offences at tcp port 23 (2)",
			}, high, "rotating_light",
		},
	}
	for _, tt := range tests {
		want := notice{title: "web1: " + tt.title, message: strings.Join(tt.lines, "\n"), priority: tt.priority, tags: []string{tt.emoji, "portmon"}, host: "web1", count: len(tt.events)}
		if d := diff(want, composed(tt.events...)); d != "" {
			t.Errorf("%s (-want +got)\n%s", tt.name, d)
		}
	}
}

// Whatever comes, a notice is short enough for ntfy, which makes a file of a
// message of more than 4096 bytes; and its title is a line.
func TestShort(t *testing.T) {
	seed := rand.Uint64()
	rng := rand.New(rand.NewPCG(seed, 0))
	random := func() string {
		b := make([]byte, rng.IntN(2000))
		for i := range b {
			b[i] = byte(rng.Uint32())
		}
		return string(b)
	}
	for range 50 {
		var d digest
		for range 1 + rng.IntN(300) {
			var a [16]byte
			for i := range a {
				a[i] = byte(rng.Uint32())
			}
			d.add(Event{
				Kind: watch.Kind(rng.IntN(int(watch.Kinds)+2) - 1), Prefix: netip.PrefixFrom(netip.AddrFrom16(a), rng.IntN(130)-1), Cause: random(), Reason: random(), Wrong: random(),
				Tier: rng.Int(), Offences: rng.Int(), Count: rng.Int(), Proto: uint8(rng.Uint32()), Port: uint16(rng.Uint32()),
				Time: time.Unix(rng.Int64(), 0), Until: time.Unix(rng.Int64(), 0), Last: rng.IntN(2) == 0, Forever: rng.IntN(2) == 0,
			})
		}
		n := d.compose(printable(random(), maxName))
		bad := func(r rune) bool { return r < ' ' && r != '\n' || r == 0x7f }
		if len(n.message) > 4096 || !utf8.ValidString(n.message) || strings.ContainsFunc(n.message, bad) || len(n.title) > 1000 || strings.ContainsFunc(n.title, func(r rune) bool { return bad(r) || r == '\n' }) {
			t.Fatalf("seed %d: %d bytes\n%q\n%q", seed, len(n.message), n.title, n.message)
		}
		for _, v := range environ(&n) {
			if strings.Contains(v, "\x00") {
				t.Fatalf("seed %d: %q", seed, v)
			}
		}
	}
}

func TestPrintable(t *testing.T) {
	tests := []struct {
		in    string
		limit int
		want  string
	}{
		{"fail2ban: sshd", 100, "fail2ban: sshd"},
		{" ünknown & <others>\n", 100, "ünknown & <others>"},
		{"a\r\nX-Priority: 5", 100, "a  X-Priority: 5"},
		{"\x1b[31mred\x00\x7f\u202e\xff", 100, "�[31mred����"},
		{"üüüü", 4, "üüüü"},
		{"üüüüü", 4, "üüüü…"},
		{"", 4, ""},
	}
	for _, tt := range tests {
		if got := printable(tt.in, tt.limit); got != tt.want {
			t.Errorf("%q: got %q, want %q", tt.in, got, tt.want)
		}
	}
}

func TestKinds(t *testing.T) {
	var seen []string
	for k := range watch.Kinds {
		if k.String() == "" || slices.Contains(seen, k.String()) || emojis[k] == "" || !slices.Contains(ranking[:], k) {
			t.Errorf("kind %d has no name, no sign or no rank: %q", k, k)
		}
		seen = append(seen, k.String())
	}
}
