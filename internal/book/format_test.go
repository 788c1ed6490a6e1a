package book

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/portmon/portmon/ruleset"
)

func TestFormat(t *testing.T) {
	path := written(t, sample[0], sample[3])
	lines := strings.Split(contents(t, path), "\n")
	slices.Sort(lines[1:3])
	want := []string{
		`{"format":"portmon-state","version":2,"saved":"2026-01-18T11:04:26.123Z","uptime_seconds":5025.118,"machine":"m","boot_id":"b","netns":1,"table_handle":0,"rows":2}`,
		`{"prefix":"192.0.2.0/24","permanent":true,"cause":"hand","by_hand":true,"comment":"a \"bad\" network \u003cof\u003e ünknown \u0026 others\n"}`,
		`{"prefix":"203.0.113.7/32","timeout_seconds":28800,"until":"2026-01-18T19:04:24.623Z","tier":1,"tier_until":"2026-02-17T11:04:26.123Z","cause":"trap","offences":1,"last":"2026-01-18T11:04:24.623Z","last_protocol":6,"last_port":23}`,
		``,
	}
	if d := cmp.Diff(want, lines); d != "" {
		t.Errorf("-want +got:\n%s", d)
	}
	b := open(t, config(path, 0))
	b.Free(prefix("192.0.2.0/24"))
	b.SetTable(7)
	mustSync(t, b, clock)
	tail := `{"format":"portmon-state","version":2,"saved":"2026-01-18T11:04:26.123Z","uptime_seconds":5025.118,"machine":"m","boot_id":"b","netns":1,"table_handle":7}
{"prefix":"192.0.2.0/24","free":true}
`
	if got := contents(t, path); !strings.HasSuffix(got, "\n"+tail) {
		t.Errorf("file:\n%swant at its end:\n%s", got, tail)
	}
}

// Every row survives, through the file and through a pipe, and each line is
// JSON.
func TestRoundTrip(t *testing.T) {
	path := written(t, sample...)
	report := mustRead(t, config(path, 0), sample...)
	if report.Missing || report.Torn || report.BadLines > 0 || report.Origin != nil || report.Rows != len(sample) {
		t.Errorf("report: %+v", report)
	}
	for line := range strings.Lines(contents(t, path)) {
		if !json.Valid([]byte(line)) {
			t.Errorf("not JSON: %s", line)
		}
	}
	var pipe bytes.Buffer
	if err := Encode(&pipe, config("", 0).Here, clock, slices.Values(sample)); err != nil {
		t.Fatal(err)
	}
	b, report, err := Decode(&pipe, config("", 0))
	if err != nil || report.Saved.Origin != config("", 0).Here {
		t.Errorf("%v, %+v", err, report)
	}
	checkRows(t, b, sample...)
}

// An allowance is written so that earlier versions take its source for free.
func TestAllowanceFormat(t *testing.T) {
	row := Row{Source: prefix("203.0.113.7/32"), Allowed: true, Timeout: time.Hour, Until: in(time.Hour), Cause: ruleset.CauseLogin, Comment: "root"}
	always := Row{Source: prefix("2001:db8::/64"), Allowed: true, Cause: ruleset.CauseHand}
	path := written(t, row, always)
	lines := strings.Split(contents(t, path), "\n")[1:3]
	slices.Sort(lines)
	if d := cmp.Diff([]string{
		`{"prefix":"2001:db8::/64","free":true,"allowed":true,"permanent":true,"cause":"hand"}`,
		`{"prefix":"203.0.113.7/32","free":true,"allowed":true,"timeout_seconds":3600,"until":"2026-01-18T12:04:26.123Z","cause":"login","comment":"root"}`,
	}, lines); d != "" {
		t.Errorf("-want +got:\n%s", d)
	}
	mustRead(t, config(path, 0), row, always)
}

// An administrator edits the file: other order, other spacing, other time zone.
func TestEdited(t *testing.T) {
	path := written(t)
	edited := strings.Split(contents(t, written(t, sample[0])), "\n")[0] + `
{ "until": "2026-01-18T20:04:26+01:00", "timeout_seconds": 2.88e4, "prefix" : "203.0.113.7", "comment":"q\u0021" }
{"prefix":"203.0.113.8/24","permanent":true,"future_key":"}\\\"","future_number":-1.5e3,"cause":"future"}

{"until":"2026-01-18T12:04:26.123Z","timeout_seconds":3600,"prefix":"2001:db8::1/128"}`
	overwrite(t, path, edited)
	report := mustRead(t, config(path, 0),
		Row{Source: prefix("203.0.113.0/24"), Banned: true},
		Row{Source: prefix("2001:db8::1/128"), Banned: true, Timeout: time.Hour, Until: in(time.Hour)},
	)
	if report.BadLines != 1 || report.FirstBad != 2 { // an address is not a prefix
		t.Errorf("report: %+v", report)
	}
	// The next row does not stick to the last line.
	b := open(t, config(path, 0))
	put(t, b, sample[0])
	mustSync(t, b, clock)
	b.Close()
	report = mustRead(t, config(path, 0), sample[0],
		Row{Source: prefix("203.0.113.0/24"), Banned: true},
		Row{Source: prefix("2001:db8::1/128"), Banned: true, Timeout: time.Hour, Until: in(time.Hour)},
	)
	if report.BadLines > 0 || contents(t, path+".bad") != edited {
		t.Errorf("report: %+v", report)
	}
}

func TestInvalidRows(t *testing.T) {
	b := New(0)
	for _, r := range []Row{
		{},
		{Source: address(1), Banned: true, Timeout: -1},
		{Source: address(1), Banned: true, Timeout: horizon + 1},
		{Source: address(1), Step: -1},
		{Source: address(1), Step: 256},
	} {
		if b.Put(r) || b.Len() > 0 {
			t.Errorf("put: %+v", r)
		}
		if now, counted := b.Learn(r); counted || now != (Row{}) {
			t.Errorf("learnt: %+v", r)
		}
	}
	// What means nothing is not kept, and what can be mended is.
	put(t, b, Row{Source: prefix("::ffff:203.0.113.7/128"), Until: 7, Comment: "x", Step: 2, StepUntil: in(day), Port: 9, Last: 9})
	put(t, b, Row{Source: prefix("192.0.2.7/24"), Banned: true, Timeout: 1, Until: in(1), Comment: strings.Repeat("ü", 200)})
	checkRows(t, b,
		Row{Source: prefix("203.0.113.7/32"), Step: 2, StepUntil: in(day), Offences: 2},
		Row{Source: prefix("192.0.2.0/24"), Banned: true, Timeout: time.Millisecond, Until: in(0), Comment: strings.Repeat("ü", 126)},
	)
}

func TestNewerVersion(t *testing.T) {
	path := written(t, sample...)
	newer := strings.Replace(contents(t, path), `"version":2,"saved":`, `"version":3,"saved":7,"old":`, 1)
	for _, data := range []string{newer, contents(t, path) + newer} {
		overwrite(t, path, data)
		_, _, openErr := Open(config(path, 0))
		_, _, readErr := Read(config(path, 0))
		for _, err := range []error{openErr, readErr} {
			if refusal(err) != "written by a newer portmon" || !errors.As(err, new(*Error)) {
				t.Errorf("error: %v", err)
			}
		}
		if data == newer {
			if err := amend(config(path, 0), sample[:1], nil); refusal(err) == "" {
				t.Errorf("amend: %v", err)
			}
		}
		if contents(t, path) != data {
			t.Error("it was changed")
		}
	}
}

func TestForeign(t *testing.T) {
	for _, data := range []string{
		"root:x:0:0:root:/root:/bin/sh\n", "x", `{"format":"other"}` + "\n", `{"prefix":"192.0.2.1"}` + "\n",
		"\x00\x00\n\x7fELF", strings.Repeat("\x00", 300<<10) + "x\n", `{"prefix":"192.0.2.1/32","until":3}`,
	} {
		path := statePath(t)
		overwrite(t, path, data)
		_, _, openErr := Open(config(path, 0))
		_, _, readErr := Read(config(path, 0))
		for _, err := range []error{openErr, readErr, amend(config(path, 0), sample[:1], nil)} {
			if refusal(err) != "not written by portmon" {
				t.Errorf("%.20q: %v", data, err)
			}
		}
		if contents(t, path) != data {
			t.Errorf("%.20q was changed", data)
		}
	}
}

// There is no file, or nothing in it.
func TestMissing(t *testing.T) {
	for _, data := range []string{"", "\n \t\r\n", "\x00\x00\x00", strings.Repeat("\x00", 1<<20), "gone"} {
		path := statePath(t)
		if data != "gone" {
			overwrite(t, path, data)
		}
		if report := mustRead(t, config(path, 0)); !report.Missing || report.String() != "" {
			t.Errorf("%.5q: %+v", data, report)
		}
		b := open(t, config(path, 0))
		put(t, b, sample...)
		mustSync(t, b, clock)
		mustRead(t, config(path, 0), sample...)
		if _, err := os.Stat(path + ".bad"); err == nil {
			t.Error("nothing was kept as .bad")
		}
	}
	if b, report, err := Read(config("/nonexistent/folder/state.jsonl", 0)); err != nil || !report.Missing || b.Len() > 0 {
		t.Errorf("%+v, %v", report, err)
	}
	if _, _, err := Read(config("state.jsonl", 0)); err == nil {
		t.Error("a relative path was read")
	}
}
