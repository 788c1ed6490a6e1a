package book

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The file is cut off anywhere. Whatever was whole before is read; the rest is
// dropped without a word, and what is appended next does not stick to it.
func TestTorn(t *testing.T) {
	path := written(t, sample...)
	whole := contents(t, path)
	for size := len(whole) - 1; size > 0; size -= 7 {
		overwrite(t, path, whole[:size])
		rows := strings.Count(whole[:size], "\n") - 1
		b, report, err := Open(config(path, 0))
		if err != nil {
			t.Fatalf("%d bytes: %v", size, err)
		}
		lastWhole := strings.HasSuffix(whole[:size], "}") // all but the newline
		if lastWhole {
			rows++
		}
		if b.Len() != max(0, rows) || report.Torn != (whole[size-1] != '\n') || report.String() != "" {
			t.Fatalf("%d bytes: %d rows, want %d: %+v", size, b.Len(), rows, report)
		}
		put(t, b, hourly(1))
		mustSync(t, b, clock)
		b.Close()
		after, report, err := Read(config(path, 0))
		if err != nil || report.BadLines > 0 || report.Torn || after.Len() != max(0, rows)+1 {
			t.Fatalf("%d bytes: %+v, %v", size, report, err)
		}
	}
	if _, err := os.Stat(path + ".bad"); err == nil {
		t.Error("a torn file was kept as .bad")
	}
	// Nor does what Amend appends.
	overwrite(t, path, whole[:len(whole)-5])
	if err := amend(config(path, 0), []Row{hourly(1)}, nil); err != nil {
		t.Fatal(err)
	}
	if after, report, _ := Read(config(path, 0)); report.BadLines > 0 || after.Len() != len(sample) {
		t.Errorf("%+v", report)
	}
}

func TestDamage(t *testing.T) {
	path := written(t, sample...)
	good := strings.SplitAfter(contents(t, path), "\n")
	header, rows := good[0], good[1:len(good)-1]
	for name, test := range map[string]struct {
		lines    []string
		bad, at  int
		rows     int
		sentence string
	}{
		"garbage":      {append([]string{header, "garbage\n"}, rows...), 1, 2, 7, "lines skipped: 1, the first of them line 2; rows read: 7"},
		"zeros":        {append([]string{header, rows[0], strings.Repeat("\x00", 100) + "\n"}, rows[1:]...), 1, 3, 7, ""},
		"long":         {append([]string{header, `{"prefix":"` + strings.Repeat("1", 1<<20) + "\n"}, rows...), 1, 2, 7, ""},
		"spaces":       {append([]string{header, strings.Replace(rows[0], ":", ":"+strings.Repeat(" ", 5000), 1)}, rows[1:]...), 1, 2, 6, ""},
		"no header":    {rows, 1, 1, 7, ""},
		"bad header":   {append([]string{"\x7f" + header}, rows...), 1, 1, 7, ""},
		"no end":       {append([]string{header, `{"prefix":"192.0.2.1/32","timeout_seconds":5}` + "\n"}, rows...), 1, 2, 7, ""},
		"bad date":     {append([]string{header, `{"prefix":"192.0.2.1/32","permanent":true,"last":"2026-13-01T00:00:00Z"}` + "\n"}, rows...), 1, 2, 7, ""},
		"year 9999":    {append([]string{header, strings.Replace(header, "2026", "9999", 1)}, rows...), 1, 2, 7, ""},
		"glued":        {append([]string{header, rows[0][:20] + rows[1]}, rows[2:]...), 1, 2, 5, ""},
		"tier":         {append([]string{header, `{"prefix":"192.0.2.1/32","tier":256}` + "\n"}, rows...), 1, 2, 7, ""},
		"free and bad": {append([]string{header, rows[0], `{"prefix":"nobody","free":true}` + "\n"}, rows[1:]...), 1, 3, 7, ""},
		"free?":        {append([]string{header, rows[0], `{"prefix":"192.0.2.1/32","free":1}` + "\n"}, rows[1:]...), 1, 3, 7, ""},
		"much":         {append([]string{header, strings.Repeat("x\n", 5000)}, rows...), 5000, 2, 7, ""},
	} {
		data := strings.Join(test.lines, "")
		overwrite(t, path, data)
		os.Chtimes(path, clock.Wall, clock.Wall)
		os.Remove(path + ".bad")
		b, report, err := Open(config(path, 0))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if report.BadLines != test.bad || report.FirstBad != test.at || b.Len() != test.rows || !strings.HasSuffix(report.String(), test.sentence) || report.String() == "" {
			t.Errorf("%s: %d rows, %+v, %s", name, b.Len(), report, report)
		}
		if contents(t, path) != data {
			t.Errorf("%s: written without a change", name)
		}
		put(t, b, hourly(1))
		mustSync(t, b, clock)
		b.Close()
		if contents(t, path+".bad") != data {
			t.Errorf("%s: not kept", name)
		}
		if after, report, err := Read(config(path, 0)); err != nil || report.BadLines > 0 || after.Len() != test.rows+1 {
			t.Errorf("%s: %+v, %v", name, report, err)
		}
		if got := listing(t, filepath.Dir(path)); got != "state.jsonl state.jsonl.bad state.jsonl.lock" {
			t.Errorf("%s: %s", name, got)
		}
	}
}

// What a damaged line seems to say does not replace what a whole one says.
func TestDamagedValue(t *testing.T) {
	const date = `"2026-01-18T20:04:26Z"`
	ban := func(rest string) string { return `{"prefix":"192.0.2.1/32",` + rest + `}` }
	path := written(t)
	for _, line := range []string{
		ban(`"free":1`), ban(`"free":maybe`), ban(`"free":"true"`), ban(`"free":T`), ban(`"free":null`), ban(`"free":TRUE`),
		ban(`"permanent":"T"`), ban(`"permanent":t`), ban(`"permanent":0`),
		`{"prefix":192.0.2.1/32,"free":true}`, `{"prefix":192.0.2.1/32","free":true}`, `{"prefix":"192.0.2.1/32,"free":true}`,
		`{"prefix":""192.0.2.1/32"","free":true}`, `{"prefix":null,"free":true}`, `{prefix:"192.0.2.1/32","free":true}`,
		ban(`"timeout_seconds":NaN,"until":` + date), ban(`"timeout_seconds":Inf,"until":` + date),
		ban(`"timeout_seconds":-1,"until":` + date), ban(`"timeout_seconds":1e300,"until":` + date),
		ban(`"timeout_seconds":0x10,"until":` + date), ban(`"timeout_seconds":"60","until":` + date),
		ban(`"timeout_seconds":3153600001,"until":` + date), ban(`"timeout_seconds":0,"until":` + date),
		ban(`"timeout_seconds":60,"until":2026-01-18T20:04:26Z`), ban(`"timeout_seconds":60,"until":null`),
		ban(`"permanent":true,"tier":"1"`), ban(`"permanent":true,"tier":1.5`), ban(`"permanent":true,"offences":-1`),
		ban(`"permanent":true,"last_protocol":256`), ban(`"permanent":true,"last_port":65536`),
		ban(`"permanent":true,"cause":hand`), ban(`"permanent":true,"cause":null`), ban(`"permanent":true,"cause":"ha` + "\x00" + `d"`),
		ban(`"permanent":true,"comment":x`), ban(`"permanent":true,"comment":null`), ban(`"permanent":true,"comment":"` + "\x00" + `"`),
		ban(`"permanent":` + "\x00" + `true`), ban(`"permanent":true,`), ban(`"permanent":true,future:1`), ban(`"permanent":true,"future":`),
		ban(`"permanent":true,"future":{`), ban(`"permanent":true,"future":[1,2}`), ban(`"permanent":true,"future":maybe`),
		ban(`"permanent":true,"fut` + "\x00" + `re":1`), ban(`"permanent":true`) + "}", ban(`"permanenu":true`), `{"prefix":"192.0.2.1/32"}`,
	} {
		data := contents(t, written(t, sample[0])) + ban(`"permanent":true,"comment":"kept"`) + "\n"
		overwrite(t, path, data+line+"\n")
		b, report, err := Read(config(path, 0))
		if err != nil {
			t.Fatal(err)
		}
		if row, _ := b.Get(prefix("192.0.2.1/32")); report.BadLines != 1 || report.FirstBad != 4 || row.Comment != "kept" {
			t.Errorf("%q: %+v, %+v", line, row, report)
		}
	}
}

// Without a header, the dates are as of when the file was last written.
func TestHeaderLost(t *testing.T) {
	path := written(t, sample...)
	_, rows, _ := strings.Cut(contents(t, path), "\n")
	overwrite(t, path, rows)
	if err := os.Chtimes(path, clock.Wall, clock.Wall); err != nil {
		t.Fatal(err)
	}
	c := config(path, 0)
	c.Here.Boot = ""
	mustRead(t, c, sample...)
}

// A file that grows beyond all bounds is not read.
func TestTooLarge(t *testing.T) {
	path := written(t, sample...)
	if err := os.Truncate(path, 1<<40); err != nil {
		t.Fatal(err)
	}
	_, _, openErr := Open(config(path, 1000))
	_, _, readErr := Read(config(path, 1000))
	for _, err := range []error{openErr, readErr, amend(config(path, 1000), sample[:1], nil)} {
		if refusal(err) != path+" is too large" {
			t.Error(err)
		}
	}
}

// Another machine's rows, or another network namespace's, are read and
// reported. Cleared, the file is kept.
func TestOrigin(t *testing.T) {
	for what, change := range map[string]func(*Origin){
		"machine":           func(o *Origin) { o.Machine = "other" },
		"network namespace": func(o *Origin) { o.NetNS = 9 },
	} {
		path := written(t, sample...)
		before := contents(t, path)
		c := config(path, 0)
		change(&c.Here)
		b, report, err := Open(c)
		if err != nil {
			t.Fatal(err)
		}
		origin, ok := report.Origin.(*OriginError)
		if !ok || origin.What != what || b.Len() != len(sample) {
			t.Errorf("%s: %d rows, %v", what, b.Len(), report.Origin)
		}
		b.Close()
		if err := amend(c, sample[:1], nil); err == nil || contents(t, path) != before {
			t.Errorf("%s: amended", what)
		}
		b = open(t, c)
		b.Clear()
		put(t, b, sample[0])
		mustSync(t, b, clock)
		b.Close()
		if report := mustRead(t, c, sample[0]); report.Origin != nil || contents(t, path+".bad") != before {
			t.Errorf("%s: %v", what, report.Origin)
		}
	}
	// Over a reboot it is not known which network namespace is which.
	c := config(written(t, sample...), 0)
	c.Here.Boot, c.Here.NetNS = "next", 9
	if _, report, err := Read(c); err != nil || report.Origin != nil {
		t.Errorf("%v, %v", report.Origin, err)
	}
}
