package watch

import (
	"net/netip"
	"slices"
	"testing"
	"time"
)

var (
	banned    = []Kind{Banned}
	escalated = []Kind{Banned, Escalated}
)

func TestLadder(t *testing.T) {
	t.Parallel()
	ladder := []time.Duration{2 * time.Second, 4 * time.Second, 8 * time.Second}
	l := newLab(t, ladder...)
	w := l.watch()
	offenders, bystanders := l.pair(), l.pair()
	for i, tier := range []int{1, 2, 3, 3} {
		start := time.Now()
		l.offend(offenders...)
		l.cut(offenders...)
		kinds := escalated
		if tier == 1 {
			kinds = banned
		}
		w.want(kinds, tier, i+1, offenders...)
		for _, src := range offenders {
			l.awaitTier(src, tier, ladder[tier-1], start)
		}
		if i == 3 {
			break // it is known by now how the third tier ends
		}
		// A stream of packets to an open port, through the end of the shorter tiers, until that of the longest.
		const tick = 10 * time.Millisecond // the kernel counts time in ticks
		n := 0
		for end := start.Add(ladder[tier-1] - tick); l.cutUntil(end, offenders...); n++ {
			l.served(bystanders...)
		}
		t.Logf("tier %d: %d packets of each offender, none answered", tier, n)
		l.awaitFree(offenders...)
		if got := time.Since(start); got < ladder[tier-1]-tick || got > ladder[tier-1]+deadline {
			t.Errorf("the ban in tier %d took %v", tier, got)
		}
		l.served(offenders...)
	}
	w.quiet()
}

// awaitTier returns when a source is in a tier, for as long as the ban lasts that began at start, and in the first as well.
func (l *lab) awaitTier(src netip.Addr, tier int, length time.Duration, start time.Time) {
	l.t.Helper()
	var tiers []int
	var left time.Duration
	await(l.t, "it is in its tier", func() bool { tiers, left = l.bans(src); return len(tiers) > 0 && tiers[0] == tier })
	if !slices.Contains(tiers, 1) {
		l.t.Errorf("%v is in tiers %v, want 1 among them", src, tiers)
	}
	if age := length - left; age < 0 || age > time.Since(start)+50*time.Millisecond {
		l.t.Errorf("%v has %v left in tier %d, %v after the offence", src, left, tier, time.Since(start))
	}
}
