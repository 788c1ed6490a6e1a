package replay

import (
	"time"

	"github.com/portmon/portmon/internal/text"
)

// maxMoments bounds a timeline, so that it fits a screen.
const maxMoments = 32

// widths are the possible lengths of the parts of a timeline.
var widths = []time.Duration{
	time.Second, 10 * time.Second, time.Minute, 10 * time.Minute, time.Hour, 6 * time.Hour, 24 * time.Hour,
	7 * 24 * time.Hour, 28 * 24 * time.Hour, 364 * 24 * time.Hour, 3640 * 24 * time.Hour, 36400 * 24 * time.Hour,
}

// timeline counts by time, in parts that become longer as more time passes.
type timeline struct {
	width  int   // index into widths
	start  int64 // by the local clock, as if that were UTC
	zone   int64 // how far that clock was ahead of UTC when the first packet came
	counts []moment
}

type moment struct{ unwanted, dropped, bans int }

func (m *moment) add(o moment) {
	m.unwanted += o.unwanted
	m.dropped += o.dropped
	m.bans += o.bans
}

// bySeason is the first width whose parts follow the local clock through the
// changes to summer time and back. Shorter parts stay with the clock by which
// the first packet came.
const bySeason = 5

// clock returns the time by the local clock.
func (t *timeline) clock(now int64) int64 {
	if t.width < bySeason {
		return now + t.zone
	}
	return now + zoneAt(now)
}

func zoneAt(now int64) int64 {
	_, offset := time.Unix(0, now).Zone()
	return int64(offset) * int64(time.Second)
}

func floor(clock int64, width time.Duration) int64 { return clock - clock%int64(width) }

func (t *timeline) add(now int64, m moment) {
	if len(t.counts) == 0 {
		t.zone = zoneAt(now)
		t.start = floor(t.clock(now), widths[t.width])
	}
	for (t.clock(now)-t.start)/int64(widths[t.width]) >= maxMoments && t.width < len(widths)-1 {
		t.widen()
	}
	t.addAt(t.clock(now), m)
}

func (t *timeline) addAt(clock int64, m moment) {
	i := max(0, min(int((clock-t.start)/int64(widths[t.width])), maxMoments-1))
	for len(t.counts) <= i {
		t.counts = append(t.counts, moment{})
	}
	t.counts[i].add(m)
}

// widen goes over to the next longer parts.
func (t *timeline) widen() {
	old := *t
	t.width++
	t.counts = nil
	for i, m := range old.counts {
		clock := old.start + int64(i)*int64(widths[old.width])
		if t.width == bySeason {
			clock = t.clock(clock - t.zone)
		}
		if i == 0 {
			t.start = floor(clock, widths[t.width])
		}
		t.addAt(clock, m)
	}
}

// moments returns the counts.
func (t *timeline) moments() (all []Moment) {
	for i, m := range t.counts {
		clock := t.start + int64(i)*int64(widths[t.width])
		start := time.Unix(0, clock-t.zone)
		if t.width >= bySeason {
			start = text.ClockTime(time.Unix(0, clock).UTC(), time.Local)
		}
		all = append(all, Moment{start.UTC(), m.unwanted, m.dropped, m.bans})
	}
	return all
}
