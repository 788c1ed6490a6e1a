package main

import (
	"net/netip"
	"testing"
	"time"

	"github.com/portmon/portmon/internal/ledger"
	"github.com/portmon/portmon/internal/state"
)

// What is known of a source is told of the ban that it is about, and of no other.
func TestKnowledgeAbout(t *testing.T) {
	source := netip.MustParsePrefix("203.0.113.7/32")
	known := state.Record{
		Prefix: source, Banned: true, Tier: 2, Timeout: 3 * day, Left: 2 * day, Offences: 2, Age: day, Proto: 6, Port: 23,
	}
	shown := entry{prefix: source, set: "ban4_2", tier: 2, timeout: 3 * day, expires: 2*day - time.Hour, read: testNow.Add(time.Hour)}
	for name, tt := range map[string]struct {
		change func(*state.Record, *entry)
		want   int
	}{
		"the same ban":           {func(*state.Record, *entry) {}, 2},
		"another source":         {func(_ *state.Record, e *entry) { e.prefix = netip.MustParsePrefix("203.0.113.8/32") }, 0},
		"a shorter tier":         {func(_ *state.Record, e *entry) { e.tier, e.set = 1, "ban4" }, 0},
		"a later ban":            {func(_ *state.Record, e *entry) { e.expires += 3 * time.Second }, 0},
		"an earlier ban":         {func(_ *state.Record, e *entry) { e.expires -= 3 * time.Second }, 0},
		"free when it was saved": {func(r *state.Record, _ *entry) { r.Banned = false }, 0},
		"by hand":                {func(r *state.Record, _ *entry) { r.ByHand = true }, 0},
		"no offence":             {func(r *state.Record, _ *entry) { r.Offences = 0 }, 0},
		"a prefix":               {func(r *state.Record, e *entry) { r.Tier, e.tier, e.set = 0, 0, "net4" }, 0},
	} {
		rec, e := known, shown
		tt.change(&rec, &e)
		k := &knowledge{records: map[netip.Prefix]state.Record{source: rec}, saved: ledger.Now{Wall: testNow}}
		k.about(&e)
		if e.offences != tt.want || (e.port != 0) != (tt.want != 0) {
			t.Errorf("%s: %d offences, port %d, want %d", name, e.offences, e.port, tt.want)
		}
	}
}
