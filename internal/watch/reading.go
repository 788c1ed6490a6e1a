package watch

import (
	"net/netip"
	"slices"

	"github.com/portmon/portmon/internal/book"
	"github.com/portmon/portmon/nftset"
	"github.com/portmon/portmon/ruleset"
)

// question is what to ask the kernel.
type question struct {
	all     bool           // what all sets hold
	nets    bool           // what the sets of prefixes hold
	sources []netip.Prefix // what it has of these
}

// answer is a part of the kernel's answer.
type answer struct {
	at        book.Clock
	layout    *ruleset.State // in the first part
	records   []ruleset.Record
	standings []standing
	last      bool
	same      bool // in the last part: it was the same table all the time
	err       error
}

// standing is what the kernel has of a source.
type standing struct {
	source netip.Prefix
	ruleset.Standing
}

// reading is a question that is being answered.
type reading struct {
	question
	void   bool                      // the answer is of a table that is gone
	fresh  bool                      // the table is not the one that the book is about
	again  bool                      // another reading must follow
	began  book.Moment               // when it was asked
	unseen map[netip.Prefix]unseen   // what the book has and the answer has not shown
	asked  map[netip.Prefix]struct{} // sources whose answers still count
	ends   []book.Moment             // of the bans in the sets of prefixes, if it is about these
}

// unseen are the halves of a row that a reading has not shown yet.
type unseen uint8

const (
	unseenBan unseen = 1 << iota
	unseenStep
)

// see notes that a half of a row was shown.
func (r *reading) see(source netip.Prefix, half unseen) {
	if left := r.unseen[source] &^ half; left != 0 {
		r.unseen[source] = left
	} else {
		delete(r.unseen, source)
	}
}

// resync has all sets read, twice: what is read while it grows may not be all.
func (k *core) resync(now book.Clock) {
	k.readSoon(now.Boot)
	k.again = true
}

// readSoon has all sets read at a moment, unless they are to be before that.
func (k *core) readSoon(at book.Moment) {
	if k.readAt == 0 {
		k.readAt = at
	}
}

// nextQuestion returns what to ask the kernel now, if there is something.
func (k *core) nextQuestion(now book.Clock) (q question, ok bool) {
	if k.reading != nil || k.changing || k.paused != 0 || k.owes() {
		return q, false // what is to be put would be found missing
	}
	all := k.readAt != 0 && now.Boot >= k.readAt
	if k.table.state != present && !all {
		return q, false
	}
	r := &reading{began: now.Boot}
	switch {
	case all:
		k.readAt = 0
		r.all, r.again, k.again, k.nets = true, k.again, false, false
	case k.nets:
		k.nets, r.nets = false, true
	case len(k.toAsk) > 0:
		r.asked, k.toAsk = k.toAsk, make(map[netip.Prefix]struct{})
		for source := range r.asked {
			r.sources = append(r.sources, source)
		}
	default:
		return q, false
	}
	k.reading = r
	return r.question, true
}

// expected returns what the table should show of a row. What has little time
// left may be over by the kernel's clock.
func expected(row book.Row, now book.Moment) (u unseen) {
	if row.BannedAt(now.Add(settling)) || row.AllowedAt(now.Add(settling)) {
		u |= unseenBan
	}
	if row.StepAt(now.Add(settling)) > 0 {
		u |= unseenStep
	}
	return u
}

// isNet reports whether a ban or an allowance is in a set of prefixes, rather
// than in one of single keys.
func (k *core) isNet(row book.Row) bool {
	return row.Allowed || row.ByHand && k.table.layout.IsNet(row.Source, row.Timeout)
}

// onAnswer handles a part of the answer to the current question.
func (k *core) onAnswer(a answer) {
	r := k.reading
	if a.layout != nil && !r.void {
		k.onLayout(r, a.layout, a.at)
	}
	if !r.void {
		for i := range a.records {
			k.onRecord(r, &a.records[i], a.at)
			if left := a.records[i].Remaining; r.nets && left > 0 {
				r.ends = append(r.ends, a.at.Boot.Add(left))
			}
		}
		for i := range a.standings {
			if _, counts := r.asked[a.standings[i].source]; counts && !r.fresh {
				k.onStanding(&a.standings[i], a.at)
			}
		}
	}
	if a.last {
		k.reading = nil
		k.conclude(r, a)
	}
}

// onLayout handles the state of the table.
func (k *core) onLayout(r *reading, s *ruleset.State, now book.Clock) {
	t := &k.table
	t.layout = s
	switch {
	case !s.Exists:
		k.onTableGone(now)
		r.void = true
	case t.state == present && t.handle != 0 && t.handle != s.Handle && !r.all:
		k.onTableNew(now)
	default:
		if t.handle != s.Handle { // the events come later, or are lost
			t.newAt = now.Boot
		}
		if t.swapped == s.Handle {
			t.known = s.Handle // events of before may have said otherwise
		}
		t.state, t.handle = present, s.Handle
		k.onModeOf(r, s, now)
		if r.void {
			return
		}
		if r.all || r.nets {
			k.expect(r, now)
		}
	}
}

// onModeOf handles in which mode the table is that is being read.
func (k *core) onModeOf(r *reading, s *ruleset.State, now book.Clock) {
	t := &k.table
	switch {
	case s.Observe:
		k.onObserving(now)
	case !k.book.Observes():
	case k.spec.Observe:
		// It was applied so, which we are about to learn, or will be repaired.
		r.void, k.readAt = true, now.Boot.Add(pause)
	case !r.all:
		r.void = true
		k.resync(now)
	default:
		k.onEnforcing(false, now)
		r.again = true
	}
	r.fresh = t.known != s.Handle
}

// expect notes what the sets should show that are about to be read: all that was
// heard of until now was in them, or in those of another table.
func (k *core) expect(r *reading, now book.Clock) {
	r.unseen = make(map[netip.Prefix]unseen)
	for row := range k.book.Rows() {
		u := expected(row, now.Boot)
		if r.nets && k.isNet(row) {
			u &= unseenBan
		} else if !r.all {
			continue
		}
		if u != 0 {
			r.unseen[row.Source] = u
		}
	}
}

// conclude handles the end of an answer. What was not shown means something
// only if it was the same table all the time: else it went with the table.
func (k *core) conclude(r *reading, a answer) {
	if a.err != nil || !r.void && !a.same {
		k.readAt = a.at.Boot.Add(pause)
		return
	}
	k.begun = true
	if r.void {
		return // whatever made it void has seen to what comes next
	}
	for source := range r.unseen {
		row, ok := k.book.Get(source)
		due := expected(row, a.at.Boot)
		switch {
		case !ok || due == 0:
		case r.fresh && r.all:
			k.settleLifted(source, a.at)
			k.putLater(source, true)
		default:
			k.askAbout(source) // a dump may miss what is there
		}
	}
	if r.nets {
		k.planTidying(r.ends, a.at.Boot)
	}
	if !r.all {
		return
	}
	// Prefixes may have expired while no watcher ran. If the sets of prefixes
	// hold anything, the event of this change makes the watcher read them.
	k.tidyAt(a.at.Boot)
	k.counters.Resyncs++
	k.table.restoring = r.fresh
	k.settle()
	if r.again {
		k.readSoon(a.at.Boot.Add(pause))
	}
}

// settle notes that the table has what the book has, if there is nothing to put
// back any more: from now on, what it lacks was lifted.
func (k *core) settle() {
	if t := &k.table; t.restoring && len(k.toPut) == 0 && !k.changing {
		t.restoring, t.known = false, t.handle
		k.book.SetTable(t.handle)
	}
}

// onRecord handles what a reading shows of a source.
func (k *core) onRecord(r *reading, rec *ruleset.Record, now book.Clock) {
	source := rec.Source
	_, pending := k.toPut[source]
	if pending || k.recent[source] >= r.began || k.isAskedAbout(source) {
		return // it was changed, perhaps after it was read
	}
	before, _ := k.book.Get(source)
	if rec.Allowed {
		k.onShownAllowance(r, rec, before, now)
		return
	}
	row, step := k.rowOf(rec, before, now), before.StepAt(now.Boot)
	if rec.Banned && before.AllowedAt(now.Boot.Add(slack)) {
		k.liftExempt(row) // as an old saved ruleset has it; the allowance is not seen by that, and put back
		return
	}
	if rec.Step > 0 && rec.Step >= step {
		r.see(source, unseenStep)
	}
	banned := before.BannedAt(now.Boot.Add(slack))
	// It may be the packet path's work.
	packet := rec.Banned && rec.Comment == "" && row.Cause != ruleset.CauseHand && row.Cause != ruleset.CauseSubnet
	switch {
	case !rec.Banned && rec.Step >= step:
		if before.Port != 0 {
			row.Cause = ruleset.CauseUnknown // that on record says more
		}
		k.learn(row)
	case !rec.Banned:
	case r.fresh && banned && !same(before, row):
		// We know better how long it lasts, and put that back.
	case r.fresh && packet && !banned && step > 0 && rec.Step <= step:
		// A copy of an old ban, or an offence in a table that does not know of
		// those before: if so, its message is on its way, and makes it more.
		r.again = true
	case packet && begin(row) > r.began.Add(-slack) && !same(before, row):
		k.askAbout(source) // it is younger than what was read of its step
	case banned && r.unseen[source]&unseenBan == 0 && !outlasts(row, before):
		// It is in two sets, of which the first has shown the longer ban.
	default:
		r.see(source, unseenBan)
		k.onShownBan(row, before, k.counters.Resyncs > 0 && !r.fresh, now)
	}
}

// onShownAllowance handles an allowance that a reading shows. In a table that
// the book is not about, a shorter one than on record is a copy.
func (k *core) onShownAllowance(r *reading, rec *ruleset.Record, before book.Row, now book.Clock) {
	row := book.RowOf(rec, now.Boot)
	if r.fresh && before.AllowedAt(now.Boot.Add(slack)) && !same(before, row) && !outlasts(row, before) {
		return
	}
	r.see(row.Source, unseenBan)
	k.learnAllowance(row, k.counters.Resyncs > 0 && !r.fresh, now)
}

// learnAllowance merges an allowance that the kernel has into the book. That of a
// command is news if it can have been made just now; so is the end of a ban, for
// which it makes room.
func (k *core) learnAllowance(row book.Row, lately bool, now book.Clock) {
	before, _ := k.book.Get(row.Source)
	row, _ = k.learn(row)
	known := before.Allowed && before.Cause == row.Cause && same(before, row)
	if !lately || known || row.Cause != ruleset.CauseHand || k.isPart(row) {
		return
	}
	if before.BannedAt(now.Boot) {
		k.publish(endNews(Unbanned, before))
	}
	k.publish(banNews(Allowed, row))
}

// isPart reports whether an allowance is what is left of a wider one that the
// kernel has cut, because another overlaps it.
func (k *core) isPart(row book.Row) bool {
	for bits := row.Source.Bits() - 1; bits >= 0; bits-- {
		wide, _ := k.book.Get(netip.PrefixFrom(row.Source.Addr(), bits).Masked())
		if wide.Allowed && wide.Cause == row.Cause && same(wide, row) {
			return true
		}
	}
	return false
}

// same reports whether the bans of two rows end at the same moment.
func same(a, b book.Row) bool {
	if a.Timeout == 0 || b.Timeout == 0 {
		return a.Timeout == b.Timeout
	}
	return a.Until.Sub(b.Until).Abs() < slack
}

// outlasts reports whether the ban in a ends after that in b.
func outlasts(a, b book.Row) bool { return b.Timeout != 0 && (a.Timeout == 0 || a.Until > b.Until) }

// begin returns when the ban of a row began.
func begin(r book.Row) book.Moment { return r.Until.Add(-r.Timeout) }

// rowOf returns what the kernel has of a source as a row. Where the table has
// no step, that on record counts; and so does the cause if the ban is on
// record.
func (k *core) rowOf(rec *ruleset.Record, before book.Row, now book.Clock) book.Row {
	row := book.RowOf(rec, now.Boot)
	if !rec.Banned {
		return row
	}
	_, offence := ruleset.Offence(rec.Comment)
	other := rec.Cause == ruleset.CauseOther && !offence
	row.ByHand = row.ByHand || other
	if rec.Step == 0 && before.StepAt(now.Boot) > 0 {
		if row.Step, row.StepUntil = before.Step, before.StepUntil; other {
			row.ByHand, row.Cause = false, ruleset.CauseTrap
			if before.Cause == ruleset.CauseScan {
				row.Cause = ruleset.CauseScan
			}
		}
	}
	if before.BannedAt(now.Boot) && same(before, row) {
		row.Timeout, row.ByHand, row.Cause = before.Timeout, before.ByHand, before.Cause
	}
	return row
}

// onShownBan handles a ban that the kernel has, made by any program. Whether
// what others did by hand is news depends on whether it can have been done just
// now.
func (k *core) onShownBan(row, before book.Row, lately bool, now book.Clock) {
	banned := before.BannedAt(now.Boot.Add(slack))
	known := before.Banned && same(before, row) // however little of it is left
	if row.ByHand && !known && lately && k.isExempt(row.Source, now) {
		k.liftExempt(row)
		return
	}
	if _, offence := ruleset.Offence(row.Comment); offence && !banned && !k.isEscalated(row) {
		k.escalate(&row, row, now) // it was made while no watcher ran
	}
	learned, counted := k.learn(row)
	switch {
	case counted:
		n := offenceNews(learned, before)
		n.old = k.anewAt != 0 && begin(learned) < k.anewAt.Add(slack)
		k.publish(n)
	case learned.BannedAt(now.Boot.Add(slack)) && !same(learned, row):
		k.putLater(row.Source, false) // an earlier ban has taken the place of a later one, as by our own change
	case row.ByHand && !known && lately:
		k.publish(banNews(ByHand, learned))
	}
}

// isEscalated reports whether the step of a row belongs to its ban rather than
// to an earlier one: both begin, or end, at the same moment.
func (k *core) isEscalated(row book.Row) bool {
	if row.Step == 0 || row.Step > len(k.spec.BanTime) {
		return row.Step > 0
	}
	ends := row.StepUntil.Add(-k.spec.Forget)
	begins := ends.Add(-k.spec.BanTime[row.Step-1])
	return ends.Sub(row.Until).Abs() < settling || begins.Sub(begin(row)).Abs() < settling
}

// onStanding handles what the kernel has of a source that it was asked about.
func (k *core) onStanding(s *standing, now book.Clock) {
	_, lately := k.lifted[s.source]
	before, _ := k.book.Get(s.source)
	var allowed []netip.Prefix
	if s.Allowed != nil {
		allowed = s.Allowed.Prefixes()
	}
	if before.Allowed && !slices.Contains(allowed, s.source) {
		k.book.DisallowAlone(s.source)
		k.hold(endNews(Disallowed, before), now)
	}
	for _, p := range allowed { // the sets of prefixes may have been read before the answer
		rec := s.Allowed.Record(p)
		k.learnAllowance(book.RowOf(&rec, now.Boot), true, now)
	}
	there, covered := false, false // this ban; one that is at least as large
	longest := make(map[netip.Prefix]ruleset.Record)
	for _, e := range s.Bans {
		covered = covered || e.Covers(nftset.Prefix(s.source).Interval)
		for _, p := range e.Interval.Prefixes() {
			rec := e.Record(p)
			rec.Step, rec.StepRemaining = 0, 0
			if p == s.source && s.Source == s.source {
				rec.Step, rec.StepRemaining = s.Step, s.StepRemaining
			}
			there = there || p == s.source && (!lately || same(before, book.RowOf(&rec, now.Boot)))
			if old, two := longest[p]; !two || old.Remaining > 0 && (rec.Remaining == 0 || rec.Remaining > old.Remaining) {
				longest[p] = rec
			}
		}
	}
	if before.BannedAt(now.Boot) && !there {
		if covered && !lately {
			k.book.Lift(s.source) // a larger ban has taken its place
		} else {
			k.lift(s.source, now)
		}
	}
	for p, rec := range longest {
		was, _ := k.book.Get(p)
		k.onShownBan(k.rowOf(&rec, was, now), was, true, now)
	}
	if _, pending := k.toPut[s.source]; pending {
		return // its step is about to change
	}
	row, _ := k.book.Get(s.source)
	step := s.Step
	if s.Source != s.source {
		step = 0 // of a prefix that is not a source, or is not one any more
	}
	switch was := row.StepAt(now.Boot.Add(slack)); {
	case step > was:
		row, _ = k.learn(book.Row{Source: s.source, Step: step, StepUntil: now.Boot.Add(s.StepRemaining)})
	case step < was:
		row.Step, row.StepUntil = step, now.Boot.Add(s.StepRemaining)
		k.book.Put(row)
	}
	if !row.BannedAt(now.Boot) && row.Step == 0 {
		k.book.Free(s.source)
	}
}
