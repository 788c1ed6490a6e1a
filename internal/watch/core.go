package watch

import (
	"net/netip"
	"time"

	"github.com/portmon/portmon/internal/book"
	"github.com/portmon/portmon/internal/nflog"
	"github.com/portmon/portmon/nftset"
	"github.com/portmon/portmon/ruleset"
)

// core decides. It has no socket and no clock: reports come in by the methods
// that begin with "on", and what is to be done goes out by those that begin
// with "next" and "take".
type core struct {
	spec   ruleset.Spec
	wanted *ruleset.Table // as spec says
	book   *book.Book
	own    uint32 // the netlink port id of our own changes
	table  table

	counters counters
	census   census
	news     []News

	pending []nftset.Event // of a transaction whose end has not come yet
	begun   bool           // it is known what table there is

	// What is to be read of the kernel.
	reading  *reading                  // what is being read; nil if nothing is
	readAt   book.Moment               // when all sets are to be read; 0: not
	again    bool                      // and once more a moment later
	nets     bool                      // the sets of prefixes have changed
	doubtful map[netip.Prefix]struct{} // sources about which the kernel must be asked

	// What is to be changed in it.
	changing  bool                         // a change is being made
	changedAt book.Moment                  // when the last one was done
	owed      map[netip.Prefix]bool        // sources to be put as the book has them; true: put back
	putting   map[netip.Prefix]book.Moment // what was put or lifted a moment ago, and when that began
	unwanted  map[netip.Prefix]struct{}    // sources whose bans are to be lifted
	freed     map[netip.Prefix]freeing     // sources that others lifted a moment ago

	sweptAt book.Moment
}

// freeing is when a source was lifted, as far as we know, and whether the
// program that did it has told us: then a report that comes later may be older.
type freeing struct {
	at   book.Moment
	told bool
}

const (
	// slack is how much two reports of the same moment may differ: timeouts are
	// rounded to jiffies, and a dump takes time.
	slack = time.Second
	// settling is how long reports of one socket may come behind those of the
	// other.
	settling = 2 * time.Second
	// pause lies between two attempts.
	pause = time.Second
	// sweepEvery is how often the book forgets what is over.
	sweepEvery = time.Minute
)

// newCore returns a core that has received nothing yet. known is the handle of
// the table that the book is about, which nobody has removed so that it should
// be there; 0 if there was none since the host has booted.
func newCore(spec ruleset.Spec, b *book.Book, own uint32, known uint64, now book.Clock) *core {
	t := table{layout: &ruleset.State{}, known: known}
	if known != 0 {
		t.state, t.since = missing, now.Boot
	}
	return &core{
		spec: spec, wanted: ruleset.Compile(spec, ruleset.Features{}, ruleset.Asked{}), book: b, own: own, table: t,
		readAt: now.Boot, sweptAt: now.Boot,
		doubtful: make(map[netip.Prefix]struct{}), owed: make(map[netip.Prefix]bool), unwanted: make(map[netip.Prefix]struct{}),
		freed: make(map[netip.Prefix]freeing), putting: make(map[netip.Prefix]book.Moment),
	}
}

// reconfigure makes the core work by another configuration.
func (k *core) reconfigure(spec ruleset.Spec, maxRows int, now book.Clock) {
	k.spec, k.wanted = spec, ruleset.Compile(spec, ruleset.Features{}, ruleset.Asked{})
	k.book.SetMaxRows(maxRows)
	for row := range k.book.Rows() { // the table moves the steps that a shorter ladder lacks to its last
		if row.Step > len(spec.BanTime) {
			row.Step = len(spec.BanTime)
			k.book.Put(row)
		}
	}
	k.table.held, k.table.wrongSince, k.table.closely.generation = 0, 0, 0
	k.table.suspect(now)
}

// onLogMessage handles a message of the log group: the packet path has banned
// a source.
func (k *core) onLogMessage(m *nflog.Message, source netip.Prefix, now book.Clock) {
	cause, step, ok := ruleset.ParseLogPrefix(m.Prefix)
	if !ok || !source.IsValid() {
		return
	}
	at := now.Boot
	if !m.Time.IsZero() {
		at = now.Moment(m.Time)
		k.counters.Lag = now.Boot.Sub(at)
	}
	freed, lately := k.freed[source]
	if cause == ruleset.CauseSubnet || step > len(k.spec.BanTime) || lately && at <= freed.at {
		// The message does not say which subnet and for how long, or the table
		// is of another ladder, or it is not known which came first.
		k.doubt(source)
		return
	}
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
		k.doubt(source) // a banned source cannot offend
		return
	case step < due:
		// The table has forgotten what we remember, as one that was made anew.
		row = k.atStep(row, due, at)
		k.owe(source, false)
	}
	k.touch(source)
	row, counted := k.book.Learn(row)
	if k.table.state == absent && at <= k.table.since {
		k.book.Lift(source) // this ban went with the table
		return
	}
	if _, putting := k.putting[source]; putting || at <= k.table.newAt {
		k.owe(source, false) // this ban may have gone with the table before this one, or by our hands
	}
	if counted {
		k.tell(offenceNews(row))
	}
}

// atStep makes a row that of a ban by a step of the ladder.
func (k *core) atStep(row book.Row, step int, at book.Moment) book.Row {
	row.Banned, row.Timeout, row.Step = true, k.spec.BanTime[step-1], step
	row.Until = at.Add(row.Timeout)
	row.StepUntil = row.Until.Add(k.spec.Forget)
	return row
}

// stepAfter returns the step that a source deserves which offends at a moment.
// A step that is about to be forgotten does not count: the kernel's clock is
// another one.
func (k *core) stepAfter(r book.Row, at book.Moment) int {
	return min(r.StepAt(at.Add(slack))+1, len(k.spec.BanTime))
}

// touch notes a report about a source: what is being read of it
// may be older.
func (k *core) touch(source netip.Prefix) {
	delete(k.doubtful, source)
	if k.reading != nil {
		delete(k.reading.unseen, source)
		delete(k.reading.asked, source)
	}
}

// doubt has the kernel asked about a source.
func (k *core) doubt(source netip.Prefix) {
	if k.reading != nil {
		delete(k.reading.asked, source) // that answer may be too old
	}
	k.doubtful[source] = struct{}{}
}

// inDoubt reports whether the kernel is to be asked, or being asked, about a
// source, and nothing was heard of it since.
func (k *core) inDoubt(source netip.Prefix) bool {
	_, doubtful := k.doubtful[source]
	if k.reading != nil && !doubtful {
		_, doubtful = k.reading.asked[source]
	}
	return doubtful
}

// lift records that a ban was lifted. The step stays.
func (k *core) lift(source netip.Prefix) {
	if r, _ := k.book.Get(source); r.Banned {
		k.book.Lift(source)
		k.tell(News{Kind: Lifted, Source: source, Step: r.Step, Cause: r.Cause, Comment: r.Comment})
	}
}

// settleFreed lifts the ban of a source that others have lifted, where the
// kernel cannot be asked whether it has another one by now.
func (k *core) settleFreed(source netip.Prefix) {
	if _, freed := k.freed[source]; freed && k.inDoubt(source) {
		k.lift(source)
	}
}

// owe has the table get what the book has of a source.
func (k *core) owe(source netip.Prefix, back bool) {
	k.owed[source] = back || k.owed[source]
}

// onLost records how many log messages were lost.
func (k *core) onLost(lost nflog.Lost, now book.Clock) {
	k.counters.LostMessages += uint64(max(lost.Messages, 0))
	if lost.Overrun {
		k.counters.LogOverruns++
		k.resync(now)
	}
}

func (k *core) tell(n News) {
	k.counters.count(&n)
	k.news = append(k.news, n)
}

// tellByHand reports a ban that another program made. One of a whitelisted
// source is lifted.
func (k *core) tellByHand(row book.Row) {
	if k.whitelisted(row.Source) {
		k.refuse(row)
	} else {
		k.tell(banNews(ByHand, row))
	}
}

func (k *core) whitelisted(p netip.Prefix) bool { return k.wanted.Whitelists(nftset.Prefix(p).Interval) }

// refuse lifts a ban that must not be.
func (k *core) refuse(row book.Row) {
	k.tell(News{Kind: Whitelisted, Source: row.Source, Comment: row.Comment, Cause: row.Cause})
	k.book.Free(row.Source)
	k.unwanted[row.Source] = struct{}{}
}

// takeNews returns the news since it was called last.
func (k *core) takeNews() []News {
	news := k.news
	k.news = nil
	return news
}

// unbanned records that the user has lifted the bans of prefixes and all
// within them. It returns the sources of which something was remembered.
func (k *core) unbanned(ps []netip.Prefix, now book.Clock) (had []netip.Prefix) {
	free := func(p netip.Prefix) {
		if k.book.Free(p) {
			had = append(had, p)
		}
		delete(k.owed, p)
		if _, putting := k.putting[p]; putting {
			k.unwanted[p] = struct{}{} // it may be put after it was lifted
		}
		if k.touch(p); k.reading != nil {
			k.doubt(p)
		}
		k.freed[p] = freeing{now.Boot, true}
	}
	var wide []nftset.Interval
	for _, p := range ps {
		if free(p.Masked()); !p.IsSingleIP() {
			wide = append(wide, nftset.Prefix(p).Interval)
		}
	}
	if len(wide) == 0 {
		return had
	}
	if wide = nftset.Merge(wide); k.reading != nil {
		k.resync(now) // what is being read may be older
	}
	for r := range k.book.Rows() {
		if iv, ok := nftset.Find(wide, nftset.AddrKey(r.Source.Addr())); ok && iv.Covers(nftset.Prefix(r.Source).Interval) {
			free(r.Source)
		}
	}
	return had
}

// settled reports whether it is known what table there is, and it has got what
// the book has.
func (k *core) settled() bool {
	return k.begun && !k.table.restoring && k.readAt == 0 && k.quiet()
}

// quiet reports whether all reports have been dealt with.
func (k *core) quiet() bool {
	return k.reading == nil && !k.changing && len(k.owed)+len(k.unwanted) == 0 &&
		(k.table.state != present || len(k.doubtful) == 0 && !k.nets)
}

// idle returns how long there is nothing to do.
func (k *core) idle(now book.Clock) time.Duration {
	next, _ := k.table.nextLook()
	if at, ok := k.table.applyAt(); ok {
		next = min(next, at)
	}
	if k.readAt != 0 && k.reading == nil {
		next = min(next, k.readAt)
	}
	if k.changing {
		return lookEvery // its end will be reported
	}
	return next.Sub(now.Boot)
}

// untilSync returns how long there is nothing to write.
func (k *core) untilSync(now book.Clock) time.Duration {
	if at, ok := k.book.NextSync(); ok {
		return at.Sub(now.Boot)
	}
	return time.Hour
}

// flush hands what has changed in the book to the kernel. wait, unless nil,
// returns when it is on the disk.
func (k *core) flush(now book.Clock) (wait func() error, err error) { return k.book.Flush(now) }

// close writes the book, and gives it up.
func (k *core) close(now book.Clock) error {
	defer k.book.Close()
	return k.book.Compact(now)
}
