package book

import (
	"math"
	"net/netip"
	"strings"
	"time"

	"github.com/portmon/portmon/ruleset"
)

// Row is what is remembered of a source, or of a prefix that was banned or
// allowed. The ban, or the allowance in its place, and the step are independent
// of each other: a row may have both, or one.
type Row struct {
	Source netip.Prefix

	Cause  ruleset.Cause
	Proto  uint8 // IP protocol of the last offence; 0 if not known
	Port   uint16
	Banned bool
	ByHand bool
	// Allowed reports that the source is never banned nor dropped, instead of
	// being banned. Cause says by whom it is allowed then, and Comment why.
	Allowed bool
	// Observed reports that an offence which a table has only observed made the
	// row what it is. Before is what it was until then.
	Observed bool

	Timeout time.Duration // of the ban; 0: for ever, and Until means nothing
	Until   Moment
	Comment string // of the ban

	Step      int // of the ladder, from 1; 0: none on record
	StepUntil Moment

	Offences    int
	First, Last Moment // of the offences; 0 if not known

	// Before is what the row was before it was Observed, nil if there was none: it
	// is that again once the table enforces.
	Before *Row
}

// Enforced returns what a row is in a table that enforces: without what was only
// observed.
func (r Row) Enforced() Row {
	switch {
	case !r.Observed:
		return r
	case r.Before != nil:
		return *r.Before
	}
	return Row{Source: r.Source}
}

// BannedAt reports whether the row has a ban that is not over.
func (r Row) BannedAt(now Moment) bool { return r.Banned && (r.Timeout == 0 || r.Until > now) }

// AllowedAt reports whether the row has an allowance that is not over.
func (r Row) AllowedAt(now Moment) bool { return r.Allowed && (r.Timeout == 0 || r.Until > now) }

// StepAt returns the step on record, 0 once it is forgotten.
func (r Row) StepAt(now Moment) int {
	if r.StepUntil <= now {
		return 0
	}
	return r.Step
}

// lasts reports whether a row has a ban, an allowance or a step that is not over.
func (r *Row) lasts(now Moment) bool { return r.BannedAt(now) || r.AllowedAt(now) || r.StepAt(now) > 0 }

// Remaining returns how much time the ban or the allowance has, 0 if it is over
// or for ever.
func (r Row) Remaining(now Moment) time.Duration {
	if !r.Banned && !r.Allowed || r.Timeout == 0 {
		return 0
	}
	return max(0, r.Until.Sub(now))
}

// StepRemaining returns how long the step will still be remembered.
func (r Row) StepRemaining(now Moment) time.Duration {
	if r.Step == 0 {
		return 0
	}
	return max(0, r.StepUntil.Sub(now))
}

// begin returns when the ban of a row began.
func (r *Row) begin() Moment { return r.Until.Add(-r.Timeout) }

// slack is how much the moments of a row may differ from those that the kernel
// reports for the same source: a dump takes time, and timeouts are rounded to
// jiffies.
const slack = time.Second

func near(m, n Moment) bool { return m.Sub(n).Abs() < slack }

// moments returns the moments of a row.
func (r *Row) moments() [4]*Moment { return [...]*Moment{&r.Until, &r.StepUntil, &r.First, &r.Last} }

// same reports whether s has nothing new.
func (r *Row) same(s *Row) bool {
	a := *r
	if a.Before != nil && s.Before != nil && a.Before.same(s.Before) {
		a.Before = s.Before
	}
	for i, m := range s.moments() {
		if !near(*a.moments()[i], *m) {
			return false
		}
		*a.moments()[i] = *m
	}
	return a == *s
}

const maxComment = 253 // bytes that the kernel takes

// normalize makes a row as the book keeps it, to the millisecond and without
// what means nothing, and returns the key of its source. It returns false for
// what cannot be a row.
func (r *Row) normalize() (key, bool) {
	k, ok := keyOf(r.Source)
	if !ok || r.Timeout < 0 || r.Timeout > horizon || r.Step < 0 || r.Step > math.MaxUint8 {
		return key{}, false
	}
	r.Source = k.prefix()
	if r.Allowed {
		r.Banned, r.ByHand, r.Observed = false, false, false
	}
	if before := r.Enforced(); !r.Observed || !before.Banned && !before.Allowed && before.Step == 0 {
		r.Before = nil
	} else {
		before.Source, before.Observed = r.Source, false
		before.normalize()
		r.Before = &before
	}
	if !r.Banned && !r.Allowed {
		r.Timeout, r.Until, r.ByHand, r.Comment = 0, 0, false, ""
	} else if r.Timeout == 0 {
		r.Until = 0
	} else {
		r.Timeout = max(r.Timeout.Round(time.Millisecond), time.Millisecond) // 0 would be for ever
	}
	if r.Step == 0 {
		r.StepUntil = 0
	}
	r.Offences = min(max(r.Offences, r.Step), math.MaxUint16)
	if r.Offences == 0 {
		r.First, r.Last = 0, 0
	}
	if r.First == 0 {
		r.First = r.Last
	}
	if r.Proto == 0 {
		r.Port = 0
	}
	for _, m := range r.moments() {
		*m = Moment(min(max(time.Duration(*m), -horizon), 2*horizon).Round(time.Millisecond))
	}
	if r.Cause == ruleset.CauseHand && r.Comment == HandComment {
		r.Comment = "" // Record adds it again
	}
	r.Comment = strings.ToValidUTF8(r.Comment, "\uFFFD")
	if len(r.Comment) > maxComment {
		r.Comment = strings.ToValidUTF8(r.Comment[:maxComment], "")
	}
	return k, true
}

// HandComment is the comment of a ban by hand that came with none. In the set
// of bans only the comment distinguishes it from one that the packet path made.
const HandComment = "by hand"

// Reason returns the comment of a ban, or "" for the one that only says what its
// cause does.
func Reason(c ruleset.Cause, comment string) string {
	if c == ruleset.CauseHand && comment == HandComment {
		return ""
	}
	return comment
}

// RowOf returns the row of a record that was read just now.
func RowOf(r *ruleset.Record, now Moment) Row {
	row := Row{Source: r.Source, Cause: r.Cause}
	if r.Banned || r.Allowed {
		row.Timeout, row.Until, row.Comment = r.Timeout, now.Add(r.Remaining), r.Comment
		row.Banned, row.Allowed, row.ByHand = r.Banned, r.Allowed, r.Banned && r.Cause == ruleset.CauseHand
	}
	if r.Step > 0 {
		row.Step, row.StepUntil = r.Step, now.Add(r.StepRemaining)
	}
	return row
}

// Record returns what a table is to have of a row; ok is false if that is
// nothing. The row may be of another ladder than that of the spec: a ban by the
// packet path is put back for no longer than it would ban today.
func (r *Row) Record(spec *ruleset.Spec, now Moment) (rec ruleset.Record, ok bool) {
	rec = ruleset.Record{Source: r.Source, Cause: r.Cause}
	// A shorter timeout could be rounded to "never expires".
	if remaining := r.StepRemaining(now); remaining >= ruleset.MinBanTime {
		rec.Step, rec.StepRemaining = min(r.Step, len(spec.BanTime)), remaining
	}
	remaining := r.Remaining(now)
	if !r.BannedAt(now) && !r.AllowedAt(now) || r.Timeout > 0 && remaining < ruleset.MinBanTime {
		return rec, rec.Step > 0
	}
	rec.Timeout, rec.Remaining, rec.Comment = r.Timeout, remaining, r.Comment
	if rec.Banned, rec.Allowed = r.Banned, r.Allowed; rec.Allowed {
		return rec, true
	}
	if rec.Cause == ruleset.CauseHand && rec.Comment == "" {
		rec.Comment = HandComment
	}
	if r.Step > 0 && (r.Cause == ruleset.CauseTrap || r.Cause == ruleset.CauseScan) {
		longest := spec.BanTime[min(r.Step, len(spec.BanTime))-1]
		rec.Timeout, rec.Remaining = min(rec.Timeout, longest), min(remaining, longest)
	}
	return rec, true
}
