package daemon

import (
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/portmon/portmon/internal/book"
	"github.com/portmon/portmon/internal/notice"
	"github.com/portmon/portmon/internal/watch"
	"github.com/portmon/portmon/ruleset"
)

func TestEvent(t *testing.T) {
	now := book.Clock{Wall: time.Date(2026, 1, 18, 11, 4, 26, 0, time.UTC), Boot: book.Moment(time.Hour)}
	src := netip.MustParsePrefix("203.0.113.7/32")
	for _, tt := range []struct {
		news watch.News
		want notice.Event
	}{
		{
			watch.News{
				Kind: watch.Banned, Source: src, Step: 1, Cause: ruleset.CauseScan, Offences: 1, Proto: 6, Port: 23,
				Until: now.Boot.Add(8 * time.Hour),
			},
			notice.Event{
				Kind: watch.Banned, Prefix: src, Cause: "scan", Tier: 1, Offences: 1, Proto: 6, Port: 23,
				Time: now.Wall, Until: time.Date(2026, 1, 18, 19, 4, 26, 0, time.UTC),
			},
		},
		{
			watch.News{Kind: watch.Escalated, Source: src, Step: 2, Offences: 2},
			notice.Event{Kind: watch.Escalated, Prefix: src, Tier: 2, Offences: 2, Time: now.Wall},
		},
		{
			watch.News{Kind: watch.Escalated, Source: src, Step: 3, Offences: 9},
			notice.Event{Kind: watch.Escalated, Prefix: src, Tier: 3, Last: true, Offences: 9, Time: now.Wall},
		},
		{
			watch.News{Kind: watch.ByHand, Source: src, Cause: ruleset.CauseHand, Forever: true, Comment: "abuse"},
			notice.Event{Kind: watch.ByHand, Prefix: src, Cause: "hand", Forever: true, Reason: "abuse", Time: now.Wall},
		},
		{watch.News{Kind: watch.Restored, Count: 40}, notice.Event{Kind: watch.Restored, Count: 40, Time: now.Wall}},
		{watch.News{Kind: watch.Lifted, Source: src}, notice.Event{Kind: watch.Lifted, Prefix: src, Time: now.Wall}},
		{watch.News{Kind: watch.Whitelisted, Source: src}, notice.Event{Kind: watch.Whitelisted, Prefix: src, Time: now.Wall}},
		{watch.News{Kind: watch.TableGone}, notice.Event{Kind: watch.TableGone, Time: now.Wall}},
		{watch.News{Kind: watch.Repaired, What: "rules"}, notice.Event{Kind: watch.Repaired, Wrong: "rules", Time: now.Wall}},
		{watch.News{Kind: watch.Removed}, notice.Event{Kind: watch.Removed, Time: now.Wall}},
		{watch.News{Kind: watch.Full, Count: 3}, notice.Event{Kind: watch.Full, Count: 3, Time: now.Wall}},
	} {
		t.Run(tt.news.Kind.String(), func(t *testing.T) {
			if tt.news.Kind.String() != tt.want.Kind.String() {
				t.Errorf("the notice is called %v", tt.want.Kind)
			}
			got := event(&tt.news, 3, now)
			if diff := cmp.Diff(tt.want, got, cmpopts.EquateComparable(netip.Prefix{})); diff != "" {
				t.Errorf("event (-want +got):\n%s", diff)
			}
		})
	}
}
