package ruleset

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/portmon/portmon/nftset"
)

// TestRecords reads back what was put, each source once.
func TestRecords(t *testing.T) {
	t.Parallel()
	l := newTrap(t, Default())
	put := []Record{
		{Source: prefix("198.51.100.1/32"), Banned: true, Timeout: time.Hour, Remaining: time.Hour, Step: 2, StepRemaining: 2 * time.Hour, Cause: CauseScan},
		{Source: prefix("198.51.100.2/32"), Banned: true, Timeout: time.Hour, Remaining: time.Hour, Comment: "by me", Cause: CauseHand},
		{Source: prefix("198.51.100.3/32"), Step: 1, StepRemaining: time.Hour},
		{Source: prefix("203.0.113.0/24"), Banned: true, Comment: "for ever", Cause: CauseHand},
		{Source: prefix("2001:db8:1:1::/64"), Banned: true, Timeout: time.Hour, Remaining: time.Hour, Step: 3, StepRemaining: 2 * time.Hour, Cause: CauseTrap},
		{Source: prefix("2001:db8:2::/48"), Banned: true, Timeout: time.Hour, Remaining: time.Hour, Cause: CauseSubnet},
	}
	l.put(put...)
	text := func(r Record) string {
		return fmt.Sprintln(r.Source, r.Banned, r.Remaining.Round(time.Minute), r.Step, r.StepRemaining.Round(time.Minute), r.Cause, r.Comment)
	}
	var got, want []string
	for r, err := range l.open().Records() {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, text(r))
	}
	for _, r := range put {
		want = append(want, text(r))
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("got\n%swant\n%s", strings.Join(got, ""), strings.Join(want, ""))
	}
}

// TestBansIn asks for a few addresses, for many, and for prefixes of both
// kinds, and gets what Bans says of them.
func TestBansIn(t *testing.T) {
	t.Parallel()
	l := newTrap(t, Default())
	hour := func(p string, step int, cause Cause) Record {
		return Record{Source: prefix(p), Banned: true, Timeout: time.Hour, Remaining: time.Hour, Step: step, StepRemaining: 2 * time.Hour, Cause: cause}
	}
	l.put(
		hour("198.51.100.1/32", 1, CauseTrap), hour("198.51.100.2/32", 2, CauseScan), hour("198.51.101.1/32", 1, CauseTrap),
		hour("2001:db8:1:1::/64", 3, CauseTrap), hour("2001:db8:1:2::/64", 1, CauseScan), hour("2001:db8:2::/48", 0, CauseSubnet),
	)
	l.ban(time.Hour, "198.51.100.0/25", "2001:db8:1::/49", "203.0.113.0/24")
	h := l.open()
	for _, asked := range []string{
		"198.51.100.1/32", "198.51.100.2/32 198.51.101.1/32", "198.51.100.0/24", "198.51.0.0/16", "203.0.113.7/32", "192.0.2.1/32",
		"2001:db8:1:1::7/128", "2001:db8:1:1::/64", "2001:db8:1::/48", "2001:db8:2:9::9/128", "2001:db8::/32", "0.0.0.0/0", "198.51.100.1/32 198.51.100.0/30",
	} {
		var ps []netip.Prefix
		var got, want []string
		for s := range strings.FieldsSeq(asked) {
			ps = append(ps, prefix(s))
		}
		for e, err := range h.BansIn(ps...) {
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, fmt.Sprintln(e.Interval, e.Set, e.Step, e.Cause))
		}
		for e, err := range h.Bans() {
			if err != nil {
				t.Fatal(err)
			}
			if slices.ContainsFunc(ps, func(p netip.Prefix) bool { return e.Overlaps(nftset.Prefix(p).Interval) }) {
				want = append(want, fmt.Sprintln(e.Interval, e.Set, e.Step, e.Cause))
			}
		}
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("%s: got\n%swant\n%s", asked, strings.Join(got, ""), strings.Join(want, ""))
		}
	}
}
