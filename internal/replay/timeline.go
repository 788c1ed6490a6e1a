package replay

import "time"

// maxMoments bounds a timeline, so that it fits a screen.
const maxMoments = 32

// widths are how long the parts of a timeline may be.
var widths = []time.Duration{
	time.Second, 10 * time.Second, time.Minute, 10 * time.Minute, time.Hour, 6 * time.Hour, 24 * time.Hour,
	7 * 24 * time.Hour, 28 * 24 * time.Hour, 364 * 24 * time.Hour, 3640 * 24 * time.Hour, 36400 * 24 * time.Hour,
}

// timeline counts by time: in parts that become longer as more time passes.
type timeline struct {
	width  int // in widths
	start  int64
	counts []moment
}

type moment struct{ unwanted, dropped, bans int }

func (m *moment) add(o moment) {
	m.unwanted += o.unwanted
	m.dropped += o.dropped
	m.bans += o.bans
}

// floor returns when the part begins that a time is in: of days, by the clock
// that people read.
func floor(now int64, width time.Duration) int64 {
	_, offset := time.Unix(0, now).Zone()
	local := now + int64(offset)*int64(time.Second)
	return now - local%int64(width)
}

func (t *timeline) add(now int64, m moment) {
	if len(t.counts) == 0 {
		t.start = floor(now, widths[t.width])
	}
	for (now-t.start)/int64(widths[t.width]) >= maxMoments && t.width < len(widths)-1 {
		t.widen()
	}
	i := min(int((now-t.start)/int64(widths[t.width])), maxMoments-1)
	for len(t.counts) <= i {
		t.counts = append(t.counts, moment{})
	}
	t.counts[i].add(m)
}

// widen makes the parts longer.
func (t *timeline) widen() {
	old := *t
	t.width++
	t.start, t.counts = floor(old.start, widths[t.width]), nil
	for i, m := range old.counts {
		at := int((old.start + int64(i)*int64(widths[old.width]) - t.start) / int64(widths[t.width]))
		for len(t.counts) <= at {
			t.counts = append(t.counts, moment{})
		}
		t.counts[at].add(m)
	}
}
