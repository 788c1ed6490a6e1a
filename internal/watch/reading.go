package watch

import (
	"net/netip"

	"github.com/portmon/portmon/internal/book"
	"github.com/portmon/portmon/nftset"
	"github.com/portmon/portmon/ruleset"
)

// question is what the kernel is to be asked.
type question struct {
	all     bool           // what all sets hold
	nets    bool           // what the sets of prefixes hold
	sources []netip.Prefix // what there is of these
	foreign []netip.Prefix // whether these are whitelisted
}

// answer is a part of the kernel's answer.
type answer struct {
	at          book.Clock
	layout      *ruleset.State // in the first part
	entries     []ruleset.Entry
	standings   []standingOf
	whitelisted []netip.Prefix
	last        bool
	same        bool // in the last part: it was the same table all the time
	err         error
}

// standingOf is what there is of a source.
type standingOf struct {
	source netip.Prefix
	ruleset.Standing
}

// reading is a question that is being answered.
type reading struct {
	question
	void   bool // what it says means nothing any more
	fresh  bool // the table is not the one that the book is about
	first  bool // nothing was known before
	began  book.Moment
	again  bool                      // it is to be followed by another one
	steps  map[netip.Prefix]step     // that were shown, of sources that have no such step in the book
	unseen map[netip.Prefix]unseen   // what the book has and the answer has not shown
	before map[netip.Prefix]struct{} // what the sets of prefixes held before
	asked  map[netip.Prefix]struct{} // sources whose answers still count
	stale  map[netip.Prefix]bool     // sources that were put meanwhile
}

// unseen are the halves of a row that a reading has not shown yet.
type unseen uint8

const (
	unseenBan unseen = 1 << iota
	unseenStep
)

// resync has all sets read, and again: what is read while it grows may not be
// all.
func (k *core) resync(now book.Clock) {
	if k.readAt == 0 {
		k.readAt = now.Boot
	}
	k.again = true
}

// nextQuestion returns what to ask the kernel now, if there is something.
func (k *core) nextQuestion(now book.Clock) (q question, ok bool) {
	if k.reading != nil || k.changing || len(k.owed)+len(k.unwanted) > 0 {
		return q, false // what is owed would be found missing
	}
	all := k.readAt != 0 && now.Boot >= k.readAt
	if k.table.state != standing && !all {
		return q, false
	}
	r := &reading{first: k.counters.Resyncs == 0, stale: make(map[netip.Prefix]bool)}
	switch {
	case all:
		k.readAt = 0
		r.all, r.again, k.again, k.nets = true, k.again, false, false
		r.unseen, r.steps = make(map[netip.Prefix]unseen), make(map[netip.Prefix]step)
		for row := range k.book.Rows() {
			if u := k.expected(row, now.Boot); u != 0 {
				r.unseen[row.Source] = u
			}
		}
		clear(k.inNets)
	case k.nets:
		k.nets, r.nets = false, true
		r.before, k.inNets = k.inNets, make(map[netip.Prefix]struct{})
	case len(k.doubtful)+len(k.foreign) > 0:
		r.foreign, k.foreign = k.foreign, nil
		r.asked, k.doubtful = k.doubtful, make(map[netip.Prefix]struct{})
		for source := range r.asked {
			r.sources = append(r.sources, source)
		}
	default:
		return q, false
	}
	k.reading = r
	return r.question, true
}

// expected returns what the table should show of a row. What has little left
// may be over by the kernel's clock.
func (k *core) expected(row book.Row, now book.Moment) (u unseen) {
	if row.BannedAt(now.Add(settling)) {
		u |= unseenBan
	}
	if row.StepAt(now.Add(settling)) > 0 {
		u |= unseenStep
	}
	return u
}

// onAnswer handles a part of the answer to the current question.
func (k *core) onAnswer(a answer) {
	r := k.reading
	if a.layout != nil && !r.void {
		k.onLayout(r, a.layout, a.at)
	}
	if !r.void {
		for _, e := range a.entries {
			k.onEntry(r, e, a.at)
		}
		for _, s := range a.standings {
			if _, counts := r.asked[s.source]; counts && !r.fresh {
				k.onStanding(s, a.at)
			}
		}
		for _, p := range a.whitelisted {
			k.refuse(p)
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
	t.layout, r.began = s, now.Boot
	switch {
	case !s.Exists:
		k.onTableGone(now)
		r.void = true
	case t.state == standing && t.handle != 0 && t.handle != s.Handle && !r.all:
		k.onTableNew(now)
	default:
		if t.handle != s.Handle { // the events come later, or are lost
			t.newAt = now.Boot
		}
		t.state, t.handle = standing, s.Handle
		r.fresh = t.known != s.Handle
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
	for p := range r.before {
		if _, still := k.inNets[p]; !still {
			k.doubt(p)
		}
	}
	if !r.all {
		return
	}
	k.counters.Resyncs++
	for source, s := range r.steps {
		k.book.Learn(book.Row{Source: source, Step: s.step, StepUntil: s.until})
	}
	for source := range r.unseen {
		row, ok := k.book.Get(source)
		switch {
		case !ok || k.expected(row, a.at.Boot) == 0:
		case r.fresh:
			k.settleFreed(source)
			k.owe(source, true)
		default:
			k.doubt(source) // a dump may miss what is there
		}
	}
	k.table.restoring = r.fresh
	k.settle()
	if r.again && k.readAt == 0 {
		k.readAt = a.at.Boot.Add(pause)
	}
}

// settle notes that the table has what the book has, if there is nothing to put
// back any more: from now on, what it lacks was lifted.
func (k *core) settle() {
	if t := &k.table; t.restoring && len(k.owed) == 0 && !k.changing {
		t.restoring, t.known = false, t.handle
		k.book.SetTable(t.handle)
	}
}

// onEntry handles an element that a reading shows.
func (k *core) onEntry(r *reading, e ruleset.Entry, now book.Clock) {
	if e.Role == ruleset.RoleNet {
		for _, p := range e.Interval.Prefixes() {
			k.inNets[p] = struct{}{}
			k.onShown(r, e, p, now)
		}
	} else if source, ok := e.Prefix(); ok {
		k.onShown(r, e, source, now)
	}
}

func (k *core) onShown(r *reading, e ruleset.Entry, source netip.Prefix, now book.Clock) {
	if _, owed := k.owed[source]; owed || r.stale[source] || k.inDoubt(source) {
		return // it was changed, perhaps since it was read
	}
	before, known := k.book.Get(source)
	seen := func(u unseen) {
		if left := r.unseen[source] &^ u; left != 0 {
			r.unseen[source] = left
		} else {
			delete(r.unseen, source)
		}
	}
	switch e.Role {
	case ruleset.RoleScanner:
		if s, shown := r.steps[source]; shown {
			s.scan = true
			r.steps[source] = s
		} else if known && before.Port == 0 {
			k.book.Learn(book.Row{Source: source, Cause: ruleset.CauseScan})
		}
	case ruleset.RoleStep:
		shown := step{step: e.Step, until: now.Boot.Add(e.Remaining)}
		switch have := before.StepAt(now.Boot); {
		case shown.step == have:
			seen(unseenStep)
			k.book.Learn(book.Row{Source: source, Step: shown.step, StepUntil: shown.until})
		case shown.step > max(have, r.steps[source].step):
			seen(unseenStep)
			r.steps[source] = shown
		}
	default:
		row := k.explained(e, source, before, r.steps[source], now)
		if r.fresh && before.BannedAt(now.Boot.Add(slack)) && !same(before, row) {
			return // we know better how long it lasts, and put that back
		}
		packet := e.Role == ruleset.RoleBan && e.Comment == "" // it may be the packet path's work
		if due := k.stepAfter(before, now.Boot); packet && !before.BannedAt(now.Boot) && row.Step < due && due > 1 {
			k.due[source] = due
		}
		if packet && row.Until.Add(-row.Timeout) > r.began.Add(-slack) && !same(before, row) {
			// It is younger than what was read of its step.
			delete(r.steps, source)
			k.doubt(source)
			return
		}
		delete(r.steps, source)
		seen(unseenBan)
		k.onShownBan(row, before, !r.first && !r.fresh, now)
	}
}

// same reports whether the bans of two rows end at the same moment.
func same(a, b book.Row) bool {
	if a.Timeout == 0 || b.Timeout == 0 {
		return a.Timeout == b.Timeout
	}
	return a.Until.Sub(b.Until).Abs() < slack
}

// explained returns the ban of an entry, with the step that was shown of its
// source; with none, that on record. The cause is that on record if the ban is.
func (k *core) explained(e ruleset.Entry, source netip.Prefix, before book.Row, shown step, now book.Clock) book.Row {
	if shown.step == 0 && before.StepAt(now.Boot) > 0 {
		shown = step{before.Step, before.StepUntil, before.Cause == ruleset.CauseScan}
	}
	row := k.banOf(e, source, shown, now)
	if before.BannedAt(now.Boot) && same(before, row) {
		row.Timeout, row.ByHand, row.Cause = before.Timeout, before.ByHand, before.Cause
	}
	return row
}

// onShownBan handles a ban that the kernel has, made by any program. Whether
// what others did by hand is news depends on whether it can have been done just
// now.
func (k *core) onShownBan(row, before book.Row, lately bool, now book.Clock) {
	known := before.BannedAt(now.Boot.Add(slack)) && same(before, row)
	if _, offence := ruleset.Offence(row.Comment); offence && !before.BannedAt(now.Boot.Add(slack)) && !k.climbed(row) {
		k.climb(&row, row, now) // it was made while no watcher ran
	}
	row, counted := k.book.Learn(row)
	switch {
	case counted:
		k.tell(offenceNews(row))
	case row.ByHand && !known && lately:
		k.foreign = append(k.foreign, row.Source)
		k.tell(banNews(ByHand, row))
	}
}

// climbed reports whether the step of a row is that of its ban, rather than of
// one before: both begin, or end, at the same moment.
func (k *core) climbed(row book.Row) bool {
	if row.Step == 0 || row.Step > len(k.spec.BanTime) {
		return row.Step > 0
	}
	end := row.StepUntil.Add(-k.spec.Forget)
	begin := end.Add(-k.spec.BanTime[row.Step-1])
	return end.Sub(row.Until).Abs() < settling || begin.Sub(row.Until.Add(-row.Timeout)).Abs() < settling
}

// onStanding handles what the kernel says of a source that was in doubt.
func (k *core) onStanding(s standingOf, now book.Clock) {
	var shown step
	if s.Source == s.source && s.Step > 0 {
		shown = step{s.Step, now.Boot.Add(s.StepRemaining), s.Scanner}
	}
	_, lately := k.freed[s.source]
	before, _ := k.book.Get(s.source)
	there, covered := false, false // this ban; one that is at least as large
	for _, e := range s.Bans {
		covered = covered || e.Covers(nftset.Prefix(s.source).Interval)
		for _, p := range e.Interval.Prefixes() {
			there = there || p == s.source && (!lately || same(before, k.banOf(e, p, step{}, now)))
		}
	}
	if before.BannedAt(now.Boot) && !there {
		if covered && !lately {
			k.book.Lift(s.source) // a larger ban has taken its place
		} else {
			k.lifted(s.source)
		}
	}
	for _, e := range s.Bans {
		for _, p := range e.Interval.Prefixes() {
			was, _ := k.book.Get(p)
			of := step{}
			if p == s.source {
				of = shown
			}
			k.onShownBan(k.explained(e, p, was, of, now), was, true, now)
		}
	}
	row, _ := k.book.Get(s.source)
	if _, owed := k.owed[s.source]; owed || s.Source != s.source {
		return // it is to get another step; or it is a prefix, which has none
	}
	if shown.step != row.StepAt(now.Boot.Add(slack)) {
		row.Source, row.Step, row.StepUntil = s.source, shown.step, shown.until
		k.book.Put(row)
	}
	if !row.Banned && row.Step == 0 {
		k.book.Free(s.source)
	}
}
