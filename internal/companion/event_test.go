package companion

import (
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/internal/ledger"
	"github.com/portmon/portmon/internal/notice"
	"github.com/portmon/portmon/internal/watch"
)

func TestEvent(t *testing.T) {
	now := ledger.Now{Wall: time.Date(2026, 1, 18, 11, 4, 26, 0, time.UTC), Mono: ledger.Instant(time.Hour)}
	src := netip.MustParsePrefix("203.0.113.7/32")
	for name, tt := range map[string]struct {
		news watch.News
		want notice.Event
	}{
		"ban": {
			watch.News{
				Kind: watch.Banned, Source: src, Set: "ban4", Tier: 1, Offences: 1, Proto: unix.IPPROTO_TCP, Port: 23,
				Until: now.Mono.Add(8 * time.Hour), Reason: "trap",
			},
			notice.Event{
				Kind: notice.Banned, Prefix: src, Set: "ban4", Tier: 1, Offences: 1, Proto: unix.IPPROTO_TCP, Port: 23,
				Time: now.Wall, Until: time.Date(2026, 1, 18, 19, 4, 26, 0, time.UTC), Reason: "trap",
			},
		},
		"in the middle": {
			watch.News{Kind: watch.Escalated, Source: src, Set: "ban4_2", Tier: 2, Offences: 2},
			notice.Event{Kind: notice.Escalated, Prefix: src, Set: "ban4_2", Tier: 2, Offences: 2, Time: now.Wall},
		},
		"at the end of the ladder": {
			watch.News{Kind: watch.Escalated, Source: src, Set: "ban4_3", Tier: 3, Offences: 9},
			notice.Event{Kind: notice.Escalated, Prefix: src, Set: "ban4_3", Tier: 3, Last: true, Offences: 9, Time: now.Wall},
		},
		"for ever": {
			watch.News{Kind: watch.ByHand, Source: src, Set: "net4", Forever: true, Reason: "abuse"},
			notice.Event{Kind: notice.ByHand, Prefix: src, Set: "net4", Forever: true, Reason: "abuse", Time: now.Wall},
		},
		"restored": {
			watch.News{Kind: watch.Restored, Set: "ban6", Tier: 1, Count: 40},
			notice.Event{Kind: notice.Restored, Set: "ban6", Tier: 1, Count: 40, Time: now.Wall},
		},
		"lifted":     {watch.News{Kind: watch.Lifted, Source: src}, notice.Event{Kind: notice.Lifted, Prefix: src, Time: now.Wall}},
		"table gone": {watch.News{Kind: watch.TableGone}, notice.Event{Kind: notice.TableGone, Time: now.Wall}},
		"removed":    {watch.News{Kind: watch.Removed}, notice.Event{Kind: notice.Removed, Time: now.Wall}},
		"full":       {watch.News{Kind: watch.Full, Set: "ban4"}, notice.Event{Kind: notice.Full, Set: "ban4", Time: now.Wall}},
	} {
		t.Run(name, func(t *testing.T) {
			got := event(&tt.news, 3, now)
			if diff := cmp.Diff(tt.want, got, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
				t.Errorf("event (-want +got):\n%s", diff)
			}
		})
	}
}
