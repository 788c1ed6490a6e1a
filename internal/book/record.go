package book

import "github.com/portmon/portmon/ruleset"

// HandComment is the comment of a ban by hand that came with none. In the set
// of bans the comment alone tells it from one that the packet path made.
const HandComment = "by hand"

// RowOf returns the row of a record that was read just now.
func RowOf(r *ruleset.Record, now Moment) Row {
	row := Row{Source: r.Source, Cause: r.Cause}
	if r.Banned {
		row.Banned, row.Timeout, row.Until = true, r.Timeout, now.Add(r.Remaining)
		row.ByHand, row.Comment = r.Cause == ruleset.CauseHand, r.Comment
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
	if left := r.StepRemaining(now); left >= ruleset.MinBanTime {
		rec.Step, rec.StepRemaining = min(r.Step, len(spec.BanTime)), left
	}
	left := r.Remaining(now)
	if !r.BannedAt(now) || r.Timeout > 0 && left < ruleset.MinBanTime {
		return rec, rec.Step > 0
	}
	rec.Banned, rec.Timeout, rec.Remaining, rec.Comment = true, r.Timeout, left, r.Comment
	if rec.Cause == ruleset.CauseHand && rec.Comment == "" {
		rec.Comment = HandComment
	}
	if r.Step > 0 && (r.Cause == ruleset.CauseTrap || r.Cause == ruleset.CauseScan) {
		longest := spec.BanTime[min(r.Step, len(spec.BanTime))-1]
		rec.Timeout, rec.Remaining = min(rec.Timeout, longest), min(left, longest)
	}
	return rec, true
}
