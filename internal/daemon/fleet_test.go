package daemon

import (
	"net/netip"
	"path/filepath"
	"testing"

	"github.com/portmon/portmon/internal/fleet"
	"github.com/portmon/portmon/internal/watch"
)

// TestShareUnknownMode has a watcher that does not answer: whether the table
// observes is not known, and nothing is shared.
func TestShareUnknownMode(t *testing.T) {
	t.Parallel()
	member := &fleet.Member{URLs: []string{"tls://127.0.0.1:1"}, Host: "web-1"}
	client := fleet.New(fleet.Config{Member: member, State: filepath.Join(t.TempDir(), "state.jsonl")})
	d := &daemon{watcher: new(watch.Watcher), fleet: client}
	shared, err := d.shareByHand([]netip.Prefix{netip.MustParsePrefix("203.0.113.7/32")})
	if err == nil || len(shared) != 0 {
		t.Errorf("shared %v, %v, though the mode is not known", shared, err)
	}
}
