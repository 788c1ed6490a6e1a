package events

import (
	"testing"

	"github.com/portmon/portmon/internal/book"
	"github.com/portmon/portmon/internal/watch"
	"github.com/portmon/portmon/ruleset"
)

// TestNamesOfBans shows that a ban has the same name whoever reports it.
func TestNamesOfBans(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		cause    ruleset.Cause
		step     int
		observed bool
		want     string
	}{
		{ruleset.CauseTrap, 1, false, "banned"}, {ruleset.CauseSubnet, 0, false, "banned"}, {ruleset.CauseTrap, 2, false, "escalated"},
		{ruleset.CauseHand, 0, false, "banned_by_hand"}, {ruleset.CauseOther, 0, false, "banned_by_hand"},
		{ruleset.CauseOther, 2, false, "escalated"}, {ruleset.CauseTrap, 3, true, "would_be_escalated"},
	} {
		n := watch.News{Kind: watch.KindOf(tt.cause, tt.step), Cause: tt.cause, Step: tt.step, Observed: tt.observed}
		if e := New(&n, book.ReadClock()); e.Event != tt.want || e.Mode != ruleset.Mode(tt.observed) {
			t.Errorf("%v at step %d: %q, %q, want %q", tt.cause, tt.step, e.Event, e.Mode, tt.want)
		}
	}
}
