package main

import (
	"encoding/json"
	"io"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
	"unsafe"

	"github.com/portmon/portmon/internal/state"
	"github.com/portmon/portmon/nftset"
	"github.com/portmon/portmon/ruleset"
)

const day = 24 * time.Hour

func ban(set string, tier int, prefix string, timeout, expires time.Duration, comment string) ruleset.Ban {
	return ruleset.Ban{
		Interval: nftset.FromPrefix(netip.MustParsePrefix(prefix)), Set: set, Tier: tier,
		Timeout: timeout, Expires: expires, Comment: comment,
	}
}

// someBans are one of each kind, in no order.
var someBans = []ruleset.Ban{
	ban("net4", 0, "192.0.2.99/32", 0, 0, "for good"),
	ban("ban4_2", 2, "203.0.113.7/32", 3*day, 2*day+20*time.Hour+29*time.Minute, ""),
	ban("net6", 0, "2001:db8:1111:2222:3333:4444:5555:6666/128", 3650*day, 3649*day+23*time.Hour, "spam wave \x1b[31m in the comments of the blog"),
	ban("ban6", 1, "2001:db8:ffff:ffff::/64", 8*time.Hour, 8*time.Hour-1500*time.Millisecond, ""),
	ban("ban4", 1, "198.51.100.200/32", 8*time.Hour, 9*time.Hour, ""), // renewed by a rule
	ban("net4", 0, "198.51.100.0/25", time.Hour, 59*time.Second, ""),
}

// listed writes bans as list does.
func listed(t *testing.T, columns int, o listOptions, bans ...ruleset.Ban) (stdout, stderr string) {
	t.Helper()
	e, out, errs := testEnv()
	if columns > 0 {
		e.isTerminal = func(io.Writer) bool { return true }
		e.width = func(io.Writer) int { return columns }
		e.getenv = func(key string) string { return map[string]string{"NO_COLOR": "1"}[key] }
	}
	p := &cli{env: e, ui: newUI(e)}
	var all []entry
	for _, b := range bans {
		entries(b, testNow, func(e entry) { all = append(all, e) })
	}
	if err := p.writeList(o, len(all), func(yield func(entry, error) bool) {
		for _, e := range all {
			if !yield(e, nil) {
				return
			}
		}
	}); err != nil {
		t.Fatal(err)
	}
	if code := p.finish(nil); code != 0 {
		t.Fatalf("exit code %d", code)
	}
	return out.String(), errs.String()
}

func TestListAt80Columns(t *testing.T) {
	const want = `
ADDRESS                                 TIER    AGE       LEFT      REASON
2001:db8:ffff:ffff::/64                 1       2s        8h
198.51.100.0/25                         prefix  59m1s     59s
2001:db8:1111:2222:3333:4444:5555:6666  prefix  1h        3649d23h  spam wave �…
203.0.113.7                             2       3h31m     2d20h
192.0.2.99                              prefix  -         forever   for good
198.51.100.200                          1       -         9h
`
	got, _ := listed(t, 80, listOptions{}, someBans...)
	if got != want[1:] {
		t.Errorf("got\n%s\nwant%s", got, want)
	}
	for line := range strings.Lines(got) {
		if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); n > 80 {
			t.Errorf("%d columns: %s", n, line)
		}
	}
}

// Where no terminal has to be fitted, nothing is cut.
func TestListInPipe(t *testing.T) {
	got, _ := listed(t, 0, listOptions{}, someBans...)
	if !strings.Contains(got, "3649d23h  spam wave �[31m in the comments of the blog\n") {
		t.Errorf("got\n%s", got)
	}
}

func TestListUnsorted(t *testing.T) {
	const want = `
ADDRESS                   TIER    AGE       LEFT      REASON
192.0.2.99                prefix  -         forever   for good
203.0.113.7               2       3h31m     2d20h
`
	if got, _ := listed(t, 80, listOptions{unsorted: true}, someBans[:2]...); got != want[1:] {
		t.Errorf("got\n%s\nwant%s", got, want)
	}
}

func TestListOfNobody(t *testing.T) {
	stdout, stderr := listed(t, 0, listOptions{})
	if stdout != "" || stderr != "portmon: no ban\n" {
		t.Errorf("got %q, %q", stdout, stderr)
	}
	stdout, stderr = listed(t, 0, listOptions{json: true})
	if want := `{"version":1,"table":"inet portmon","bans":[]}` + "\n"; stdout != want || stderr != "" {
		t.Errorf("got %q, %q; want %q", stdout, stderr, want)
	}
}

func TestListJSON(t *testing.T) {
	const want = `
{"version":1,"table":"inet portmon","bans":[
{"prefix":"2001:db8:ffff:ffff::/64","family":"ip6","set":"ban6","tier":1,"timeout_seconds":28800,"expires_seconds":28798.5,"until":"2026-01-18T18:04:24Z","since":"2026-01-18T10:04:24Z"},
{"prefix":"203.0.113.7/32","family":"ip","set":"ban4_2","tier":2,"timeout_seconds":259200,"expires_seconds":246540,"until":"2026-01-21T06:33:26Z","since":"2026-01-18T06:33:26Z"},
{"prefix":"192.0.2.99/32","family":"ip","set":"net4","reason":"a \"b\" \\ \u001b[31m \ufffd"},
{"prefix":"198.51.100.200/32","family":"ip","set":"ban4","tier":1,"timeout_seconds":28800,"expires_seconds":32400,"until":"2026-01-18T19:04:26Z"}
]}
`
	bans := []ruleset.Ban{
		ban("net4", 0, "192.0.2.99/32", 0, 0, "a \"b\" \\ \x1b[31m \xff"),
		someBans[1], someBans[3], someBans[4],
	}
	got, _ := listed(t, 80, listOptions{json: true}, bans...)
	if got != want[1:] {
		t.Errorf("got\n%s\nwant%s", got, want)
	}
	if !json.Valid([]byte(got)) {
		t.Error("that is no JSON")
	}
}

func TestRanges(t *testing.T) {
	b := someBans[0]
	b.From, b.To = nftset.AddrKey(netip.MustParseAddr("192.0.2.1")), nftset.AddrKey(netip.MustParseAddr("192.0.2.6"))
	got, _ := listed(t, 0, listOptions{}, b)
	for _, prefix := range []string{"192.0.2.1 ", "192.0.2.2/31 ", "192.0.2.4/31 ", "192.0.2.6 "} {
		if !strings.Contains(got, prefix) {
			t.Errorf("no %s in\n%s", prefix, got)
		}
	}
}

func TestRecords(t *testing.T) {
	if size := unsafe.Sizeof(record{}); size != 48 {
		t.Errorf("a record has %d bytes: a million of them is said to take 48 MB", size)
	}
	r := newRecords(0)
	var want []entry
	for _, b := range someBans {
		entries(b, testNow, func(e entry) {
			r.add(e)
			want = append(want, e)
		})
	}
	var got []entry
	for i := range r.all {
		got = append(got, r.entry(&r.all[i]))
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("kept as\n%v\nwant\n%v", got, want)
	}
}

// What is read later has aged longer: a slow dump must not put bans in the wrong order, or tell wrong times.
func TestRecordsReadSlowly(t *testing.T) {
	r := newRecords(0)
	for i, b := range []ruleset.Ban{ // of the same age when they are read, two of them: the later that is, the newer they are
		ban("ban4", 1, "203.0.113.3/32", 8*time.Hour, 7*time.Hour, ""),
		ban("ban4", 1, "203.0.113.2/32", 8*time.Hour, 7*time.Hour, ""),
		ban("ban4", 1, "203.0.113.1/32", 8*time.Hour, 7*time.Hour-30*time.Second, ""),
	} {
		entries(b, testNow.Add(time.Duration(i)*20*time.Second), func(e entry) { r.add(e) })
	}
	r.sort()
	var got []string
	for i := range r.all {
		e := r.entry(&r.all[i])
		age, _ := e.age()
		got = append(got, e.prefix.String()+" since "+e.read.Add(-age).UTC().Format(time.TimeOnly))
	}
	want := []string{"203.0.113.2/32 since 09:04:46", "203.0.113.1/32 since 09:04:36", "203.0.113.3/32 since 09:04:26"}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestShortDurations(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0:                                     "0s",
		400 * time.Millisecond:                "0s",
		500 * time.Millisecond:                "1s",
		59 * time.Second:                      "59s",
		59*time.Second + 600*time.Millisecond: "1m",
		61 * time.Second:                      "1m1s",
		time.Hour - time.Second:               "59m59s",
		time.Hour - time.Millisecond:          "1h",
		time.Hour + 29*time.Second:            "1h",
		time.Hour + 31*time.Second:            "1h1m",
		8*time.Hour - 20*time.Millisecond:     "8h",
		day - 29*time.Second:                  "1d",
		day - 31*time.Second:                  "23h59m",
		day + 29*time.Minute:                  "1d",
		3*day - 40*time.Minute:                "2d23h",
		3*day - 20*time.Minute:                "3d",
		3649*day + 23*time.Hour:               "3649d23h",
	} {
		if got := short(d); got != want {
			t.Errorf("%v: got %s, want %s", d, got, want)
		}
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
		if got := string(state.AppendSeconds(nil, d)); got != want {
			t.Errorf("%v: got %s, want %s", d, got, want)
		}
	}
}
