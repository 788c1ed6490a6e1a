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

// A long line is folded between words, and none is lost.
func TestCommentsAreFolded(t *testing.T) {
	text := strings.Repeat("192.0.2.1, ", 10000) + "\nend\n"
	lines := strings.Split(strings.TrimSuffix(comments(text), "\n"), "\n")
	if len(lines) < 100 || lines[len(lines)-1] != "# end" {
		t.Errorf("%d lines, the last is %q", len(lines), lines[len(lines)-1])
	}
	var words []string
	for _, line := range lines {
		if len(line) > foldColumn+20 || !strings.HasPrefix(line, "# ") {
			t.Errorf("a line of %d columns: %.40q", len(line), line)
		}
		words = append(words, strings.Fields(line[1:])...)
	}
	if strings.Join(words, " ") != strings.Join(strings.Fields(text), " ") {
		t.Error("the words are not those that were written")
	}
}

func TestPlural(t *testing.T) {
	for n, want := range map[int]string{0: "0 bans", 1: "1 ban", 2: "2 bans"} {
		if got := text.Plural(n, "ban"); got != want {
			t.Errorf("%d: %s", n, got)
		}
	}
}
