package watch

import (
	"net/netip"
	"time"

	"github.com/portmon/portmon/internal/book"
	"github.com/portmon/portmon/internal/nflog"
	"github.com/portmon/portmon/internal/stats"
	"github.com/portmon/portmon/nftset"
	"github.com/portmon/portmon/ruleset"
)

// core decides. It has no socket and no clock: it receives reports by the methods
// that begin with "on", and returns what is to be done by those that begin with
// "next" and "take".
type core struct {
	spec   ruleset.Spec
	wanted *ruleset.Table // as spec says
	book   *book.Book
	own    uint32 // the netlink port id of our own changes
	table  table

	anewAt book.Moment // when the book was begun anew in memory, and the statistics were not; 0: it was not

	counters counters
	census   census
	tally    *stats.Stats
	news     []News

	pending []nftset.Event // of a transaction whose end has not come yet
	begun   bool           // we know whether there is a table

	// What is to be read from the kernel.
	reading *reading                  // what is being read; nil if nothing is
	readAt  book.Moment               // when all sets are to be read; 0: not
	again   bool                      // and once more a moment later
	nets    bool                      // the sets of prefixes have changed
	toAsk   map[netip.Prefix]struct{} // sources about which the kernel must be asked

	// What is to be changed in it.
	changing  bool                         // a change is being made
	toCount   bool                         // the counters of the table are to be read at once
	changedAt book.Moment                  // when the last one was done
	toPut     map[netip.Prefix]bool        // sources to be put as the book has them; true: put back
	recent    map[netip.Prefix]book.Moment // sources that we put or lifted a moment ago, and when
	toLift    map[netip.Prefix]struct{}    // sources whose bans are to be lifted
	toEnd     map[netip.Prefix]struct{}    // prefixes whose allowances are to end
	lifted    map[netip.Prefix]lifting     // sources that others lifted a moment ago
	held      held                         // news of those whose ban has gone
	paused    book.Moment                  // until when nothing is to be changed or read; 0: it may be
	swapped   book.Moment                  // when the table was put back as it was: what was heard before is void
	netEnds   []book.Moment                // after which the sets of prefixes are to be tidied, in order

	sweptAt book.Moment
	drills  map[netip.Prefix]book.Moment // sources of drills, and until when
}

// lifting is when a source was lifted, as far as we know, and whether the
// program that did it has told us: then a report that comes later may be older.
type lifting struct {
	at        book.Moment
	announced bool
}

const (
	// slack is how much two reports of the same moment may differ: timeouts are
	// rounded to jiffies, and a dump takes time.
	slack = time.Second
	// settling is how far reports of one socket may lag behind those of the
	// other.
	settling = 2 * time.Second
	// pause lies between two attempts.
	pause = time.Second
	// sweepEvery is how often the book forgets what is over.
	sweepEvery = time.Minute
)

// newCore returns a core that has received nothing yet. known is the handle of
// the table that the book describes, which should still be there; 0 if there has
// been none since boot.
func newCore(spec ruleset.Spec, b *book.Book, own uint32, known uint64, now book.Clock) *core {
	t := table{layout: &ruleset.State{}, known: known, seen: new(look)}
	if known != 0 {
		t.state, t.since = missing, now.Boot
	}
	return &core{
		spec: spec, wanted: ruleset.Compile(spec), book: b, own: own, table: t,
		readAt: now.Boot, sweptAt: now.Boot, tally: stats.New(time.Local),
		toAsk: make(map[netip.Prefix]struct{}), toPut: make(map[netip.Prefix]bool), toLift: make(map[netip.Prefix]struct{}),
		toEnd:  make(map[netip.Prefix]struct{}),
		lifted: make(map[netip.Prefix]lifting), recent: make(map[netip.Prefix]book.Moment), held: newHeld(),
		drills: make(map[netip.Prefix]book.Moment),
	}
}

// reconfigure switches to another configuration, but for the mode: that is for
// whoever applies to choose, so it is as was applied, or else taken from the table.
func (k *core) reconfigure(spec ruleset.Spec, applied *Applied, maxRows int, now book.Clock) {
	spec.Observe = k.spec.Observe
	if applied != nil {
		spec.Observe = applied.Observe
		k.onMode(applied, now)
	}
	k.spec, k.wanted = spec, ruleset.Compile(spec)
	k.book.SetMaxRows(maxRows)
	for row := range k.book.Rows() { // as apply moves the steps that a shorter ladder lacks
		if row.Step > len(spec.BanTime) {
			row.Step = len(spec.BanTime)
			k.book.Put(row)
		}
	}
	t := &k.table // whatever was wrong or tried with it was by another configuration
	t.madeBy = min(t.madeBy, now.Boot.Add(settling))
	t.held, t.wrongSince, t.repairAt, t.failures, t.lookedAt = 0, 0, 0, 0, 0
	t.seen = &look{exists: t.seen.exists, current: t.seen.current, wrong: t.seen.wrong, adopt: applied == nil} // to be compared anew
	t.suspect()
}

// onLogMessage handles a message of the log group: the packet path has banned
// a source.
func (k *core) onLogMessage(m *nflog.Message, source netip.Prefix, now book.Clock) {
	cause, step, ok := ruleset.ParseLogPrefix(m.Prefix)
	if !ok || !source.IsValid() || k.isDrill(source) {
		return
	}
	at := now.Boot
	if !m.Time.IsZero() {
		at = now.Moment(m.Time)
		k.counters.Lag = now.Boot.Sub(at)
	}
	if at <= k.swapped {
		return
	}
	lifted, lately := k.lifted[source]
	if cause == ruleset.CauseSubnet || step > len(k.spec.BanTime) || lately && at <= lifted.at || at <= k.table.enforcedAt {
		// The message does not name the subnet nor how long it is banned, or the
		// table has another ladder, or we do not know which came first, or the
		// ban may have been only observed.
		k.askAbout(source)
		return
	}
	observes := k.book.Observes() // which may be over, and nothing of it is to be put then
	row := k.atStep(book.Row{Source: source, Cause: cause, Proto: m.Proto, Port: m.DstPort}, step, at)
	before, _ := k.book.Get(source)
	due := k.stepAfter(before, at)
	// Has a reading found this ban before its message came?
	found := before.Banned && before.Timeout > 0 && begin(before).Sub(at).Abs() < slack &&
		before.Cause != ruleset.CauseOther && step == before.Step
	switch {
	case found:
		row.Timeout, row.Until, row.StepUntil = before.Timeout, before.Until, before.StepUntil
	case before.BannedAt(at.Add(slack)):
		k.askAbout(source) // a banned source cannot offend
		return
	case step < due && !observes:
		// The table has forgotten what we remember, as one that was made anew.
		row = k.atStep(row, due, at)
		k.putLater(source, false)
	}
	k.supersede(source)
	row, counted := k.learn(row)
	if k.table.state == absent && at <= k.table.since {
		k.book.Lift(source) // the ban went with the table
		return
	}
	if _, recent := k.recent[source]; !observes && (recent || at <= k.table.newAt) {
		k.putLater(source, false) // the ban may have gone with the previous table, or we replaced it
	}
	switch {
	case counted:
		k.publish(offenceNews(row, before))
	case found && before.Port == 0:
		k.tally.NamePort(now.Time(row.Last), row.Proto, row.Port)
	}
}

// learn merges what the table in its mode holds, or has done, into the book.
func (k *core) learn(row book.Row) (now book.Row, counted bool) {
	before := row.Banned && row.Timeout > 0 && !row.ByHand && begin(row) < k.table.observesAt
	row.Observed = k.book.Observes() && !before
	return k.book.Learn(row)
}

// atStep makes a row that of a ban by a step of the ladder.
func (k *core) atStep(row book.Row, step int, at book.Moment) book.Row {
	row.Banned, row.Timeout, row.Step = true, k.spec.BanTime[step-1], step
	row.Until = at.Add(row.Timeout)
	row.StepUntil = row.Until.Add(k.spec.Forget)
	return row
}

// stepAfter returns the step for a source that offends at a moment. A step that
// is about to be forgotten does not count: the kernel may have forgotten it.
func (k *core) stepAfter(r book.Row, at book.Moment) int {
	return min(r.StepAt(at.Add(slack))+1, len(k.spec.BanTime))
}

// supersede notes a report about a source: what is being read about it may be
// older.
func (k *core) supersede(source netip.Prefix) {
	delete(k.toAsk, source)
	if k.reading != nil {
		delete(k.reading.unseen, source)
		delete(k.reading.asked, source)
	}
}

// askAbout has the kernel asked about a source.
func (k *core) askAbout(source netip.Prefix) {
	if k.reading != nil {
		delete(k.reading.asked, source) // that answer may be too old
	}
	k.toAsk[source] = struct{}{}
}

// isAskedAbout reports whether the kernel is asked about a source, or will be,
// and no report has come since.
func (k *core) isAskedAbout(source netip.Prefix) bool {
	_, asked := k.toAsk[source]
	if k.reading != nil && !asked {
		_, asked = k.reading.asked[source]
	}
	return asked
}

// lift records that a ban was lifted. The step stays.
func (k *core) lift(source netip.Prefix, now book.Clock) {
	if r, _ := k.book.Get(source); r.Banned {
		k.book.Lift(source)
		k.hold(endNews(Lifted, r), now)
	}
}

// settleLifted lifts the ban of a source that others have lifted, when the
// kernel can no longer be asked whether there is another one. A ban that is known
// to have been made after that stays.
func (k *core) settleLifted(source netip.Prefix, now book.Clock) {
	lifted, lately := k.lifted[source]
	row, _ := k.book.Get(source)
	if lately && k.isAskedAbout(source) && !(lifted.announced && begin(row) > lifted.at) {
		k.lift(source, now)
	}
}

// putLater has what the book says of a source put into the table. back reports
// that it was there before.
func (k *core) putLater(source netip.Prefix, back bool) {
	k.toPut[source] = back || k.toPut[source]
}

// onLost records that log messages were lost. After an overrun, the next message
// says how many there were, and some of them may have come after a reading that
// has ended by then.
func (k *core) onLost(lost nflog.Lost, now book.Clock) {
	k.counters.LostMessages += uint64(max(lost.Messages, 0))
	if lost.Overrun {
		k.counters.LogOverruns++
	}
	if lost.Overrun || lost.Messages > 0 {
		k.resync(now)
	}
}

func (k *core) publish(n News) {
	if k.isDrill(n.Source) {
		return
	}
	if before, ok := k.held.take(n.Source); ok && before.Kind == Lifted {
		if n.Kind == Allowed {
			before.Kind = Unbanned // portmon allow did that too
		}
		k.publish(before) // in their order
	}
	n.Comment, n.Observed = book.Reason(n.Cause, n.Comment), k.book.Observes()
	k.counters.count(&n)
	k.news = append(k.news, n)
}

// isExempt reports whether a prefix is whitelisted or allowed.
func (k *core) isExempt(p netip.Prefix, now book.Clock) bool {
	return k.wanted.Whitelists(nftset.Prefix(p).Interval) || k.book.Allows(p, now.Boot)
}

// liftExempt lifts a ban that must not be.
func (k *core) liftExempt(row book.Row) {
	k.publish(News{Kind: Whitelisted, Source: row.Source, Comment: row.Comment, Cause: row.Cause})
	k.book.Free(row.Source)
	k.toLift[row.Source] = struct{}{}
}

// onDrilling records that the user is about to have sources offend for a test:
// what becomes of them is no news.
func (k *core) onDrilling(sources []netip.Prefix, now book.Clock) {
	for _, p := range sources {
		k.drills[p] = now.Boot.Add(grace)
	}
}

func (k *core) isDrill(source netip.Prefix) bool {
	for p := range k.drills {
		if p.Overlaps(source) && p.Bits() <= source.Bits() {
			return true
		}
	}
	return false
}

// takeNews returns the news since it was called last, and adds the bans among
// them to the statistics.
func (k *core) takeNews(now book.Clock) []News {
	news := k.news
	k.news = nil
	for i := range news {
		k.addToTally(&news[i], now)
	}
	return news
}

// unbanned records that the user has lifted the bans of prefixes, of each alone or
// of all sources within it. It returns those that were remembered.
func (k *core) unbanned(ps []netip.Prefix, alone bool, now book.Clock) (had []netip.Prefix) {
	gone := ended{kind: Unbanned, of: ps}
	defer k.publishEnded(&gone)
	var wide bool
	for _, p := range ps {
		p = p.Masked()
		row, _ := k.book.Get(p)
		gone.addHeld(&k.held, p)
		if k.book.Free(p) {
			gone.add(row, now)
			had = append(had, p)
		}
		k.onUnbanned(p, k.toLift, now)
		wide = wide || !p.IsSingleIP()
	}
	if alone || !wide {
		return had
	}
	if k.reading != nil {
		k.resync(now) // what is being read may be older
	}
	gone.addHeldWithin(&k.held)
	for row := range k.book.Within(ps...) {
		if k.book.Free(row.Source) {
			gone.add(row, now)
			k.onUnbanned(row.Source, k.toLift, now)
			had = append(had, row.Source)
		}
	}
	return had
}

// disallowed records that the user has ended the allowances of prefixes and of
// all that is within them. It returns those that were remembered.
func (k *core) disallowed(ps []netip.Prefix, now book.Clock) (had []netip.Prefix) {
	if k.reading != nil {
		k.resync(now) // what is being read may be older
	}
	gone := ended{kind: Disallowed, of: ps}
	gone.addHeldWithin(&k.held)
	for row := range k.book.Within(ps...) {
		if row.Allowed {
			k.book.DisallowAlone(row.Source)
			gone.add(row, now)
			k.onUnbanned(row.Source, k.toEnd, now)
			had = append(had, row.Source)
		}
	}
	k.publishEnded(&gone)
	return had
}

// onUnbanned makes sure that nothing brings back a source that the user has
// unbanned, or an allowance that he has ended. What our own change may bring
// back, which may come after that, is to be taken back as well.
func (k *core) onUnbanned(p netip.Prefix, again map[netip.Prefix]struct{}, now book.Clock) {
	delete(k.toPut, p)
	if _, recent := k.recent[p]; recent {
		again[p] = struct{}{}
	}
	if k.supersede(p); k.reading != nil {
		k.askAbout(p)
	}
	k.lifted[p] = lifting{now.Boot, true}
}

// settled reports whether the table is known, and holds what the book has.
func (k *core) settled() bool {
	return k.begun && !k.table.restoring && k.quiet()
}

// quiet reports whether nothing is left to ask or to change.
func (k *core) quiet() bool {
	return k.readAt == 0 && k.reading == nil && !k.changing && !k.owes() && !k.toCount &&
		(k.table.state != present || len(k.toAsk) == 0 && !k.nets)
}

// curious reports whether something is being read, or will be as soon as it can
// be, because an event told of a change but not of all of it.
func (k *core) curious() bool {
	return k.reading != nil || k.paused == 0 && !k.owes() && k.table.state == present && (k.nets || len(k.toAsk) > 0)
}

// owes reports whether there is a table that must be changed. A new one is read
// first.
func (k *core) owes() bool {
	return k.table.state == present && len(k.toPut)+len(k.toLift)+len(k.toEnd) > 0
}

// idle returns for how long there is nothing to do.
func (k *core) idle(now book.Clock) time.Duration {
	if k.paused != 0 {
		return k.paused.Sub(now.Boot)
	}
	next := k.table.nextLook()
	if k.toCount && k.begun {
		next = 0
	}
	if at, ok := k.table.applyAt(); ok {
		next = min(next, at)
	}
	if k.readAt != 0 && k.reading == nil {
		next = min(next, k.readAt)
	}
	if k.table.state == present && len(k.netEnds) > 0 {
		next = min(next, k.netEnds[0].Add(settling))
	}
	if len(k.held.order) > 0 {
		next = min(next, k.held.order[0].until)
	}
	if k.changing {
		return lookEvery // its end will be reported
	}
	return next.Sub(now.Boot)
}

// untilSync returns for how long there is nothing to write.
func (k *core) untilSync(now book.Clock) time.Duration {
	left := time.Hour
	if at, ok := k.book.NextSync(); ok {
		left = at.Sub(now.Boot)
	}
	if at, ok := k.tally.NextWrite(); ok {
		left = min(left, at.Sub(now.Boot))
	}
	return left
}

// flush hands the changes of the book to the kernel. wait, unless nil, returns
// when they are on disk.
func (k *core) flush(now book.Clock) (wait func() error, err error) { return k.book.Flush(now) }

// close writes the book and releases its file.
func (k *core) close(now book.Clock) error {
	defer k.book.Close()
	return k.book.Compact(now)
}
