package notice

import (
	"math/rand/v2"
	"net/netip"
	"runtime"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/portmon/portmon/internal/book"
	"github.com/portmon/portmon/internal/watch"
)

const (
	goneText     = "table gone: no source is banned until it returns; bans are kept"
	removedText  = "table removed: portmon remove was called, and no source is banned"
	repairedText = "table repaired"
	fullText     = " led to no ban: a set is full; the packets are dropped all the same"
)

// One event is described in full.
func TestOne(t *testing.T) {
	four, six := prefix("203.0.113.7/32"), prefix("2001:db8:0:1::/64")
	until := in(8 * time.Hour)
	tests := []struct {
		news           watch.News
		title, message string
		priority       int
		emoji          string
	}{
		{banned(four, 23), "203.0.113.7 banned", "203.0.113.7 banned for 8h: tcp/23", 2, "no_entry"},
		{
			watch.News{Kind: watch.Banned, Source: six, Proto: 17, Port: 53, Until: until}, "2001:db8:0:1::/64 banned",
			"2001:db8:0:1::/64 banned for 8h: udp/53", 2, "no_entry",
		},
		{
			watch.News{Kind: watch.Banned, Source: four, Until: until}, "203.0.113.7 banned",
			"203.0.113.7 banned for 8h", 2, "no_entry",
		},
		{
			watch.News{Kind: watch.Banned, Source: four, Until: in(0), Proto: 132, Port: 7}, "203.0.113.7 banned",
			"203.0.113.7 banned: 132/7", 2, "no_entry",
		},
		{
			observed(banned(four, 23)), "203.0.113.7 would be banned",
			"203.0.113.7 would be banned for 8h: tcp/23", 2, "no_entry",
		},
		{
			observed(escalated(four, 2)), "203.0.113.7 would be escalated",
			"203.0.113.7 would be escalated to tier 2, banned for 3d after 2 offences: tcp/23", 2, "no_entry",
		},
		{
			observed(watch.News{Kind: watch.Full, Count: 3}), "no room for bans",
			"3 offences led to no ban: a set is full", 4, "warning",
		},
		{
			escalated(four, 2), "203.0.113.7 escalated",
			"203.0.113.7 escalated to tier 2, banned for 3d after 2 offences: tcp/23", 2, "no_entry",
		},
		{
			escalated(four, 3), "203.0.113.7 escalated",
			"203.0.113.7 escalated to tier 3, banned for 3d after 3 offences: tcp/23", 3, "no_entry",
		},
		{
			watch.News{Kind: watch.Escalated, Source: four, Step: 2, Offences: 1, Comment: "offence: sshd"},
			"203.0.113.7 escalated", "203.0.113.7 escalated to tier 2, banned after 1 offence: offence: sshd", 2,
			"no_entry",
		},
		{
			watch.News{Kind: watch.ByHand, Source: prefix("198.51.100.0/24"), Forever: true, Comment: "a bad network"},
			"198.51.100.0/24 banned by hand", "198.51.100.0/24 banned by hand forever: a bad network", 3,
			"no_entry_sign",
		},
		{
			watch.News{Kind: watch.ByHand, Until: in(90 * time.Second)}, "banned by hand", "banned by hand for 1m30s", 3,
			"no_entry_sign",
		},
		{watch.News{Kind: watch.Lifted, Source: four}, "203.0.113.7 lifted", "203.0.113.7 lifted", 3, "unlock"},
		{watch.News{Kind: watch.Unbanned, Source: four}, "203.0.113.7 unbanned by hand", "203.0.113.7 unbanned by hand", 2, "unlock"},
		{watch.News{Kind: watch.Unbanned, Count: 203}, "203 sources unbanned by hand", "203 sources unbanned by hand", 2, "unlock"},
		{
			watch.News{Kind: watch.Unbanned, Count: 203, Source: prefix("198.51.100.0/24")}, "203 sources in 198.51.100.0/24 unbanned by hand",
			"203 sources in 198.51.100.0/24 unbanned by hand", 2, "unlock",
		},
		{watch.News{Kind: watch.Allowed, Source: four, Until: until}, "203.0.113.7 allowed by hand", "203.0.113.7 allowed by hand for 8h", 2, "key"},
		{watch.News{Kind: watch.Disallowed, Source: four}, "203.0.113.7 disallowed by hand", "203.0.113.7 disallowed by hand", 2, "lock"},
		{watch.News{Kind: watch.Full, Count: 7}, "no room for bans", "7 offences" + fullText, 4, "warning"},
		{
			watch.News{Kind: watch.HeldBack, Count: 7}, "bans held back",
			"7 offences led to no ban: a flood of new offenders; the packets are dropped all the same", 3, "ocean",
		},
		{
			observed(watch.News{Kind: watch.HeldBack, Count: 1}), "bans held back",
			"1 offence led to no ban: a flood of new offenders", 3, "ocean",
		},
		{watch.News{Kind: watch.Restored, Count: 1204}, "bans restored", "1204 bans restored", 3, "recycle"},
		{watch.News{Kind: watch.Restored, Count: 1}, "bans restored", "1 ban restored", 3, "recycle"},
		{
			watch.News{Kind: watch.Whitelisted, Source: four}, "203.0.113.7 whitelisted",
			"203.0.113.7 whitelisted: its ban was lifted", 3, "unlock",
		},
		{
			watch.News{Kind: watch.Repaired, What: "chain guard"}, "table repaired", repairedText + ": chain guard", 3,
			"warning",
		},
		{watch.News{Kind: watch.TableGone}, "table gone", goneText, 4, "rotating_light"},
		{watch.News{Kind: watch.Removed}, "table removed", removedText, 3, "warning"},
	}
	for _, tt := range tests {
		want := &notice{
			title: "web1: " + tt.title, message: tt.message, priority: tt.priority, emoji: tt.emoji, host: "web1", count: 1,
			event: event{News: tt.news, at: clock},
		}
		if d := diff(want, composed(tt.news)); d != "" {
			t.Errorf("%v (-want +got)\n%s", tt.news.Kind, d)
		}
	}
	var d digest
	d.add(event{News: watch.News{Kind: watch.TableGone}, at: clock}, steps)
	if n := d.compose("", nil); n.title != "table gone" {
		t.Errorf("without the name of a host: %q", n.title)
	}
}

// A ban lasts as long as it was meant to, although it takes a moment until it
// is known.
func TestDuration(t *testing.T) {
	for remaining, want := range map[time.Duration]string{
		8 * time.Hour:                       " for 8h",
		8*time.Hour - 1700*time.Millisecond: " for 8h",
		8*time.Hour - 61*time.Second:        " for 7h59m",
		3*day - 10*time.Minute:              " for 3d",
		90 * time.Second:                    " for 1m30s",
		200 * time.Millisecond:              " for 1s",
		0:                                   "",
		-time.Hour:                          "",
	} {
		if got := (&event{News: watch.News{Until: in(remaining)}, at: clock}).duration(); got != want {
			t.Errorf("%v: got %q, want %q", remaining, got, want)
		}
	}
	if got := (&event{at: clock}).duration(); got != "" {
		t.Errorf("if the end is not known: %q", got)
	}
}

func TestSummary(t *testing.T) {
	var bans []watch.News
	for i := range 9 {
		bans = append(bans, banned(host(i), uint16(20+i)))
	}
	tests := []struct {
		name     string
		news     []watch.News
		title    string
		lines    []string
		priority int
		emoji    string
	}{
		{
			"two bans", []watch.News{banned(host(1), 23), {Kind: watch.Banned, Source: host(2), Until: in(time.Hour)}},
			"2 banned",
			[]string{"198.51.0.2 banned for 1h", "198.51.0.1 banned for 8h: tcp/23"}, low, "no_entry",
		},
		{
			"one before the table enforced", []watch.News{observed(banned(host(1), 23)), banned(host(2), 23)},
			"1 banned, 1 would be banned",
			[]string{"198.51.0.2 banned for 8h: tcp/23", "198.51.0.1 would be banned for 8h: tcp/23"}, low, "no_entry",
		},
		{
			"more bans than are described", bans, "9 banned",
			[]string{
				"198.51.0.8 banned for 8h: tcp/28", "198.51.0.7 banned for 8h: tcp/27", "198.51.0.6 banned for 8h: tcp/26",
				"198.51.0.5 banned for 8h: tcp/25", "198.51.0.4 banned for 8h: tcp/24", "and 4 more",
			}, low, "no_entry",
		},
		{
			"one by the last step", []watch.News{escalated(host(1), 3), escalated(host(2), 2), banned(host(3), 22)},
			"2 escalated, 1 banned",
			[]string{
				"198.51.0.3 banned for 8h: tcp/22",
				"198.51.0.2 escalated to tier 2, banned for 3d after 2 offences: tcp/23",
				"198.51.0.1 escalated to tier 3, banned for 3d after 3 offences: tcp/23",
			}, standard, "no_entry",
		},
		{
			"all sorts",
			[]watch.News{
				{Kind: watch.Removed}, {Kind: watch.Full, Count: 3}, {Kind: watch.ByHand, Source: host(1)}, escalated(host(3), 2),
				banned(host(1), 23), {Kind: watch.TableGone}, {Kind: watch.TableGone}, {Kind: watch.Restored, Count: 1200},
				{Kind: watch.Repaired, What: "chain guard"}, {Kind: watch.Whitelisted, Source: host(4)}, {Kind: watch.Lifted, Source: host(2)},
			},
			"no room for bans, table removed, table repaired, table gone, bans restored, " +
				"1 whitelisted, 1 lifted, 1 banned by hand, 1 escalated, 1 banned",
			[]string{
				"198.51.0.2 lifted", "198.51.0.4 whitelisted: its ban was lifted", repairedText + ": chain guard",
				"1200 bans restored", goneText, "and 6 more",
			}, high, "warning",
		},
	}
	for _, tt := range tests {
		want := &notice{
			title: "web1: " + tt.title, message: strings.Join(tt.lines, "\n"), priority: tt.priority, emoji: tt.emoji,
			host: "web1", count: len(tt.news),
		}
		if d := diff(want, composed(tt.news...)); d != "" {
			t.Errorf("%s (-want +got)\n%s", tt.name, d)
		}
	}
}

// Scanners choose sources and ports, and other programs choose comments. The
// memory for them is bounded.
func TestBounded(t *testing.T) {
	var d digest
	comment := strings.Repeat("x", 10_000)
	fill := func(from, to int) {
		for i := from; i < to; i++ {
			n := banned(host(i), uint16(i))
			n.Proto = uint8(i >> 16)
			n.Comment = comment
			if i%2 == 1 {
				n.Kind = watch.Kind(i % int(watch.Kinds))
			}
			d.add(event{News: n, at: clock}, steps)
		}
	}
	fill(0, 10_000)
	before := heap()
	fill(10_000, 100_000)
	if grown := heap() - before; grown > 100_000 {
		t.Errorf("90,000 events took %d bytes", grown)
	}
	if d.total != 100_000 || len(d.recent) != maxEvents {
		t.Errorf("%d events, %d of them kept", d.total, len(d.recent))
	}
	runtime.KeepAlive(&d)
}

func heap() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
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
			d.add(event{News: watch.News{
				Kind: watch.Kind(rng.IntN(int(watch.Kinds))), Source: netip.PrefixFrom(netip.AddrFrom16(a), rng.IntN(130)-1),
				Comment: random(), What: random(),
				Step: rng.Int(), Offences: rng.Int(), Count: rng.Int(), Proto: uint8(rng.Uint32()), Port: uint16(rng.Uint32()),
				Until: book.Moment(rng.Int64()), Forever: rng.IntN(2) == 0,
			}, at: clock}, steps)
		}
		n := d.compose(clean(random(), maxName), nil)
		bad := func(r rune) bool { return r < ' ' && r != '\n' || r == 0x7f }
		badTitle := func(r rune) bool { return bad(r) || r == '\n' }
		if len(n.message) > 4096 || !utf8.ValidString(n.message) || strings.ContainsFunc(n.message, bad) ||
			len(n.title) > 1000 || strings.ContainsFunc(n.title, badTitle) {
			t.Fatalf("seed %d: %d bytes\n%q\n%q", seed, len(n.message), n.title, n.message)
		}
		for _, v := range environment(n) {
			if strings.Contains(v, "\x00") {
				t.Fatalf("seed %d: %q", seed, v)
			}
		}
	}
}

func TestClean(t *testing.T) {
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
		if got := clean(tt.in, tt.limit); got != tt.want {
			t.Errorf("%q: got %q, want %q", tt.in, got, tt.want)
		}
	}
}

func TestKinds(t *testing.T) {
	for k, says := range kinds {
		if says.priority == 0 || says.emoji == "" {
			t.Errorf("%v has no priority or no emoji", watch.Kind(k))
		}
	}
}

// A notice says where its sources are, as far as a database knows all of each.
func TestPlaces(t *testing.T) {
	t.Parallel()
	wide := banned(netip.MustParsePrefix("198.0.0.0/8"), 23)
	n := composedAt(somewhere(t), banned(host(1), 23), banned(host(2), 23), wide, watch.News{Kind: watch.Restored, Count: 2})
	want := `2 bans restored
198.0.0.0/8 banned for 8h: tcp/23
198.51.0.2 banned for 8h: tcp/23 (DE, AS64500 Example�[31m Ltd)
198.51.0.1 banned for 8h: tcp/23 (DE, AS64500 Example�[31m Ltd)`
	if d := diff(want, n.message); d != "" {
		t.Errorf("(-want +got)\n%s", d)
	}
}
