package state

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"
)

// seeds are files, whole and damaged.
func seeds() [][]byte {
	whole := encoded(header, sample...)
	all := [][]byte{whole, encoded(header), {}, whole[:len(whole)/2], bytes.Repeat([]byte{0}, 5000)}
	for i, line := range sampleLines() {
		all = append(all, []byte(line), []byte(edit(i+1, "garbage\n")), []byte(edit(i+1, strings.ToUpper(line))), []byte(edit(i+1, line+line)))
	}
	for _, s := range []string{
		`{"format":"portmon-state","version":2}`, "127.0.0.1 localhost\n", "{}\n", "[[[[[[[[[\n",
		`{"format":"portmon-state","version":1,"saved":"8999-12-31T23:59:59.999Z","uptime_seconds":3e9}` + "\n" + sampleLines()[1],
		`{"format":"portmon-state","version":1,"saved":"1970-01-01T00:00:00-23:59"}` + "\n" + sampleLines()[2],
		headerStart + "}\n" + `{"prefix":"::/0","permanent":true,"reason":"` + strings.Repeat("\\u2028", 300) + `"}` + "\n",
	} {
		all = append(all, []byte(s))
	}
	return all
}

// checkRead reads anything. What it gets out of it makes sense, and survives being written and read again.
func checkRead(t *testing.T, data []byte) (records int, ok bool) {
	for line := range bytes.Lines(data) {
		checkScan(t, line)
	}
	h, list, report, err := decode(data)
	if err != nil {
		return 0, false
	}
	if report.Records != len(list) || (report.Condition == Whole) != (report.String() == "") || strings.ContainsAny(report.String(), "\n\x00") {
		t.Fatalf("%d records, %v: %q", len(list), report.Condition, report)
	}
	for _, r := range list {
		if err := r.check(); err != nil || r.Age < 0 || len(r.Comment) > maxComment || !r.Banned && r.Left > 0 {
			t.Fatalf("%+v: %v", r, err)
		}
	}
	if report.Condition == Empty {
		return 0, true
	}
	again, rest, report, err := decode(encoded(h, list...))
	if err != nil || report.Condition != Whole {
		t.Fatalf("written again: %v, %s", err, report)
	}
	if d := diff(list, rest); d != "" || again.Origin != h.Origin || h.Saved.Wall.Sub(again.Saved.Wall).Abs() >= time.Millisecond {
		t.Fatalf("%+v became %+v\n%s", h, again, d)
	}
	p := later(0, rebooted)
	p.Adopt = true
	r := restore(t, h, p, newLedger(), list...)
	for _, b := range r.Bans {
		if b.Left < 0 || b.Left > b.Timeout || b.Timeout > 0 && b.Left < minLeft || b.Tier > len(ladder) || b.Tier > 0 && !b.ByHand && b.Left > ladder[b.Tier-1] {
			t.Fatalf("to put back: %+v", b)
		}
	}
	return len(list), true
}

// checkScan wants the fast way to read a line to find what the slow one finds.
func checkScan(t *testing.T, line []byte) bool {
	var fast, slow rawRecord
	if !fast.scan(line) {
		return false
	}
	if err := json.Unmarshal(line, &slow); err != nil || fast != slow {
		t.Fatalf("%q: %+v, but JSON has %+v, %v", line, fast, slow, err)
	}
	return true
}

// Lines as they are written are read the fast way.
func TestScan(t *testing.T) {
	for i, line := range sampleLines()[1:7] {
		if ascii := i != 3; checkScan(t, []byte(line)) != ascii {
			t.Errorf("%s is read the wrong way", line)
		}
	}
	// What JSON does not have, and what it has and is not written.
	for _, line := range []string{
		`{"tier":01}`, `{"tier":+1}`, `{"tier":-1}`, `{"tier":1.5}`, `{"tier":}`, `{"tier":1e3}`, `{"tier":0x1}`, `{"tier":"1"}`, `{"tier":1}}`, `{"tier":1},`,
		`{"timeout_seconds":NaN}`, `{"timeout_seconds":1.}`, `{"timeout_seconds":.5}`, `{"timeout_seconds":00.5}`, `{"timeout_seconds":1_0}`,
		`{"permanent":false}`, `{"permanent":True}`, `{"by_hand":false}`, `{"last_port":65536}`, `{"last_port":-1}`, `{"offences":99999999999999999999}`,
		`{"reason":"\u0041"}`, "{\"reason\":\"\x01\"}", "{\"reason\":\"\xff\"}", `{"reason":"}`, `{"reason":1}`, `{"reason"}`, `{"until":"now"}`,
		`{"until":"2026-01-18T11:04:26Z"}`, `{"last":"2026-01-18T11:04:26.123+00:00"}`, `{"prefix":"x"}`, `{"x":1}`, `{"x":"1"}`,
		`{"tier":1,}`, `{,"tier":1}`, `{"tier": 1}`, ` {"tier":1}`, `{}`, `{`, ``, `"tier":1}`, `{tier:1}`,
	} {
		if checkScan(t, []byte(line)) {
			t.Errorf("%s is read the fast way", line)
		}
	}
}

func FuzzRead(f *testing.F) {
	for _, seed := range seeds() {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, data []byte) { checkRead(t, data) })
}

// The seeds are there, and every outcome is among them.
func TestFuzzSeeds(t *testing.T) {
	records, read, refused := 0, 0, 0
	for _, seed := range seeds() {
		n, ok := checkRead(t, seed)
		if records += n; ok {
			read++
		} else {
			refused++
		}
	}
	if read+refused != 44 || read < 35 || refused < 4 || records < 150 {
		t.Errorf("%d seeds were read, with %d records, and %d refused", read, records, refused)
	}
}
