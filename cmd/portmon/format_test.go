package main

import (
	"encoding/json"
	"io"
	"net/netip"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/portmon/portmon/internal/book"
	"github.com/portmon/portmon/nftset"
	"github.com/portmon/portmon/ruleset"
)

const day = 24 * time.Hour

func aBan(set string, step int, cause ruleset.Cause, prefix string, timeout, remaining time.Duration, comment string) ban {
	p := netip.MustParsePrefix(prefix)
	return newBan(ruleset.Entry{
		Element: nftset.Element{Interval: nftset.Prefix(p).Interval, Timeout: timeout, Remaining: remaining, Comment: comment},
		Set:     set, Step: step, Cause: cause,
	}, p, testNow)
}

// someBans are one of each kind, in no order.
func someBans() []ban {
	bans := []ban{
		aBan("net4", 0, ruleset.CauseHand, "192.0.2.99/32", 0, 0, "for good"),
		aBan("ban4", 2, ruleset.CauseTrap, "203.0.113.7/32", 3*day, 2*day+20*time.Hour+29*time.Minute, ""),
		aBan("net6", 0, ruleset.CauseHand, "2001:db8:1111:2222:3333:4444:5555:6666/128", 3650*day, 3649*day+23*time.Hour, "spam \x1b[31m in the comments"),
		aBan("ban6", 1, ruleset.CauseScan, "2001:db8:ffff:ffff::/64", 8*time.Hour, 8*time.Hour-1500*time.Millisecond, ""),
		aBan("ban4", 1, ruleset.CauseTrap, "198.51.100.200/32", 8*time.Hour, 9*time.Hour, ""), // renewed by a rule
		aBan("net4", 0, ruleset.CauseHand, "198.51.100.0/25", time.Hour, 59*time.Second, book.HandComment),
		aBan("ban4", 3, ruleset.CauseOther, "203.0.113.9/32", time.Hour, 30*time.Minute, "offence: guesses"),
	}
	bans[1].known = &book.Row{Offences: 2, Proto: 6, Port: 23, First: 1, Last: book.Moment(time.Hour)}
	bans[1].clock = book.Clock{Boot: book.Moment(2 * time.Hour), Wall: testNow}
	return bans
}

// listed writes bans as list does.
func listed(t *testing.T, columns int, asJSON bool, bans ...ban) (stdout, stderr string) {
	t.Helper()
	e, out, errs := testEnv()
	if columns > 0 {
		e.width = func(io.Writer) int { return columns }
		e.getenv = func(key string) string { return map[string]string{"NO_COLOR": "1"}[key] }
	}
	p := &cli{env: e, ui: newUI(e)}
	err := p.list("enforce", func(yield func(ban, error) bool) {
		for _, b := range bans {
			if !yield(b, nil) {
				return
			}
		}
	}, nil, listing{what: "bans", json: asJSON})
	if code := p.finish(err); code != 0 {
		t.Fatalf("exit code %d", code)
	}
	return out.String(), errs.String()
}

func TestListAt80Columns(t *testing.T) {
	const want = `
ADDRESS                                 TIER  CAUSE  AGE    LEFT      COMMENT
2001:db8:ffff:ffff::/64                 1     scan   2s     8h
203.0.113.9                             3     other  30m    30m       guesses
198.51.100.0/25                         -     hand   59m1s  59s
2001:db8:1111:2222:3333:4444:5555:6666  -     hand   1h     3649d23h  spam �[31…
203.0.113.7                             2     trap   3h31m  2d20h     tcp/23, 2…
192.0.2.99                              -     hand   -      forever   for good
198.51.100.200                          1     trap   -      9h
`
	got, _ := listed(t, 80, false, someBans()...)
	if got != want[1:] {
		t.Errorf("got\n%s\nwant%s", got, want)
	}
	lines := strings.SplitAfter(got, "\n")
	for _, line := range lines[1:] {
		if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); n > 80 {
			t.Errorf("%d columns: %s", n, line)
		}
	}
}

// Where no terminal has to be fitted, nothing is cut.
func TestListInPipe(t *testing.T) {
	got, _ := listed(t, 0, false, someBans()...)
	for _, text := range []string{"3649d23h  spam �[31m in the comments\n", "  tcp/23, 2 offences\n"} {
		if !strings.Contains(got, text) {
			t.Errorf("no %q in\n%s", text, got)
		}
	}
}

func TestListJSON(t *testing.T) {
	const want = `
{"version":1,"table":"inet portmon","mode":"enforce","bans":[
{"prefix":"192.0.2.99/32","family":"ip","set":"net4","cause":"hand","reason":"a \"b\" \\ \u001b[31m \ufffd"},
{"prefix":"203.0.113.7/32","family":"ip","set":"ban4","tier":2,"cause":"trap","timeout_seconds":259200,"expires_seconds":246540,"until":"2026-01-21T06:33:26Z","since":"2026-01-18T06:33:26Z","offences":2,"first_offence":"2026-01-18T08:04:26Z","last_offence":"2026-01-18T09:04:26Z","last_protocol":"tcp","last_port":23},
{"prefix":"2001:db8:ffff:ffff::/64","family":"ip6","set":"ban6","tier":1,"cause":"scan","timeout_seconds":28800,"expires_seconds":28798.5,"until":"2026-01-18T18:04:24Z","since":"2026-01-18T10:04:24Z"},
{"prefix":"198.51.100.200/32","family":"ip","set":"ban4","tier":1,"cause":"trap","timeout_seconds":28800,"expires_seconds":32400,"until":"2026-01-18T19:04:26Z"},
{"prefix":"203.0.113.9/32","family":"ip","set":"ban4","tier":3,"cause":"other","timeout_seconds":3600,"expires_seconds":1800,"until":"2026-01-18T10:34:26Z","since":"2026-01-18T09:34:26Z","reason":"guesses"}
]}
`
	some := someBans()
	odd := aBan("net4", 0, ruleset.CauseHand, "192.0.2.99/32", 0, 0, "a \"b\" \\ \x1b[31m \xff")
	got, _ := listed(t, 80, true, odd, some[1], some[3], some[4], some[6])
	if got != want[1:] {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if !json.Valid([]byte(got)) {
		t.Error("that is not JSON")
	}
	got, _ = listed(t, 0, true)
	if want := `{"version":1,"table":"inet portmon","mode":"enforce","bans":[]}` + "\n"; got != want {
		t.Errorf("got %q; want %q", got, want)
	}
}

func TestSeconds(t *testing.T) {
	for d, want := range map[time.Duration]string{
		8 * time.Hour:               "28800",
		28741196 * time.Millisecond: "28741.196",
		28741200 * time.Millisecond: "28741.2",
		10 * time.Millisecond:       "0.01",
		1 * time.Millisecond:        "0.001",
	} {
		if got, err := seconds(d).MarshalJSON(); string(got) != want || err != nil {
			t.Errorf("%v: got %s, want %s", d, got, want)
		}
	}
}
