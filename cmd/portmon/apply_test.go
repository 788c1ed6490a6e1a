package main

import (
	"testing"

	"github.com/portmon/portmon/internal/text"
)

func TestPlural(t *testing.T) {
	for n, want := range map[int]string{0: "0 bans", 1: "1 ban", 2: "2 bans"} {
		if got := text.Plural(n, "ban"); got != want {
			t.Errorf("%d: %s", n, got)
		}
	}
}
