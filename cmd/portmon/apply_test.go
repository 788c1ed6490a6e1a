package main

import (
	"io"
	"strings"
	"testing"

	"github.com/portmon/portmon/internal/text"
)

func TestComments(t *testing.T) {
	var b strings.Builder
	w := &commentWriter{w: &b}
	for _, part := range []string{"one\ntwo", " and", "\n", "\n", "three\nfour"} {
		if n, err := io.WriteString(w, part); n != len(part) || err != nil {
			t.Fatal(n, err)
		}
	}
	if got, want := b.String(), "# one\n# two and\n# \n# three\n# four"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// A long line is folded between words, and none is lost.
func TestCommentsAreFolded(t *testing.T) {
	text := strings.Repeat("192.0.2.1, ", 10000) + "\nend\n"
	var b strings.Builder
	if n, err := io.WriteString(&commentWriter{w: &b}, text); n != len(text) || err != nil {
		t.Fatal(n, err)
	}
	lines := strings.Split(strings.TrimSuffix(b.String(), "\n"), "\n")
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
