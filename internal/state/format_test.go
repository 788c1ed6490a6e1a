package state

import (
	"bytes"
	"flag"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/portmon/portmon/internal/ledger"
)

var update = flag.Bool("update", false, "write the golden file")

const golden = "testdata/version1.jsonl"

// The format is what it was. A change to the golden file is a change that portmons in the field will meet.
func TestGolden(t *testing.T) {
	got := encoded(header, sample...)
	if *update {
		if err := os.WriteFile(golden, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if d := diff(string(want), string(got)); d != "" {
		t.Errorf("(-golden +written)\n%s", d)
	}
	h, records, report, err := decode(want)
	if err != nil || report.Condition != Whole || report.String() != "" {
		t.Errorf("reading it: %v, %v", report, err)
	}
	if d := diff(header, h) + diff(sample, records); d != "" {
		t.Errorf("(-want +read)\n%s", d)
	}
}

// Whatever is written is read again, to the millisecond.
func TestRoundTrip(t *testing.T) {
	rng := random(t)
	for range 500 {
		h := Header{ledger.Now{Wall: time.UnixMilli(rng.Int64N(4e12)).UTC()}, Origin{Table: rng.Uint64()}}
		h.Saved.Mono = ledger.Instant(rng.Int64N(1e9)) * 1e6
		var records []Record
		for range rng.IntN(4) {
			r := sample[rng.IntN(len(sample))]
			if r.Timeout > 0 {
				r.Timeout = time.Duration(1+rng.Int64N(3e11)) * time.Millisecond
				r.Left = time.Duration(rng.Int64N(3e11)) * time.Millisecond
			}
			if r.Offences > 0 {
				r.Age = time.Duration(rng.Int64N(3e11)) * time.Millisecond
			}
			records = append(records, r)
		}
		got, list, report, err := decode(encoded(h, records...))
		if err != nil || report.Condition != Whole {
			t.Fatalf("%v, %v", report, err)
		}
		if d := diff(h, got) + diff(records, list); d != "" {
			t.Fatalf("(-written +read)\n%s", d)
		}
	}
}

// What is finer than a millisecond is rounded, and a comment is cut to what the kernel takes.
func TestRounding(t *testing.T) {
	h := header
	h.Saved.Wall = h.Saved.Wall.Add(999 * time.Microsecond)
	r := sample[0]
	r.Left, r.Age = r.Left+400*time.Microsecond, r.Age+600*time.Microsecond
	r.Comment = strings.Repeat("ü", 127)
	file := encoded(h, r)
	if n := bytes.Count(file, []byte("ü")); n != 126 {
		t.Errorf("%d characters were written", n)
	}
	got, records, _, err := decode(file)
	if err != nil || len(records) != 1 {
		t.Fatalf("%d records, %v", len(records), err)
	}
	want := sample[0]
	want.Age += time.Millisecond
	want.Comment = strings.Repeat("ü", 126)
	if d := diff(header, got) + diff(want, records[0]); d != "" {
		t.Errorf("(-want +read)\n%s", d)
	}
}

// Lines that an administrator may have edited.
func TestParseRecord(t *testing.T) {
	base := Record{Prefix: prefix("203.0.113.7/32"), Banned: true, Tier: 1, Timeout: time.Hour, Left: 30 * time.Minute}
	with := func(f func(*Record)) *Record {
		r := base
		f(&r)
		return &r
	}
	const until = `"until":"2026-01-18T11:34:26.123Z"`
	const ban = `"tier":1,"timeout_seconds":3600,` + until
	tests := []struct {
		line string
		want *Record // nil: left out
	}{
		{`{"prefix":"203.0.113.7/32",` + ban + `}`, &base},
		{` { "tier" : 1 , "until":"2026-01-18T12:34:26.123+01:00", "timeout_seconds" : 3.6e3, "prefix" : "203.0.113.7/32", "new":[{}] } `, &base},
		{`{"prefix":"2001:db8::7/64",` + ban + `}`, with(func(r *Record) { r.Prefix = prefix("2001:db8::/64") })},
		{`{"prefix":"203.0.113.7/24","tier":0,"timeout_seconds":3600,` + until + `}`, with(func(r *Record) { r.Prefix, r.Tier = prefix("203.0.113.0/24"), 0 })},
		{`{"prefix":"203.0.113.7/32",` + ban + `,"offences":1,"last":"2026-02-18T11:34:26Z"}`, with(func(r *Record) { r.Offences = 1 })},
		{`{"prefix":"203.0.113.7/32",` + ban + `,"last_port":22}`, &base},
		{`{"prefix":"203.0.113.7/32","offences":1,"last":"2026-01-18T11:04:26.123Z",` + until + `}`, &Record{Prefix: base.Prefix, Offences: 1}},
		{`{"prefix":"203.0.113.7/32","tier":1,"timeout_seconds":3600,"until":"9999-12-31T23:59:59Z"}`, with(func(r *Record) { r.Left = maxSeconds * time.Second })},

		{`{"prefix":"203.0.113.7",` + ban + `}`, nil},
		{`{"prefix":"203.0.113.7/33",` + ban + `}`, nil},
		{`{"prefix":"203.0.113.0/24",` + ban + `}`, nil}, // in the set of single addresses
		{`{"prefix":"::ffff:203.0.113.7/128",` + ban + `}`, nil},
		{`{"prefix":"fe80::1%eth0/64",` + ban + `}`, nil},
		{`{` + ban + `}`, nil},
		{`{"prefix":"203.0.113.7/32"}`, nil},
		{`{"prefix":"203.0.113.7/32",` + until + `}`, nil},
		{`{"prefix":"203.0.113.7/32","tier":1,"timeout_seconds":3600}`, nil},
		{`{"prefix":"203.0.113.7/32","tier":1,"timeout_seconds":-1,` + until + `}`, nil},
		{`{"prefix":"203.0.113.7/32","tier":1,"timeout_seconds":315360001,` + until + `}`, nil}, // ten years and a second
		{`{"prefix":"203.0.113.7/32","tier":1,"timeout_seconds":1e300,` + until + `}`, nil},
		{`{"prefix":"203.0.113.7/32","tier":9,"timeout_seconds":1,` + until + `}`, nil},
		{`{"prefix":"203.0.113.7/32","tier":-1,"timeout_seconds":1,` + until + `}`, nil},
		{`{"prefix":"203.0.113.7/32",` + ban + `,"offences":-1}`, nil},
		{`{"prefix":"203.0.113.7/32",` + ban + `,"offences":2147483648,"last":"2026-01-18T11:04:26.123Z"}`, nil},
		{`{"prefix":"203.0.113.7/32",` + ban + `,"offences":1}`, nil},
		{`{"prefix":"203.0.113.7/32",` + ban + `,"last_protocol":"256"}`, nil},
		{`{"prefix":"203.0.113.7/32",` + ban + `,"last_protocol":"tcp","last_port":65536}`, nil},
		{`{"prefix":"203.0.113.7/32",` + ban, nil},
		{`{"prefix":"203.0.113.7/32",` + ban + `}}`, nil},
		{`[]`, nil}, {`null`, nil}, {`1`, nil}, {"\x00\x00", nil},
	}
	for _, tt := range tests {
		var got Record
		err := got.parse([]byte(tt.line), saved.Wall)
		switch {
		case (err == nil) != (tt.want != nil):
			t.Errorf("%s: %+v, %v", tt.line, got, err)
		case err == nil:
			if d := diff(*tt.want, got); d != "" {
				t.Errorf("%s (-want +got)\n%s", tt.line, d)
			}
		}
	}
}

func TestParseHeader(t *testing.T) {
	whole := string(bytes.TrimSpace(header.append(nil)))
	tests := []struct {
		line string
		want string // of the error
	}{
		{whole, ""},
		{strings.Replace(whole, "{", "{\"later\":1, ", 1), ""},
		{`{"version":1,"saved":"2026-01-18T11:04:26Z","format":"portmon-state"}`, ""},
		{strings.Replace(whole, `:1,`, `:2,`, 1), "version 2 of the format, and this portmon knows version 1 only"},
		{`{"format":"portmon-state","version":3,"saved":7}`, "version 3 of the format, and this portmon knows version 1 only"},
		{`{"format":"portmon-state","version":0}`, "no header"},
		{`{"format":"portmon-state","version":1}`, "no header"},
		{`{"format":"portmon-state","version":1,"saved":"2026-01-18T11:04:26Z","uptime_seconds":1e300}`, "no header"},
		{`{"format":"portmon-state","version":1,"saved":"2026-01-18T11:04:26Z","uptime_seconds":-1}`, "no header"},
		{`{"format":"portmon-state","version":1,"saved":"0001-01-02T00:00:00Z"}`, "no header"},
		{`{"format":"portmon-state","version":1,"saved":"2026-01-18T11:04:26Z","netns":-1}`, "no header"},
		{`{"format":"portmon-state","version":1,"saved":"2026-01-18T11:04:26Z","machine":"` + strings.Repeat("x", 65) + `"}`, "no header"},
		{`{"format":"other","version":1,"saved":"2026-01-18T11:04:26Z"}`, "no header"},
		{`{"version":1,"saved":"2026-01-18T11:04:26Z"}`, "no header"},
		{whole[:len(whole)-1], "no header"},
		{``, "no header"},
	}
	for _, tt := range tests {
		var h Header
		err := h.parse([]byte(tt.line))
		if err == nil && tt.want != "" || err != nil && err.Error() != tt.want {
			t.Errorf("%s: %v, want %q", tt.line, err, tt.want)
		}
	}
	var h Header
	if err := h.parse([]byte(whole)); err != nil || h != header {
		t.Errorf("read %+v, %v: want %+v", h, err, header)
	}
	if got := (&Header{Saved: saved}).append(nil); bytes.Contains(got, []byte("machine")) || !slices.Contains(got, '\n') {
		t.Errorf("of nobody knows where: %s", got)
	}
}

func TestOrigin(t *testing.T) {
	change := func(f func(*Origin)) Origin {
		o := origin
		f(&o)
		return o
	}
	tests := []struct {
		name              string
		o                 Origin
		boot, same, other bool
	}{
		{"the same", origin, true, true, false},
		{"another table", change(func(o *Origin) { o.Table = 13 }), true, false, false},
		{"another container", change(func(o *Origin) { o.NetNS = 2 }), true, false, false},
		{"another boot", change(func(o *Origin) { o.Boot = "x" }), false, false, false},
		{"another machine", change(func(o *Origin) { o.Machine = "x" }), true, true, true},
		{"no table", change(func(o *Origin) { o.Table = 0 }), true, false, false},
		{"no namespace", change(func(o *Origin) { o.NetNS = 0 }), true, false, false},
		{"no boot", change(func(o *Origin) { o.Boot = "" }), false, false, false},
		{"no machine", change(func(o *Origin) { o.Machine = "" }), true, true, false},
		{"nothing", Origin{}, false, false, false},
	}
	for _, tt := range tests {
		for _, pair := range [][2]Origin{{origin, tt.o}, {tt.o, origin}, {tt.o, tt.o}} {
			a, b := pair[0], pair[1]
			boot, same, other := tt.boot, tt.same, tt.other
			if a == b { // what is not known does not even equal itself
				boot, same, other = a.Boot != "", a.Boot != "" && a.NetNS != 0 && a.Table != 0, false
			}
			if a.SameBoot(b) != boot || a.SameTable(b) != same || a.otherMachine(b) != other {
				t.Errorf("%s: same boot %v, same table %v, other machine %v", tt.name, a.SameBoot(b), a.SameTable(b), a.otherMachine(b))
			}
		}
	}
}
