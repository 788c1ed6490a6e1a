package main

import (
	"strings"
	"testing"

	"github.com/portmon/portmon/internal/text"
)

func TestComments(t *testing.T) {
	if got, want := comments("one\ntwo and\n\nthree\nfour"), "# one\n# two and\n# \n# three\n# four"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// A long line is cut.
func TestLongCommentsAreCut(t *testing.T) {
	lines := strings.Split(comments(strings.Repeat("192.0.2.1, ", 10000)+"\nend\n"), "\n")
	if len(lines) != 3 || len(lines[0]) > 1010 || !strings.HasSuffix(lines[0], " ...") || lines[1] != "# end" {
		t.Errorf("got %.2000q", lines)
	}
}

func TestPlural(t *testing.T) {
	for n, want := range map[int]string{0: "0 bans", 1: "1 ban", 2: "2 bans"} {
		if got := text.Plural(n, "ban"); got != want {
			t.Errorf("%d: %s", n, got)
		}
	}
}
