package book

import (
	"net/netip"
	"testing"
	"time"

	"github.com/portmon/portmon/ruleset"
)

// A record of the table becomes a row of the book, and that the same record
// again, as long as the ladder allows.
func TestRowsAndRecords(t *testing.T) {
	source := netip.MustParsePrefix("203.0.113.7/32")
	spec := ruleset.Default()
	const now = Moment(10 * day)
	full := ruleset.Record{
		Source: source, Banned: true, Timeout: 8 * time.Hour, Remaining: 5 * time.Hour,
		Step: 2, StepRemaining: 20 * day, Cause: ruleset.CauseScan,
	}
	hand := ruleset.Record{Source: source, Banned: true, Cause: ruleset.CauseHand, Comment: "spam"}
	for name, r := range map[string]ruleset.Record{
		"an offender": full, "by hand, for ever": hand,
		"allowed":           {Source: source, Allowed: true, Timeout: day, Remaining: 5 * time.Hour, Cause: ruleset.CauseLogin, Comment: "root"},
		"allowed for ever":  {Source: source, Allowed: true, Cause: ruleset.CauseHand},
		"free, with a step": {Source: source, Step: 1, StepRemaining: day, Cause: ruleset.CauseTrap},
	} {
		row := RowOf(&r, now)
		if got, ok := row.Record(&spec, now); !ok || got != r {
			t.Errorf("%s: became %+v, want %+v", name, got, r)
		}
	}
	row := RowOf(&full, now)
	if got, _ := row.Record(&spec, now.Add(6*time.Hour)); got.Banned || got.Step != 2 {
		t.Errorf("after the ban: %+v", got)
	}
	if _, ok := row.Record(&spec, now.Add(21*day)); ok {
		t.Error("there is something of a row that is over")
	}
	spec.BanTime = []time.Duration{time.Minute}
	if got, _ := row.Record(&spec, now); got.Step != 1 || got.Timeout != time.Minute || got.Remaining != time.Minute {
		t.Errorf("with a shorter ladder: %+v", got)
	}
	row = RowOf(&hand, now)
	if got, _ := row.Record(&spec, now); got.Remaining != 0 || !got.Banned {
		t.Errorf("by hand with a shorter ladder: %+v", got)
	}
	other := Row{Source: source, Banned: true, Timeout: 90 * day, Until: now.Add(80 * day), Cause: ruleset.CauseOther, Step: 1, StepUntil: now.Add(100 * day)}
	if got, _ := other.Record(&spec, now); got.Timeout != 90*day || got.Remaining != 80*day {
		t.Errorf("by another program, for longer than the ladder: %+v", got)
	}
	noted := Row{Source: source, Banned: true, ByHand: true, Cause: ruleset.CauseHand}
	if got, _ := noted.Record(&spec, now); got.Comment != HandComment {
		t.Errorf("by hand, without a comment: %+v", got)
	}
	ending := Row{Source: source, Banned: true, Timeout: day, Until: now.Add(ruleset.MinBanTime - 1)}
	if got, ok := ending.Record(&spec, now); ok {
		t.Errorf("a ban that the kernel could round to one for ever: %+v", got)
	}
}
