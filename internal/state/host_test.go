package state

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/portmon/portmon/netnstest"
)

func TestHere(t *testing.T) {
	a, b := Here(7), Here(7)
	if a != b || a.Boot == "" || a.NetNS == 0 || !a.SameTable(b) {
		t.Errorf("here is %+v, and then %+v", a, b)
	}
	if other := Here(8); other.SameTable(a) || !other.SameBoot(a) {
		t.Errorf("of another table: %+v", other)
	}
	// A table in a new network namespace has the handle of the one before it.
	var inside Origin
	netnstest.NewHost(t, "container").Do(func() { inside = Here(7) })
	if inside.SameTable(a) || !inside.SameBoot(a) || inside.Machine != a.Machine || inside.NetNS == 0 {
		t.Errorf("in another network namespace: %+v", inside)
	}
}

// The hashes are those of another implementation of HMAC.
func TestMachine(t *testing.T) {
	path := filepath.Join(t.TempDir(), "machine-id")
	if got := machine(path); got != "" {
		t.Errorf("without a file: %q", got)
	}
	for id, want := range map[string]string{
		"0123456789abcdef0123456789abcdef\n": "941fe07344b41a025049a08749bcaa00",
		"0123456789abcdef0123456789abcdee\n": "01188e3b00be5dbc03d0cdab6781411d",
		"uninitialized\n":                    "",
		"0123":                               "",
		"":                                   "",
	} {
		if err := os.WriteFile(path, []byte(id), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := machine(path); got != want {
			t.Errorf("%q: %q, want %q", id, got, want)
		}
	}
}

func TestClock(t *testing.T) {
	a := Clock()
	began := time.Now()
	for time.Since(began) < time.Millisecond {
	}
	b := Clock()
	if mono, wall := b.Mono.Sub(a.Mono), b.Wall.Sub(a.Wall); mono < time.Millisecond || mono-wall > time.Second || wall-mono > time.Second {
		t.Errorf("%v passed by one clock, %v by the other", mono, wall)
	}
}
