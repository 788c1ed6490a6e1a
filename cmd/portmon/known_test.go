package main

import (
	"net/netip"
	"testing"
	"time"

	"github.com/portmon/portmon/internal/book"
	"github.com/portmon/portmon/nftset"
	"github.com/portmon/portmon/ruleset"
)

// What is known of a source is said of the ban that it is about, and of no
// other.
func TestKnowledgeIsOfTheBan(t *testing.T) {
	source := netip.MustParsePrefix("203.0.113.7/32")
	clock := book.Clock{Boot: book.Moment(10 * day), Wall: testNow}
	known := book.Row{
		Source: source, Banned: true, Timeout: 3 * day, Until: clock.Boot.Add(2 * day), Step: 2, StepUntil: clock.Boot.Add(30 * day),
		Cause: ruleset.CauseTrap, Offences: 2, Last: clock.Boot.Add(-day), Proto: 6, Port: 23,
	}
	for name, tt := range map[string]struct {
		change func(*book.Row, *ban)
		want   int
	}{
		"the same ban":           {func(*book.Row, *ban) {}, 2},
		"another source":         {func(_ *book.Row, b *ban) { b.prefix = netip.MustParsePrefix("203.0.113.8/32") }, 0},
		"a later ban":            {func(_ *book.Row, b *ban) { b.Remaining += 3 * time.Second }, 0},
		"an earlier ban":         {func(_ *book.Row, b *ban) { b.Remaining -= 3 * time.Second }, 0},
		"free when it was saved": {func(r *book.Row, _ *ban) { r.Banned = false }, 0},
		"by hand":                {func(r *book.Row, _ *ban) { r.ByHand = true }, 0},
		"for ever":               {func(_ *book.Row, b *ban) { b.Remaining = 0 }, 0},
	} {
		row, b := known, aBan("ban4", 2, ruleset.CauseTrap, source.String(), 3*day, 2*day-time.Hour, "")
		b.read = testNow.Add(time.Hour)
		tt.change(&row, &b)
		k := &knowledge{book.New(0), clock, false}
		k.Put(row)
		got := k.explain(b)
		if offences := 0; (got.known != nil) != (tt.want > 0) {
			t.Errorf("%s: %d offences, want %d", name, offences, tt.want)
		} else if got.known != nil && (got.known.Offences != tt.want || got.remark() != "tcp/23, 2 offences") {
			t.Errorf("%s: %+v", name, got.known)
		}
	}
	var none *knowledge
	if got := none.explain(ban{Entry: ruleset.Entry{Element: nftset.Element{Remaining: time.Hour}}}); got.known != nil {
		t.Error("nothing is known, but of this ban")
	}
}
