package book

import (
	"net/netip"
	"strings"
	"time"

	"github.com/portmon/portmon/ruleset"
)

// Row is what is remembered of a source, or of a prefix that was banned. The
// ban and the step are independent of each other: a row may have both, or one.
type Row struct {
	Source netip.Prefix

	Banned  bool
	Timeout time.Duration // of the ban; 0: for ever, and Until means nothing
	Until   Moment
	ByHand  bool
	Comment string

	Step      int // of the ladder, from 1; 0: none on record
	StepUntil Moment

	Cause       ruleset.Cause
	Offences    int
	First, Last Moment // offences; 0 if not known
	Proto       uint8  // IP protocol of the last offence; 0 if not known
	Port        uint16
}

// BannedAt reports whether the row has a ban that is not over.
func (r Row) BannedAt(now Moment) bool { return r.Banned && (r.Timeout == 0 || r.Until > now) }

// StepAt returns the step on record, 0 once it is forgotten.
func (r Row) StepAt(now Moment) int {
	if r.StepUntil <= now {
		return 0
	}
	return r.Step
}

// Remaining returns how much time the ban has, 0 if it is over or for ever.
func (r Row) Remaining(now Moment) time.Duration {
	if !r.Banned || r.Timeout == 0 {
		return 0
	}
	return max(0, r.Until.Sub(now))
}

// StepRemaining returns in what time the step is forgotten.
func (r Row) StepRemaining(now Moment) time.Duration {
	if r.Step == 0 {
		return 0
	}
	return max(0, r.StepUntil.Sub(now))
}

// begin returns when the ban of a row began.
func (r *Row) begin() Moment { return r.Until.Add(-r.Timeout) }

// slack is how much the moments of a row may differ from what the kernel says
// of the same source: a dump takes time, and timeouts are rounded to jiffies.
const slack = time.Second

func near(m, n Moment) bool { return m.Sub(n).Abs() < slack }

// same reports whether there is nothing new in a row.
func (r *Row) same(s *Row) bool {
	a, b := *r, *s
	for _, p := range [...][2]*Moment{{&a.Until, &b.Until}, {&a.StepUntil, &b.StepUntil}, {&a.First, &b.First}, {&a.Last, &b.Last}} {
		if !near(*p[0], *p[1]) {
			return false
		}
		*p[0] = *p[1]
	}
	return a == b
}

const (
	maxComment  = 253 // bytes that the kernel takes
	maxOffences = 1<<31 - 1
)

// normalize returns a row as the book keeps it, to the millisecond and without
// what means nothing, and the key of its source. It reports false for what
// cannot be a row.
func (r Row) normalize() (Row, key, bool) {
	k, ok := keyOf(r.Source)
	if !ok || r.Timeout < 0 || r.Timeout > horizon || r.Step < 0 || r.Step > 255 {
		return Row{}, key{}, false
	}
	r.Source = k.prefix()
	if !r.Banned {
		r.Timeout, r.Until, r.ByHand, r.Comment = 0, 0, false, ""
	} else if r.Timeout == 0 {
		r.Until = 0
	} else {
		r.Timeout = max(r.Timeout.Round(time.Millisecond), time.Millisecond) // 0 would be for ever
	}
	if r.Step == 0 {
		r.StepUntil = 0
	}
	r.Offences = min(max(r.Offences, r.Step), maxOffences)
	if r.Offences == 0 {
		r.First, r.Last = 0, 0
	}
	if r.First == 0 {
		r.First = r.Last
	}
	if r.Proto == 0 {
		r.Port = 0
	}
	for _, m := range [...]*Moment{&r.Until, &r.StepUntil, &r.First, &r.Last} {
		*m = Moment(min(max(time.Duration(*m), -horizon), 2*horizon).Round(time.Millisecond))
	}
	r.Comment = strings.ToValidUTF8(r.Comment, "\uFFFD")
	if len(r.Comment) > maxComment {
		r.Comment = strings.ToValidUTF8(r.Comment[:maxComment], "")
	}
	return r, k, true
}
