package notice

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/portmon/portmon/internal/watch"
)

// What is documented is what a command gets.
func TestVariables(t *testing.T) {
	e := Event{
		Kind: watch.Banned, Prefix: netip.MustParsePrefix("203.0.113.7/32"), Cause: "trap", Tier: 1, Proto: 6, Port: 23, Offences: 1,
		Until: time.Now().Add(time.Hour), Reason: "abuse",
	}
	got := environ(&notice{event: &e, title: "a title", message: "a message", priority: 2, host: "host", count: 1})
	if len(got) != len(Variables) {
		t.Errorf("a command gets %d variables, and %d are documented", len(got), len(Variables))
	}
	for i, v := range Variables {
		if i < len(got) && !strings.HasPrefix(got[i], v.Name+"=") {
			t.Errorf("a command gets %s, documented is %s", got[i], v.Name)
		}
	}
}
