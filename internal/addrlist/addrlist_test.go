package addrlist

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/iotest"
)

func TestRead(t *testing.T) {
	const list = "\uFEFF# from somewhere\r\n192.0.2.7\n  198.51.100.0/24 ; SBL1\n\n2001:db8::/32//x\n" +
		"192.0.2.0/255.255.255.128\n192.0.2.1 - 192.0.2.2\nhost.example\n; nothing\n192.0.2.0/33\n::ffff:192.0.2.9"
	const want = `2 192.0.2.7: [192.0.2.7/32]
3 198.51.100.0/24: [198.51.100.0/24]
5 2001:db8::/32: [2001:db8::/32]
6 192.0.2.0/255.255.255.128: [192.0.2.0/25]
7 192.0.2.1 - 192.0.2.2: [192.0.2.1/32 192.0.2.2/32]
8 host.example: misspelled
10 192.0.2.0/33: want a prefix length from 0 to 32 after the slash
11 ::ffff:192.0.2.9: [192.0.2.9/32]
`
	var got strings.Builder
	for e, err := range Read(strings.NewReader(list), 1<<20) {
		switch {
		case err != nil:
			t.Fatal(err)
		case errors.Is(e.Err, ErrSyntax):
			fmt.Fprintf(&got, "%d %s: misspelled\n", e.Line, e.Text)
		case e.Err != nil:
			fmt.Fprintf(&got, "%d %s: %v\n", e.Line, e.Text, e.Err)
		default:
			fmt.Fprintf(&got, "%d %s: %v\n", e.Line, e.Text, e.Prefixes)
		}
	}
	if got.String() != want {
		t.Errorf("got\n%swant\n%s", &got, want)
	}
	// A semicolon that separates entries does not hide the second.
	for text, want := range map[string]string{
		"192.0.2.1;192.0.2.2":                    "want one entry per line",
		"192.0.2.1 ; 192.0.2.2":                  "want one entry per line",
		"192.0.2.1; 192.0.2.2; 192.0.2.3":        "want one entry per line",
		"192.0.2.1; 192.0.2.2;":                  "want one entry per line",
		"192.0.2.1; 192.0.2.2 ; spam":            "want one entry per line",
		"192.0.2.1; 192.0.2.2, 192.0.2.3":        "want one entry per line",
		"192.0.2.1; 192.0.2.2 192.0.2.3":         "want one entry per line",
		"192.0.2.1; 192.0.2.2 - 192.0.2.9; spam": "want one entry per line",
		"192.0.2.1; 192.0.2.2 # spam":            "want one entry per line",
		"192.0.2.1 ; 192.0.2.2 is the gateway":   "",
		"192.0.2.1;;192.0.2.2":                   "",
		"192.0.2.1 ; SBL1 192.0.2.2":             "",
		"192.0.2.1, 192.0.2.2":                   "want one entry per line",
		"192.0.2.1 192.0.2.2":                    "want one entry per line",
	} {
		for e := range Read(strings.NewReader(text), 1<<20) {
			if got := fmt.Sprint(e.Err); got != want && (want != "" || e.Err != nil) {
				t.Errorf("%s: got %q, want %q", text, got, want)
			}
		}
	}
	for _, err := range Read(strings.NewReader(strings.Repeat("#\n", 1<<19)+"#"), 1<<20) {
		if err == nil || err.Error() != "larger than 1 MiB" {
			t.Errorf("one byte more than the limit: got %v", err)
		}
	}
	broken := errors.New("broken")
	for _, err := range Read(iotest.ErrReader(broken), 1<<20) {
		if !errors.Is(err, broken) {
			t.Errorf("got %v", err)
		}
	}
}

// A line that is too long is one that is malformed: the others count, however
// often it fills the buffer.
func TestReadLongLine(t *testing.T) {
	for _, n := range []int{longestLine, 3*longestLine + 1} {
		long := strings.Repeat("x", n)
		for _, text := range []string{long, "# " + long, "192.0.2.9; " + long, strings.Repeat(" ", n), long + "\n192.0.2.3"} {
			list := "192.0.2.1\n" + text + "\n192.0.2.2"
			var got []string
			for e, err := range Read(strings.NewReader(list), 1<<20) {
				if err != nil {
					t.Fatal(err)
				}
				got = append(got, fmt.Sprint(e.Line, e.Prefixes, e.Err))
				if len(e.Text) > 50 {
					t.Errorf("line %d has a text of %d bytes", e.Line, len(e.Text))
				}
			}
			if len(got) < 3 || got[0] != "1 [192.0.2.1/32] <nil>" || got[1] != "2 [] longer than 64 KiB" ||
				!strings.HasSuffix(got[2], "/32] <nil>") || len(got) != strings.Count(list, "\n")+1 {
				t.Errorf("of a line of %.20s…: %q", text, got)
			}
		}
	}
	long := strings.Repeat("x", longestLine-1)
	for e, err := range Read(strings.NewReader("#"+long[1:]+"\n192.0.2.1#"+long[:longestLine-11]+"\n"), 1<<20) {
		if err != nil || e.Line != 2 || e.Err != nil {
			t.Errorf("of lines that are just short enough: %+v, %v", e, err)
		}
	}
}
