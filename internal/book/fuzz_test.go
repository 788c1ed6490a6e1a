package book

import (
	"bytes"
	"slices"
	"strings"
	"testing"
	"time"
)

// Whatever a file has in it, reading it ends, no row is beyond its bounds, and
// what is written of it reads the same.
func FuzzRead(f *testing.F) {
	var whole bytes.Buffer
	if err := Encode(&whole, config("", 0).Here, clock, slices.Values(sample)); err != nil {
		f.Fatal(err)
	}
	f.Add(whole.Bytes(), false)
	f.Add([]byte(strings.Replace(whole.String(), `"boot_id":"b"`, `"boot_id":"a"`, 1)+whole.String()), true)
	f.Add([]byte(whole.String()+`{"prefix":"203.0.113.7/32","free":true}`+"\n"+`{"prefix":"203.0.113.7/32","merge":true,"tier":3}`+"\n"), true)
	f.Add([]byte(`{"format":"portmon-state","version":1,"saved":"8999-12-31T23:59:59Z"}`+"\n"+`{"prefix":"::/0","timeout_seconds":1e9,"until":"0001-01-01T00:00:01Z"}`), false)
	head, _, _ := strings.Cut(whole.String(), "\n")
	f.Add([]byte(head+"\n"+`{"prefix":"::/0","tier":1,"tier_until":"2027-01-01T00:00:00Z","first":"0001-01-01T00:00:01Z","last":"2026-01-01T00:00:00Z"}`+"\n"), true)
	f.Fuzz(func(t *testing.T, data []byte, reboot bool) {
		c := config("", 20)
		if reboot {
			c = boot(c, time.Hour)
		}
		b := New(c.MaxRows)
		report, err := b.load(bytes.NewReader(data), c, nil)
		if err != nil {
			return
		}
		if b.Len() > 20 || report.Rows != b.Len() {
			t.Fatalf("%d rows, %+v", b.Len(), report)
		}
		for r := range b.Rows() {
			if _, ok := r.normalize(); !ok || r.Remaining(c.Now.Boot) > r.Timeout || r.First > c.Now.Boot || r.Last > c.Now.Boot {
				t.Errorf("%+v", r)
			}
			if !r.BannedAt(c.Now.Boot) && r.StepAt(c.Now.Boot) == 0 {
				t.Errorf("there is nothing to remember in %+v", r)
			}
		}
		var again bytes.Buffer
		if err := Encode(&again, c.Here, c.Now, b.Rows()); err != nil {
			t.Fatal(err)
		}
		copied, report, err := Decode(&again, c)
		if err != nil || report.BadLines > 0 {
			t.Fatalf("%+v, %v", report, err)
		}
		for r := range copied.Rows() {
			old, _ := b.Get(r.Source)
			if !old.same(&r) {
				t.Errorf("was %+v, is %+v", old, r)
			}
		}
	})
}
