package overview

import (
	"bytes"
	"errors"
	"net/netip"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/portmon/portmon/internal/book"
	"github.com/portmon/portmon/internal/geo"
	"github.com/portmon/portmon/internal/stats"
	"github.com/portmon/portmon/ruleset"
)

const hostile = "\x1b[31m<script>alert(1)</script>\"'&\u202e"

// busy returns a report of 400 days on which as much happened as is kept.
func busy(t *testing.T, days int) *Report {
	t.Helper()
	now := time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)
	s := stats.New(time.UTC)
	table := stats.Table{Origin: book.Origin{Boot: "a", NetNS: 1, Table: 1}}
	codes := world()
	for hour := range 400 * 24 {
		at := now.Add(time.Duration(hour-400*24+1) * time.Hour)
		s.AddOffence(stats.Offence{
			At: at, Cause: ruleset.CauseTrap, Step: 1 + hour%3, Proto: 6, Port: uint16(hour), First: hour%2 == 0,
			Place: geo.Place{Country: codes[hour%len(codes)].Code, ASN: uint32(hour%12 + 1), Network: hostile},
		})
		table.Counters = make(map[string]ruleset.Counter)
		for _, name := range ruleset.Counters() {
			table.Counters[name] = ruleset.Counter{Packets: uint64(hour+1) * 1_000_000_000_000, Bytes: uint64(hour)}
		}
		s.AddTable(table, hour == 0, at)
	}
	rows := book.New(0)
	boot := book.Moment(1e18)
	for i := range 200 {
		rows.Put(book.Row{
			Source: netip.PrefixFrom(netip.AddrFrom4([4]byte{203, 0, 113, byte(i)}), 32), Cause: ruleset.CauseTrap, Proto: 6, Port: 23,
			Banned: true, Timeout: time.Hour, Until: boot.Add(time.Duration(i) * time.Second), Step: 1, StepUntil: boot.Add(time.Hour),
			Offences: i%7 + 1, Last: boot.Add(-time.Minute),
		})
	}
	rows.Put(book.Row{
		Source: netip.MustParsePrefix("2001:db8:1234:5678:9abc:def0:1234:5678/128"), Banned: true, ByHand: true, Cause: ruleset.CauseHand, Comment: hostile,
		Offences: 9, Step: 1, StepUntil: boot.Add(time.Hour),
	})
	return New(Input{
		Host: hostile, Mode: ruleset.Mode(false), Days: days, Clock: book.Clock{Boot: boot, Wall: now}, Stats: s, Rows: rows,
		Locate:  func(netip.Prefix) geo.Place { return geo.Place{Country: "DE", ASN: 1, Network: hostile} },
		Suspect: func(p netip.Prefix) string { return hostile },
	})
}

// The page fits a terminal of 80 columns, whatever is on it, and shows nothing
// that a terminal obeys.
func TestText(t *testing.T) {
	for _, days := range []int{1, 2, 7, 30, 33, 34, 90, 400} {
		for _, unicode := range []bool{false, true} {
			var b strings.Builder
			if err := busy(t, days).WriteText(&b, Terminal{Unicode: unicode}); err != nil {
				t.Fatal(err)
			}
			for line := range strings.Lines(b.String()) {
				line = strings.TrimSuffix(line, "\n")
				if n := utf8.RuneCountInString(line); n > Columns {
					t.Errorf("%d days: a line has %d columns: %s", days, n, line)
				}
				if strings.ContainsFunc(line, func(r rune) bool { return r < ' ' || r == '\u202e' || !unicode && r > '~' }) {
					t.Errorf("%d days: a line has a control character: %q", days, line)
				}
			}
			if unicode != strings.Contains(b.String(), "█") {
				t.Errorf("%d days: blocks are not as the terminal can show them", days)
			}
		}
	}
}

// The page is small, loads nothing, and shows foreign text as text.
func TestHTML(t *testing.T) {
	loads := regexp.MustCompile(`(?i)<(script|link|img|iframe|object|embed|base|form|style[^>]*src)|https?:|\bon\w+=|src=|href=|@import|url\(|javascript:`)
	for _, days := range []int{1, 30, 400} {
		r := busy(t, days)
		var b bytes.Buffer
		if err := r.WriteHTML(&b); err != nil {
			t.Fatal(err)
		}
		page := b.String()
		if b.Len() > 200_000 {
			t.Errorf("%d days: the page has %d bytes", days, b.Len())
		}
		if strings.ContainsAny(page, "\x1b\u202e") {
			t.Errorf("%d days: the page has characters that control a terminal or the direction of writing", days)
		}
		if found := loads.FindString(page); found != "" {
			t.Errorf("%d days: the page has %q", days, found)
		}
		first := map[int]string{1: "Sat 28 Nov: ", 30: "Fri 30 Oct: ", 400: "Sat 25 Oct to Tue 28 Oct: "}[days] // a column sums four days
		for _, want := range []string{
			"&lt;script&gt;", number(r.Total.Dropped), "prefers-color-scheme:dark", "Map of offences by country",
			`class="s5"`, "<title>" + first, "</html>",
		} {
			if !strings.Contains(page, want) {
				t.Errorf("%d days: the page lacks %q", days, want)
			}
		}
	}
}

// The sum is that of the days, and each offence and ban is in one of the parts.
func TestSums(t *testing.T) {
	r := busy(t, 30)
	var dropped, offences uint64
	for i := range r.Days {
		dropped += r.Days[i].Dropped
		offences += r.Days[i].New + r.Days[i].Returning()
	}
	sum := func(items []Item) (n uint64) {
		for _, it := range items {
			n += it.Count
		}
		return n
	}
	if dropped != r.Total.Dropped || dropped == 0 {
		t.Errorf("the days have %d packets, the sum %d", dropped, r.Total.Dropped)
	}
	for name, n := range map[string]uint64{
		"days": offences, "causes": sum(r.Causes), "tiers": sum(r.Steps), "ports": sum(r.Ports), "countries": sum(r.Countries), "networks": sum(r.Networks),
	} {
		if n != r.Total.Offences {
			t.Errorf("%s have %d offences, the sum %d", name, n, r.Total.Offences)
		}
	}
	if n := sum(r.Expiring); n != uint64(r.Banned) || n != 200 { // the first one is over
		t.Errorf("%d bans by their ends, of %d", n, r.Banned)
	}
}

// What was only observed is apart from what was dropped, also on one day.
func TestObserved(t *testing.T) {
	now := time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)
	s := stats.New(time.UTC)
	in := func(observe bool, dropped, banned uint64) stats.Table {
		return stats.Table{
			Origin: book.Origin{Boot: "a", NetNS: 1, Table: 1, Observe: observe},
			Counters: map[string]ruleset.Counter{
				ruleset.CounterDropped: {Packets: dropped, Bytes: 40 * dropped}, ruleset.CounterBanned: {Packets: banned, Bytes: 40 * banned},
				ruleset.CounterTrapped: {Packets: 2 * banned}, ruleset.CounterHeldBack: {Packets: banned, Bytes: 40 * banned},
			},
		}
	}
	s.AddTable(in(true, 207, 3), true, now)
	s.AddTable(in(false, 207, 3), false, now)
	s.AddTable(in(false, 422, 8), false, now)
	r := New(Input{Mode: ruleset.Mode(false), Days: 7, Clock: book.Clock{Boot: 1e18, Wall: now}, Stats: s, Rows: book.New(0)})
	for _, d := range []Sum{r.Total, r.Days[6].Sum} {
		if d.Dropped != 225 || d.Bytes != 40*225 || d.WouldDrop != 213 || d.Bans != 5 || d.WouldBan != 3 {
			t.Errorf("got %+v", d)
		}
	}
	var text, page strings.Builder
	if err := errors.Join(r.WriteText(&text, Terminal{}), r.WriteHTML(&page)); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{" 225  packets dropped\n", " 213  packets that would be dropped\n", "Packets dropped a day, and those that would be (o)\n", " #####\n", " ooooo\n"} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("there is no %q in\n%s", want, &text)
		}
	}
	if want := "Sat 28 Nov: 225 dropped, 213 would be, "; !strings.Contains(page.String(), want) {
		t.Errorf("the page lacks %q", want)
	}
}

// Numbers take little room.
func TestShort(t *testing.T) {
	for n, want := range map[uint64]string{
		0: "0", 999: "999", 1000: "1.0k", 9949: "9.9k", 9951: "10k", 999_499: "999k", 999_500: "1.0M", 1<<64 - 1: "18E",
	} {
		if got := short(n); got != want {
			t.Errorf("%d is %s, want %s", n, got, want)
		}
	}
	for _, n := range []uint64{1, 2, 5, 6, 26, 1000, 1 << 40, 1<<64 - 1} {
		if step := niceStep(n); step == 0 || n/step > 5 && n < 1<<60 {
			t.Errorf("steps of %d for %d", step, n)
		}
	}
	if got := number(1234567); got != "1,234,567" {
		t.Errorf("got %s", got)
	}
}
