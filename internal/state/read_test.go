package state

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"golang.org/x/sys/unix"
)

// checkError wants an error with that text and hint.
func checkError(t *testing.T, err error, text, hint string) {
	t.Helper()
	var e *Error
	if !errors.As(err, &e) || e.Error() != text || e.Hint() != hint {
		t.Errorf("the error is %v (%T), want %s", err, err, text)
		if e != nil {
			t.Errorf("its hint is %q, want %q", e.Hint(), hint)
		}
	}
}

// lines returns a file of the sample, as lines with their newlines: 0 is the header, 7 the end.
func sampleLines() []string { return strings.SplitAfter(string(encoded(header, sample...)), "\n")[:8] }

// edit returns the sample with one line replaced.
func edit(number int, line string) string {
	all := sampleLines()
	all[number-1] = line
	return strings.Join(all, "")
}

func TestConditions(t *testing.T) {
	l := sampleLines()
	whole := strings.Join(l, "")
	huge := strings.Repeat("x", 200_000)
	const at = "2026-01-18T11:04:26Z"
	tests := []struct {
		name, file string
		condition  Condition
		lost       []int // of sample
		says       string
	}{
		{"whole", whole, Whole, nil, ""},
		{"no records", string(encoded(header)), Whole, []int{0, 1, 2, 3, 4, 5}, ""},
		{"empty", "", Empty, []int{0, 1, 2, 3, 4, 5}, "state s is empty: nothing is remembered"},
		{"only the header", l[0], Torn, []int{0, 1, 2, 3, 4, 5}, "state s is damaged: its last line is missing; 0 records were read"},
		{"torn in the header", l[0][:40], Damaged, []int{0, 1, 2, 3, 4, 5}, "state s is damaged: its first line cannot be read, so it is taken as saved at " + at + "; it ends in line 1, before its end; 0 records were read"},
		{"torn in a line", strings.Join(l[:3], "") + l[3][:30], Torn, []int{2, 3, 4, 5}, "state s is damaged: it ends in line 4, before its end; 2 records were read"},
		{"torn after a line", strings.Join(l[:4], ""), Torn, []int{3, 4, 5}, "state s is damaged: its last line is missing; 3 records were read"},
		{"torn in the end", strings.TrimSuffix(whole, `d"}`+"\n")[:len(whole)-9], Torn, nil, "state s is damaged: it ends in line 8, before its end; 6 records were read"},
		{"only a newline is missing", whole[:len(whole)-1], Whole, nil, ""},
		{"garbage", edit(4, "garbage\n"), Damaged, []int{2}, "state s is damaged: line 4 cannot be read; it should have 6 records; 5 records were read"},
		{"a line of zeros", edit(4, strings.Repeat("\x00", 100)+"\n"), Damaged, []int{2}, "state s is damaged: line 4 cannot be read; it should have 6 records; 5 records were read"},
		{"an endless line", edit(4, huge+"\n"), Damaged, []int{2}, "state s is damaged: line 4 cannot be read; it should have 6 records; 5 records were read"},
		{"a line with too much in it", edit(4, strings.Replace(l[3], "{", `{"x":"`+huge[:5000]+`",`, 1)), Damaged, []int{2}, "state s is damaged: line 4 cannot be read; it should have 6 records; 5 records were read"},
		{"a line with much too much in it", edit(4, strings.Replace(l[3], "}", strings.Repeat(" ", 200_000)+"}", 1)), Damaged, []int{2}, "state s is damaged: line 4 cannot be read; it should have 6 records; 5 records were read"},
		{"two lines of garbage", strings.Replace(edit(2, "?\n"), l[4], "??\n", 1), Damaged, []int{0, 3}, "state s is damaged: lines 2 and 5 cannot be read; it should have 6 records; 4 records were read"},
		{"much garbage", edit(7, strings.Repeat("x\n", 13)), Damaged, []int{5}, "state s is damaged: lines 7, 8, 9, 10, 11, 12, 13, 14, 15, 16 and 3 more cannot be read; it should have 6 records; 5 records were read"},
		{"a line is missing", edit(3, ""), Damaged, []int{1}, "state s is damaged: it should have 6 records; 5 records were read"},
		{"edited", edit(2, strings.Replace(l[1], `"last_port":23`, `"last_port": 23`, 1)), Damaged, nil, "state s is damaged: it was edited, or a value in it is damaged; 6 records were read"},
		{"empty lines", edit(2, "\n"+l[1]+" \n"), Damaged, nil, "state s is damaged: it was edited, or a value in it is damaged; 6 records were read"},
		{"more after the end", whole + "garbage\n", Damaged, nil, "state s is damaged: line 9 cannot be read; there is more after its end; 6 records were read"},
		{"zeros after the end", whole + strings.Repeat("\x00", 4096), Damaged, nil, "state s is damaged: there is more after its end; 6 records were read"},
		{"the header is garbage", edit(1, "garbage\n"), Damaged, nil, "state s is damaged: its first line cannot be read, so it is taken as saved at " + at + "; 6 records were read"},
		{"only the end is left", "garbage\n" + l[7], Damaged, []int{0, 1, 2, 3, 4, 5}, "state s is damaged: its first line cannot be read, so it is taken as saved at " + at + "; it should have 6 records; 0 records were read"},
		{"an endless header", edit(1, huge+"\n"), Damaged, nil, "state s is damaged: its first line cannot be read, so it is taken as saved at " + at + "; 6 records were read"},
		{"the header is missing", edit(1, ""), Damaged, nil, "state s is damaged: its first line cannot be read, so it is taken as saved at " + at + "; 6 records were read"},
		{"two headers", edit(2, l[0]+l[1]), Damaged, nil, "state s is damaged: line 2 cannot be read; 6 records were read"},
		{"header and line are garbage", "?\n?\n" + strings.Join(l[2:], ""), Damaged, []int{0}, "state s is damaged: its first line cannot be read, so it is taken as saved at " + at + "; line 2 cannot be read; it should have 6 records; 5 records were read"},
		{"zeros", strings.Repeat("\x00", 8192), Damaged, []int{0, 1, 2, 3, 4, 5}, "state s is damaged: its first line cannot be read, so it is taken as saved at " + at + "; it ends in line 1, before its end; 0 records were read"},
	}
	for _, tt := range tests {
		_, got, report, err := decode([]byte(tt.file))
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		var want []Record
		for i, r := range sample {
			lost := false
			for _, n := range tt.lost {
				lost = lost || n == i
			}
			if !lost {
				want = append(want, r)
			}
		}
		if d := diff(want, got); d != "" {
			t.Errorf("%s: (-want +read)\n%s", tt.name, d)
		}
		if report.Condition != tt.condition || report.String() != tt.says {
			t.Errorf("%s: condition %v\n%s, want %v\n%s", tt.name, report.Condition, report, tt.condition, tt.says)
		}
	}
}

// Of any beginning of a file, every line that is whole is read, and only the whole file passes for whole.
func TestTorn(t *testing.T) {
	whole := encoded(header, sample...)
	for n := range len(whole) {
		h, records, report, err := decode(whole[:n])
		if err != nil {
			t.Fatalf("the first %d bytes: %v", n, err)
		}
		complete := bytes.Count(whole[:n], []byte("\n"))
		if n < len(whole)-1 && whole[n] == '\n' {
			complete++ // all of it but its newline
		}
		want := min(max(0, complete-1), len(sample))
		if len(records) != want || diff(sample[:want], records) != "" && want > 0 {
			t.Fatalf("the first %d bytes: %d records, want %d", n, len(records), want)
		}
		if wantWhole := n == len(whole)-1; (report.Condition == Whole) != wantWhole || (report.String() == "") != wantWhole {
			t.Fatalf("the first %d bytes: %v, %q", n, report.Condition, report)
		}
		if complete > 0 && h != header {
			t.Fatalf("the first %d bytes: the header is %+v", n, h)
		}
	}
}

// Any byte that is changed is noticed; at most one line is lost by it, and by a newline two.
func TestAlteredByte(t *testing.T) {
	whole := encoded(header, sample...)
	for i := range whole {
		for _, b := range []byte{0, '\n', '0', '"', whole[i] ^ 1} {
			if b == whole[i] {
				continue
			}
			altered := bytes.Clone(whole)
			altered[i] = b
			_, records, report, err := decode(altered)
			var version *VersionError
			if errors.As(err, &version) {
				continue // the digit of the version
			}
			if err != nil || report.Condition == Whole && i < len(whole)-1 {
				t.Fatalf("byte %d became %q: %v, %v", i, b, report.Condition, err)
			}
			lost := 1
			if whole[i] == '\n' {
				lost = 2
			}
			if len(records) < len(sample)-lost {
				t.Fatalf("byte %d became %q: %d records are left", i, b, len(records))
			}
		}
	}
}

func TestForeign(t *testing.T) {
	tests := []struct {
		file string
		want string
	}{
		{"127.0.0.1 localhost\n", "not written by portmon"},
		{"x", "not written by portmon"},
		{`{"version": 1, "bans": []}` + "\n", "not written by portmon"},
		{strings.Repeat("x", 3<<20), "not written by portmon"},
		{"\x7fELF\x00\x00\n", "not written by portmon"},
		{strings.Replace(string(encoded(header, sample...)), `"version":1`, `"version":2`, 1), "version 2 of the format, and this portmon knows version 1 only"},
	}
	hints := map[bool]string{
		false: "move it away, or name another file as state under [watch]",
		true:  "update portmon, or move the file away to begin without it",
	}
	path := statePath(t)
	for _, tt := range tests {
		put(t, path, []byte(tt.file))
		_, err := Open(path)
		var version *VersionError
		checkError(t, err, "read state "+path+": "+tt.want, hints[errors.As(err, &version)])
		if contents(t, path) != tt.file {
			t.Error("reading changed the file")
		}
	}
}

func TestOpen(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "state.jsonl")
	h, records, report := read(t, path)
	if h != (Header{}) || records != nil || report.Condition != Missing || report.String() != "no state "+path+": nothing is remembered yet" {
		t.Errorf("a file that is missing: %+v, %v, %v %s", h, records, report.Condition, report)
	}
	if _, _, report := read(t, filepath.Join(dir, "missing", "state.jsonl")); report.Condition != Missing {
		t.Errorf("a directory that is missing: %v", report.Condition)
	}
	put(t, path, nil)
	if _, records, report := read(t, path); records != nil || report.Condition != Empty {
		t.Errorf("an empty file: %v, %v", records, report.Condition)
	}
	const foreign = "move it away, or name another file as state under [watch]"
	_, err := Open(dir)
	checkError(t, err, "read state "+dir+": no regular file", foreign)
	fifo := filepath.Join(dir, "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = Open(fifo)
	checkError(t, err, "read state "+fifo+": no regular file", foreign)
	link := filepath.Join(dir, "link")
	if err := os.Symlink("nowhere", link); err != nil {
		t.Fatal(err)
	}
	_, err = Open(link)
	checkError(t, err, "read state "+link+": a link to nowhere: file does not exist", "")
	_, err = Open(path + "/x")
	checkError(t, err, "read state "+path+"/x: stat "+path+"/x: not a directory", "name another file as state under [watch]")
}

// With its header lost, a state counts as saved when the file was written.
func TestHeaderLost(t *testing.T) {
	path := statePath(t)
	put(t, path, []byte(edit(1, "garbage\n")))
	written := time.Date(2026, 1, 18, 12, 0, 0, 0, time.UTC)
	for _, tt := range []struct{ modified, want time.Time }{
		{written, written},
		{time.Date(1969, 1, 1, 0, 0, 0, 0, time.UTC), time.Unix(0, 0)},
	} {
		if err := os.Chtimes(path, tt.modified, tt.modified); err != nil {
			t.Fatal(err)
		}
		h, records, report := read(t, path)
		if !h.Saved.Wall.Equal(tt.want) || h.Origin != (Origin{}) || !report.HeaderLost || !report.Saved.Equal(tt.want) {
			t.Errorf("the header is %+v, %s", h, report)
		}
		// The end of the ban is what it was.
		want := saved.Wall.Add(sample[0].Left)
		if got := tt.want.Add(records[0].Left); !got.Equal(want) {
			t.Errorf("the ban ends at %v, want %v", got, want)
		}
	}
}

// A disk that cannot be read to the end costs what is behind, and no more.
func TestReadError(t *testing.T) {
	whole := encoded(header, sample...)
	broken := io.MultiReader(bytes.NewReader(whole[:len(whole)/2]), iotest.ErrReader(unix.EIO))
	f, err := newFile(seeker{broken}, time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for r := range f.Records() {
		if d := diff(sample[n], r); d != "" {
			t.Error(d)
		}
		n++
	}
	f.report.Path = "s"
	want := fmt.Sprintf("state s is damaged: it cannot be read to the end: input/output error; %d records were read", n)
	if r := f.Report(); n < 2 || r.Condition != Damaged || !errors.Is(r.Err, unix.EIO) || r.String() != want {
		t.Errorf("%d records: %s", n, r)
	}
	if _, err := newFile(seeker{iotest.ErrReader(unix.EIO)}, time.Time{}); !errors.Is(err, unix.EIO) {
		t.Errorf("without a header: %v", err)
	}
}

// seeker makes an io.ReadSeeker of a reader in which nobody needs to seek.
type seeker struct{ io.Reader }

func (seeker) Seek(int64, int) (int64, error) { return 0, errors.ErrUnsupported }

// Whoever stops in the middle gets no verdict, and no panic.
func TestStopReading(t *testing.T) {
	f, err := newFile(bytes.NewReader(encoded(header, sample...)), time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	for range f.Records() {
		break
	}
	if r := f.Report(); r.Records != 1 {
		t.Errorf("%d records", r.Records)
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
}
