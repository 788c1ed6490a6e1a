package stats

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/portmon/portmon/internal/book"
	"github.com/portmon/portmon/internal/folder"
	"github.com/portmon/portmon/internal/geo"
	"github.com/portmon/portmon/ruleset"
)

var noon = time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)

// clock returns a reading of both clocks at a moment.
func clock(at time.Time) book.Clock { return book.Clock{Boot: book.Moment(at.UnixNano()), Wall: at} }

func open(t *testing.T, state string) (*Stats, Report) {
	t.Helper()
	s, report, err := Open(state, book.Here(0), time.UTC, clock(noon), 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s, report
}

func write(t *testing.T, s *Stats, at time.Time) {
	t.Helper()
	if wait := s.Flush(clock(at)); wait != nil {
		if err := wait(); err != nil {
			t.Fatal(err)
		}
	}
}

func read(t *testing.T, state string) *Stats {
	t.Helper()
	s, report, err := Read(state, time.UTC)
	if err != nil || report.String() != "" {
		t.Fatal(err, report)
	}
	return s
}

// total returns the sum of all days.
func total(s *Stats, now time.Time) (c Count) {
	for _, d := range s.Days(keepDays, now) {
		c.Add(&d.Count)
	}
	return c
}

func table(handle uint64, boot string, dropped uint64) Table {
	return Table{
		Origin:   book.Origin{Boot: boot, NetNS: 1, Table: handle},
		Counters: map[string]ruleset.Counter{"dropped": {Packets: dropped, Bytes: 40 * dropped}},
	}
}

// What a counter has grown is added once, whatever becomes of the table.
func TestAddTable(t *testing.T) {
	s := New(time.UTC)
	for i, step := range []struct {
		Table
		fresh bool
		want  uint64
	}{
		{table(1, "a", 100), false, 0}, // it may hold what was counted before
		{table(1, "a", 130), false, 30},
		{table(1, "a", 130), false, 30},
		{table(1, "a", 0), false, 30}, // nft reset counters
		{table(1, "a", 150), false, 180},
		{table(1, "a", 20), false, 200}, // reset, and grown since
		{table(2, "a", 7), true, 207},   // made anew
		{table(2, "a", 9), false, 209},
		{table(2, "b", 50), false, 209}, // the same handle, after a reboot: a saved ruleset
		{table(2, "b", 51), false, 210},
		{table(3, "b", 0), true, 210},
		{table(3, "b", 5), true, 215},
		{Table{}, false, 215}, // none
		{table(3, "b", 6), false, 216},
	} {
		s.AddTable(step.Table, step.fresh, noon)
		if got := total(s, noon); got.Packets["dropped"] != step.want || got.Bytes != 40*step.want {
			t.Fatalf("step %d: got %d packets, %d bytes, want %d packets", i, got.Packets["dropped"], got.Bytes, step.want)
		}
	}
}

// What passed, as the table observed, is counted apart, also if it has enforced
// since; and a file from before that was so is read.
func TestAddObserved(t *testing.T) {
	state := filepath.Join(t.TempDir(), "state.jsonl")
	s, _ := open(t, state)
	in := func(tab Table, observe bool) Table { tab.Observe = observe; return tab }
	for i, step := range []struct {
		Table
		fresh        bool
		want, passed uint64
	}{
		{in(table(1, "a", 5), true), true, 5, 5},
		{in(table(1, "a", 100), true), false, 100, 100},
		{in(table(1, "a", 110), false), false, 110, 110}, // before the change
		{in(table(1, "a", 150), false), false, 150, 110},
		{in(table(1, "a", 151), true), false, 151, 110},
		{in(table(1, "a", 161), true), false, 161, 120},
		{in(table(2, "a", 9), false), true, 170, 120},
	} {
		s.AddTable(step.Table, step.fresh, noon)
		write(t, s, noon)
		for _, got := range []Count{total(s, noon), total(read(t, state), noon)} {
			if got.Packets["dropped"] != step.want || got.Bytes != 40*step.want || got.Passed["dropped"] != step.passed || got.PassedBytes != 40*step.passed {
				t.Fatalf("step %d: got %+v, want %d packets, of which %d passed", i, got, step.want, step.passed)
			}
		}
	}
	if got := total(s, noon); !got.Observed {
		t.Error("it is not known that the table has observed")
	}
	old := `{"format":"portmon-stats","version":1}` + "\n" + `{"hours":{"2026-11-28T12Z":{"packets":{"dropped":7},"observed":true}}}` + "\n"
	s.Close()
	if err := os.WriteFile(Path(state), []byte(old), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := total(read(t, state), noon); got.Packets["dropped"] != 7 || !got.Observed {
		t.Errorf("of a file from before: %+v", got)
	}
}

// A source counts once an hour, once a day, and once as new.
func TestAddOffence(t *testing.T) {
	s := New(time.FixedZone("", 3600)) // where the day ends at 23:00 UTC
	var before time.Time
	for i, at := range []time.Time{
		noon, noon.Add(time.Minute), noon.Add(time.Hour), noon.Add(11 * time.Hour), // the next day
	} {
		s.AddOffence(Offence{
			At: at, Cause: ruleset.CauseTrap, Step: i + 1, Proto: 6, Port: 23, First: i == 0, Before: before,
			Place: geo.Place{Country: "DE", ASN: 3320, Network: "Deutsche Telekom"},
		})
		before = at
	}
	s.AddOffence(Offence{At: noon, Cause: ruleset.CauseHand})
	days := s.Days(2, noon.Add(12*time.Hour))
	got := fmt.Sprint(days[0].Sources, days[0].New, days[1].Sources, days[1].New, days[0].Ports, days[1].Bans, days[0].Networks)
	if want := "1 1 1 0 map[tcp/23:3] map[trap 4:1] map[AS3320:3]"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if days[0].Bans["hand"] != 1 {
		t.Error("the ban by hand is not counted")
	}
	for at, c := range s.Hours {
		if c.Sources != 1 {
			t.Errorf("%d sources at %v, want 1", c.Sources, at)
		}
	}
	if name := s.NetworkName("AS3320"); name != "Deutsche Telekom" {
		t.Errorf("the network is called %q", name)
	}
}

// A port that is hit often is counted as such, however late it comes and however
// many others there are.
func TestFrequentPortIsNamed(t *testing.T) {
	for _, others := range []int{maxNamed, maxRunning} {
		state := filepath.Join(t.TempDir(), "state.jsonl")
		s, _ := open(t, state)
		hit := func(port int) {
			s.AddOffence(Offence{At: noon, Cause: ruleset.CauseTrap, Step: 1, Proto: 6, Port: uint16(port)})
		}
		for port := range 2 * others {
			hit(1 + port/2)
		}
		for i := range 10_000 {
			hit(5555)
			hit(10_000 + i)
		}
		end := noon.Add(time.Hour)
		s.hour(end) // another one begins
		write(t, s, end)
		ports := read(t, state).hours[hourOf(noon)].Ports
		sum := uint64(0)
		for _, n := range ports {
			sum += n
		}
		if ports["tcp/5555"] < 9_000 || sum != uint64(2*others)+20_000 || len(ports) > maxNamed {
			t.Errorf("%d others before: %v", others, ports)
		}
	}
}

func location(t *testing.T, name string) *time.Location {
	t.Helper()
	zone, err := time.LoadLocation(name)
	if err != nil {
		t.Fatal(err)
	}
	return zone
}

// Each day has its own counts, and its sources once, whatever the zone: that of
// Kolkata is half an hour from UTC, and summer time begins at midnight in Havana.
func TestDaysOfZones(t *testing.T) {
	for _, name := range []string{"Asia/Kolkata", "America/Havana", "Europe/Berlin"} {
		zone := location(t, name)
		s := New(zone)
		want := make(map[string]uint64)
		var before time.Time
		begin := time.Date(2026, 3, 1, 12, 0, 0, 0, zone)
		end := begin.AddDate(0, 1, 0)
		for at := begin; at.Before(end); at = at.Add(20 * time.Minute) {
			s.AddOffence(Offence{At: at, Cause: ruleset.CauseTrap, Step: 1, Proto: 6, Port: 23, Before: before})
			want[at.Truncate(time.Hour).In(zone).Format(time.DateOnly)]++ // an hour is on the day that it begins on
			before = at
		}
		for range 2 { // from hours, and summed up by day
			for _, d := range s.Days(32, end) {
				date := d.Date.Format(time.DateOnly)
				if d.Ports["tcp/23"] != want[date] || d.Sources != 1 {
					t.Errorf("%s, %s: %d offences, want %d, of %d sources", name, date, d.Ports["tcp/23"], want[date], d.Sources)
				}
			}
			s.fold(end)
		}
		s.fold(end.AddDate(0, 0, 30))
		if at := s.Since(); at.Format(time.DateOnly) != "2026-03-01" {
			t.Errorf("%s: since %v", name, at)
		}
	}
	s := New(location(t, "America/Havana"))
	s.day("2026-03-08")
	if at := s.Since(); at.Day() != 8 {
		t.Errorf("the day begins at %v", at)
	}
}

// What is counted before the clock is set is not lost when it is.
func TestClockIsSetLate(t *testing.T) {
	state := filepath.Join(t.TempDir(), "state.jsonl")
	s, _ := open(t, state)
	early := time.Unix(60, 0)
	s.AddTable(table(1, "a", 5000), true, early)
	write(t, s, early)
	s.AddTable(table(1, "a", 5001), false, noon)
	for _, when := range []string{"before it is rewritten", "after"} {
		if n := s.Days(1, noon)[0].Packets["dropped"]; n != 5001 {
			t.Errorf("%s: %d packets, want 5001", when, n)
		}
		s.fold(noon)
	}
}

// A clock that is wrong by years for a while costs nothing of what is kept.
func TestClockIsAhead(t *testing.T) {
	s := New(time.UTC)
	for day := range 30 {
		s.AddTable(table(1, "a", uint64(100*(day+1))), day == 0, noon.AddDate(0, 0, day-29))
	}
	for _, now := range []time.Time{noon.AddDate(0, 0, -3), noon.AddDate(10, 0, 0), noon} {
		s.fold(now)
	}
	for i, d := range s.Days(30, noon) {
		if n := d.Packets["dropped"]; n != 100 {
			t.Errorf("%d days ago: %d packets, want 100", 29-i, n)
		}
	}
}

// 400 days in which as much happens as fits make a file of a few hundred kB,
// all of which is read back.
func TestSize(t *testing.T) {
	state := filepath.Join(t.TempDir(), "state.jsonl")
	s, _ := open(t, state)
	const hours = 430 * 24
	random := rand.New(rand.NewPCG(1, 2))
	packets := uint64(0)
	largest := int64(0)
	for hour := range hours {
		at := noon.Add(time.Duration(hour) * time.Hour)
		for range 20 {
			s.AddOffence(Offence{
				At: at, Cause: ruleset.CauseTrap, Step: 1 + random.IntN(3), Proto: 6, Port: uint16(random.IntN(65536)),
				Place: geo.Place{
					Country: string([]byte{'A' + byte(random.IntN(26)), 'A' + byte(random.IntN(26))}),
					ASN:     10_000 + uint32(random.IntN(60)), Network: "A network with quite a long name",
				},
			})
			var user [16]byte
			user[0] = 0x20
			binary.BigEndian.PutUint64(user[1:], random.Uint64())
			s.AddUser(at, netip.PrefixFrom(netip.AddrFrom16(user), 64).Masked(), 443)
		}
		packets += 1_000_000
		tab := table(1, "a", packets)
		for _, name := range ruleset.Counters() {
			tab.Counters[name] = tab.Counters["dropped"]
		}
		s.AddTable(tab, hour == 0, at)
		if hour%(30*24) > 0 && hour < hours-6*24 {
			continue
		}
		write(t, s, at)
		if info, err := os.Stat(Path(state)); err != nil {
			t.Fatal(err)
		} else {
			largest = max(largest, info.Size())
		}
	}
	t.Logf("%d kB at most", largest/1000)
	if largest > 1_000_000 {
		t.Errorf("the file had %d bytes", largest)
	}
	end := noon.Add((hours - 1) * time.Hour)
	back := read(t, state)
	got, want := total(back, end), total(s, end)
	// Of the first of the days that are kept, the hours come one by one.
	if n := got.Packets["dropped"]; n < 399*24e6 || n > 400*24e6 || !maps.Equal(got.Packets, want.Packets) || !maps.Equal(got.Ports, want.Ports) {
		t.Errorf("%d packets were read back, of %v in 400 days", n, want.Packets)
	}
	offences := uint64(0)
	for _, n := range got.Ports {
		offences += n
	}
	if offences*50_000 != got.Packets["dropped"] {
		t.Errorf("%d offences by port do not belong to %d packets", offences, got.Packets["dropped"])
	}
}

// Whatever becomes of the file, what can be read is, it is said what cannot, and
// the damaged file is kept once.
func TestDamage(t *testing.T) {
	whole := func(t *testing.T) (state string, text []byte) {
		state = filepath.Join(t.TempDir(), "state.jsonl")
		s, _ := open(t, state)
		for i := range 5 {
			at := noon.Add(time.Duration(i) * time.Hour)
			s.AddTable(table(1, "a", 10*uint64(i+1)), i == 0, at)
			write(t, s, at)
		}
		s.Close()
		text, err := os.ReadFile(Path(state))
		if err != nil || bytes.Count(text, []byte("\n")) != 6 {
			t.Fatalf("%v: %s", err, text)
		}
		return state, text
	}
	put := func(t *testing.T, state string, text []byte) {
		if err := os.WriteFile(Path(state), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	after := noon.Add(5 * time.Hour)
	t.Run("torn anywhere", func(t *testing.T) {
		state, text := whole(t)
		lines := bytes.SplitAfter(text, []byte("\n"))
		for cut := len(lines[0]) + len(lines[1]); // which were written as one
		cut <= len(text); cut += 7 {
			put(t, state, text[:cut])
			s, report := open(t, state)
			if report.String() != "" {
				t.Fatalf("cut at %d: %v", cut, report)
			}
			// Whatever was lost with the line is added again.
			s.AddTable(table(1, "a", 60), false, after)
			write(t, s, after)
			s.Close()
			if n := total(read(t, state), after).Packets["dropped"]; n != 60 {
				t.Fatalf("cut at %d: %d packets, want 60", cut, n)
			}
		}
	})
	t.Run("damaged line", func(t *testing.T) {
		state, text := whole(t)
		lines := bytes.SplitAfter(text, []byte("\n"))
		lines[2] = []byte("\x1b[31m nonsense\n")
		lines[3] = append(bytes.Repeat([]byte("x"), 3*maxLine), '\n')
		bad := bytes.Join(lines, nil)
		put(t, state, bad)
		s, report := open(t, state)
		if got := report.String(); !strings.HasSuffix(got, "are damaged: lines skipped: 2, the first of them line 3") {
			t.Fatalf("the report is %q", got)
		}
		s.AddTable(table(1, "a", 60), false, after)
		write(t, s, after)
		if kept, err := os.ReadFile(Path(state) + badSuffix); err != nil || !bytes.Equal(kept, bad) {
			t.Errorf("the damaged file is not kept: %v", err)
		}
		if n := total(read(t, state), after).Packets["dropped"]; n != 40 {
			t.Errorf("%d packets, want 40 of 60: two hours were damaged", n)
		}
	})
	t.Run("removed while it is counted", func(t *testing.T) {
		state, _ := whole(t)
		s, _ := open(t, state)
		if err := os.RemoveAll(filepath.Dir(state)); err != nil {
			t.Fatal(err)
		}
		s.AddTable(table(1, "a", 60), false, after)
		for range 2 {
			if wait := s.Flush(clock(after)); wait != nil {
				_ = wait() // the first does not find the folder
			}
		}
		if n := total(read(t, state), after).Packets["dropped"]; n != 60 {
			t.Errorf("%d packets, want 60", n)
		}
	})
	for name, text := range map[string]string{
		"of another program": "hello\n", "newer": `{"format":"portmon-stats","version":99}` + "\n", "too large": strings.Repeat("\n", maxSize+1),
	} {
		t.Run(name, func(t *testing.T) {
			state := filepath.Join(t.TempDir(), "state.jsonl")
			put(t, state, []byte(text))
			_, _, err := Open(state, book.Here(0), time.UTC, clock(noon), 0)
			if !errors.As(err, new(*folder.RefusedError)) {
				t.Errorf("the error is %v", err)
			}
			if now, err := os.ReadFile(Path(state)); err != nil || string(now) != text {
				t.Errorf("the file is changed: %v", err)
			}
		})
	}
	t.Run("a link", func(t *testing.T) {
		state := filepath.Join(t.TempDir(), "state.jsonl")
		if err := os.Symlink("/etc/passwd", Path(state)); err != nil {
			t.Fatal(err)
		}
		if _, _, err := Open(state, book.Here(0), time.UTC, clock(noon), 0); !errors.As(err, new(*folder.RefusedError)) {
			t.Errorf("the error is %v", err)
		}
	})
}

// Only one process counts; others are told so.
func TestLocked(t *testing.T) {
	state := filepath.Join(t.TempDir(), "state.jsonl")
	open(t, state)
	if _, _, err := Open(state, book.Here(0), time.UTC, clock(noon), 0); !errors.Is(err, folder.ErrLocked) {
		t.Errorf("the error is %v", err)
	}
}

// On a copy of a machine counting begins anew, which is said, and nothing is lost.
func TestClonedMachine(t *testing.T) {
	state := filepath.Join(t.TempDir(), "state.jsonl")
	s, _ := open(t, state)
	tab := table(1, "a", 5)
	tab.Machine = "original"
	s.AddTable(tab, true, noon)
	write(t, s, noon)
	s.Close()
	s, report, err := Open(state, book.Origin{Machine: "copy", Boot: "b"}, time.UTC, clock(noon), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if got, want := report.String(), "statistics "+Path(state)+" are begun anew, and kept as .bad: "+
		"written on another machine (original; this one is copy)"; got != want {
		t.Errorf("the report is %q, want %q", got, want)
	}
	write(t, s, noon)
	if _, err := os.Stat(Path(state) + badSuffix); err != nil || len(read(t, state).hours) > 0 {
		t.Errorf("the file of the original is not kept, or is used: %v", err)
	}
}

func FuzzRead(f *testing.F) {
	f.Add([]byte(`{"format":"portmon-stats","version":1,"table":{"boot_id":"a","netns":1,"table_handle":2,"counters":{"dropped":{"packets":1}}}}
{"hours":{"2026-11-28T12Z":{"packets":{"dropped":1},"ports":{"tcp/23":1}}},"days":{"2026-11-28":null}}
`))
	f.Fuzz(func(t *testing.T, text []byte) {
		s := New(time.UTC)
		var report Report
		if s.read(bytes.NewReader(text), &report) != nil {
			return
		}
		s.AddTable(table(1, "a", 5), false, noon)
		s.AddOffence(Offence{At: noon, Cause: ruleset.CauseScan, Step: 1})
		again := New(time.UTC)
		var second Report
		if err := again.read(bytes.NewReader(s.encode(noon)), &second); err != nil || second.String() != "" {
			t.Fatal(err, second)
		}
		if got, want := fmt.Sprint(again.Days(keepDays, noon)), fmt.Sprint(s.Days(keepDays, noon)); got != want {
			t.Fatalf("got %s, want %s", got, want)
		}
	})
}
