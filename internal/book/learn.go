package book

import "github.com/portmon/portmon/ruleset"

// Learn merges what the kernel holds of a source, or what a log message said,
// into its row, and returns the row. What r has of a ban, a step, a cause and a
// port replaces what is on record, but a step is never lowered while it lasts,
// and a late report of an earlier ban does not replace a later one. The first
// and last offence and the comment of a ban that has gone on stay. An allowance
// replaces all of it; no ban that began while it lasts replaces that.
//
// r is Observed if the table that it is from drops nothing. Offences make the row
// one that was only observed, then; all else counts, now and before. What another
// table holds is in effect, so that the row is not Observed any more: what it had
// of that is dropped unless r has it.
//
// It reports whether an offence was counted. A banned source cannot offend, so
// a ban that begins while the one on record runs is of the same offence, which
// counts once even if it is reported in the log and found in a dump, in any
// order. Bans by hand and by other programs are not offences unless they have a
// step. A source at step n has at least n offences.
func (b *Book) Learn(r Row) (now Row, counted bool) {
	k, ok := r.normalize()
	if !ok {
		return Row{}, false
	}
	old, known := b.get(k)
	base := old
	if !r.Observed && !old.has(&r) {
		base = old.Enforced()
	}
	now, counted = merge(base, r)
	switch {
	case !r.Observed:
		now.Observed = false
	case base.same(&now):
	case r.isOffence() || !r.Banned && r.Step > 0:
		if now.Observed = true; known && !old.Observed {
			now.Before = &old
		}
	case old.Observed:
		before, _ := merge(old.Enforced(), r)
		now.Before = &before
	}
	if now.normalize(); known && old.same(&now) {
		return old, false
	}
	b.set(k, &now)
	return now, counted
}

// has reports whether what was learned of a row is what it has already.
func (r *Row) has(learned *Row) bool {
	return !r.Observed || learned.Step >= r.Step &&
		(!learned.Banned || r.Banned && r.Timeout != 0 && learned.Timeout != 0 && near(r.Until, learned.Until))
}

func merge(old, r Row) (now Row, counted bool) {
	if r.Allowed {
		return r, false
	}
	now = old
	switch now.Source = r.Source; {
	case !old.Allowed:
	case !r.Banned:
		r.Cause = ruleset.CauseUnknown // that of the allowance stays
	case old.Timeout == 0 || r.Timeout > 0 && r.begin() < old.Until:
		return old, false
	default:
		now.Allowed = false
	}
	late := false
	if r.Banned {
		begin, offence := r.begin(), r.isOffence()
		running := old.Banned && (old.Timeout == 0 || begin < old.Until.Add(-slack))
		late = offence && old.Banned && old.Timeout > 0 && begin < old.begin().Add(-slack) && r.Until < old.Until
		counted = offence && !running && (old.Last == 0 || begin >= old.Last.Add(slack))
		if !late {
			now.Banned, now.Timeout, now.Until, now.ByHand, now.Comment = true, r.Timeout, r.Until, r.ByHand, r.Comment
		}
		if counted {
			now.Offences++
			now.Last, now.Proto, now.Port = begin, 0, 0
			if now.First == 0 {
				now.First = begin
			}
		}
	}
	if r.Step > 0 && (r.StepUntil > old.StepUntil || r.Step >= old.Step && !late) {
		now.Step, now.StepUntil = r.Step, r.StepUntil
	}
	now.Offences = max(now.Offences, r.Offences, now.Step)
	if r.Last != 0 && (now.Last == 0 || r.Last > now.Last) {
		now.Last = r.Last
	}
	if r.First != 0 && (now.First == 0 || r.First < now.First) {
		now.First = r.First
	}
	if late {
		return now, counted
	}
	// A ban by hand stays one beside a step on record: otherwise it would be put
	// back for no longer than that step bans.
	if byHand := now.Banned && now.Cause == ruleset.CauseHand; r.Cause != ruleset.CauseUnknown && (r.Banned || !byHand) {
		now.Cause = r.Cause
	}
	if r.Proto != 0 {
		now.Proto, now.Port = r.Proto, r.Port
	}
	return now, counted
}

// isOffence reports whether a ban was made for an offence.
func (r *Row) isOffence() bool {
	switch {
	case r.ByHand || r.Timeout == 0:
		return false
	case r.Cause == ruleset.CauseTrap || r.Cause == ruleset.CauseScan || r.Cause == ruleset.CauseSubnet:
		return true
	}
	return r.Step > 0
}
