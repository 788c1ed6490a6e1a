package watch

import (
	"net/netip"

	"github.com/portmon/portmon/internal/book"
	"github.com/portmon/portmon/nftset"
	"github.com/portmon/portmon/ruleset"
)

// onEvent handles an event. Events count when their transaction ends: a program
// may delete an element to add it anew.
func (k *core) onEvent(ev nftset.Event, now book.Clock) {
	switch ev.Kind {
	case nftset.Commit:
		k.onTransaction(k.pending, ev, now)
		k.pending = nil
	case nftset.Overrun:
		k.pending = nil // what is missing may be the end of this transaction, and more
		k.counters.EventOverruns++
		k.table.suspect()
		k.resync(now)
	default:
		k.pending = append(k.pending, ev)
	}
}

// onTransaction handles the events of a transaction.
func (k *core) onTransaction(events []nftset.Event, end nftset.Event, now book.Clock) {
	t := &k.table
	deleted, there := false, false
	gone := false // a set that remembers sources was deleted
	for _, ev := range events {
		role, _ := ruleset.RoleOf(ev.Set)
		switch ev.Kind {
		case nftset.TableDeleted:
			deleted, there = true, false
		case nftset.TableAdded:
			there = true
		case nftset.SetDeleted:
			gone = gone || role != ruleset.RoleNone
		case nftset.SetAdded:
			there = there || role != ruleset.RoleNone
		}
	}
	if end.PortID != k.own {
		t.suspect()
	}
	switch {
	case deleted && !there:
		k.onTableGone(now)
	case deleted || there && (t.state != present || gone):
		// What the transaction has put into it may be a copy from when the
		// rules were saved. We know better how long those bans last.
		k.onTableNew(now)
	case t.state == present:
		k.onElements(events, now)
	}
}

// place is where an element stands.
type place struct {
	set string
	key nftset.Interval
}

// onElements handles what a transaction has done to the elements of a table
// that stays.
func (k *core) onElements(events []nftset.Event, now book.Clock) {
	last := make(map[place]int)                // the last event of others about each element
	climbed := make(map[netip.Prefix]book.Row) // by others, in this transaction
	for i, ev := range events {
		role, _ := ruleset.RoleOf(ev.Set)
		switch {
		case role == ruleset.RoleNone || role == ruleset.RoleKnocked || role == ruleset.RoleFleet || ev.Kind != nftset.ElementAdded && ev.Kind != nftset.ElementDeleted:
		case role == ruleset.RoleNet || role == ruleset.RoleAllow:
			k.onNetElement(ev)
		case ev.PortID == k.own:
			k.onOwnElement(ev, role)
		default:
			last[place{ev.Set, ev.Element.Interval}] = i
			if e, source, ok := k.decode(ev.Set, ev.Element); ok && role == ruleset.RoleStep && ev.Kind == nftset.ElementAdded {
				climbed[source] = book.Row{Source: source, Step: e.Step, StepUntil: now.Boot.Add(e.Remaining)}
			}
		}
	}
	for i, ev := range events {
		if at, ok := last[place{ev.Set, ev.Element.Interval}]; !ok || at != i {
			continue
		}
		e, source, ok := k.decode(ev.Set, ev.Element)
		switch {
		case !ok || e.Role == ruleset.RoleScanner:
		case ev.Kind == nftset.ElementDeleted:
			k.onForeignLift(e, source, now)
		case e.Role.Bans():
			k.onForeignBan(e, source, climbed[source], now)
			delete(climbed, source)
		}
	}
	for source, row := range climbed {
		k.supersede(source)
		k.learn(row)
	}
}

// onNetElement handles the event of an end of an interval. Which prefixes there
// are is for a reading to find; a single address that is in such a set because
// the set of bans was full looks like one in that set to us.
func (k *core) onNetElement(ev nftset.Event) {
	k.nets = true
	if a := ev.Element.From.Addr(); ev.Kind == nftset.ElementDeleted && !ev.End && a.IsValid() {
		for _, bits := range [...]int{a.BitLen(), k.table.layout.Prefix6} {
			p, err := a.Prefix(bits)
			if r, _ := k.book.Get(p); err == nil && r.Banned && !k.isNet(r) {
				k.askAbout(p)
			}
		}
	}
}

// onOwnElement handles the event of a change of our own. What we put may have
// been lifted by others after we decided on it and before it was committed; the
// order of the events shows which came first.
func (k *core) onOwnElement(ev nftset.Event, role ruleset.Role) {
	e, source, ok := k.decode(ev.Set, ev.Element)
	_, lately := k.lifted[source]
	if !ok || !lately || ev.Kind != nftset.ElementAdded {
		return
	}
	r, _ := k.book.Get(source)
	if role == ruleset.RoleBan && !r.Banned || role == ruleset.RoleStep && e.Step > r.Step {
		k.toLift[source] = struct{}{}
		k.askAbout(source)
	}
}

// decode returns the entry that an element is, and the source that it is about;
// ok is false if that is not a prefix.
func (k *core) decode(set string, el nftset.Element) (e ruleset.Entry, source netip.Prefix, ok bool) {
	if e, ok = k.table.layout.Entry(set, el); !ok {
		return e, source, false
	}
	source, ok = e.Prefix()
	return e, source, ok
}

// onForeignLift handles an element that another program has deleted. The source
// may be banned in another set, or again by now.
func (k *core) onForeignLift(e ruleset.Entry, source netip.Prefix, now book.Clock) {
	_, pending := k.toPut[source]
	_, recent := k.recent[source]
	if !k.lifted[source].announced {
		k.lifted[source] = lifting{at: now.Boot}
		if (pending || recent) && e.Role == ruleset.RoleBan {
			k.lift(source, now) // if it is put after this, it is unwanted
		}
	}
	if _, known := k.book.Get(source); known || k.reading != nil {
		k.askAbout(source)
	}
}

// onForeignBan handles a ban by another program. climbed has the step that the
// program has put the source at, if it did.
func (k *core) onForeignBan(e ruleset.Entry, source netip.Prefix, climbed book.Row, now book.Clock) {
	if k.lifted[source].announced {
		k.askAbout(source) // the ban may be one that was lifted
		return
	}
	k.settleLifted(source, now)
	before, _ := k.book.Get(source)
	was := before.BannedAt(now.Boot.Add(slack))
	_, offence := ruleset.Offence(e.Comment)
	e.Explain(0, false)
	rec := e.Record(source)
	row := k.rowOf(&rec, book.Row{}, now)
	k.supersede(source)
	if k.isExempt(source, now) {
		k.liftExempt(row)
		return
	}
	if _, recent := k.recent[source]; recent || !k.table.restored() {
		k.putLater(source, false) // our change may come after it, or its step is missing
	}
	switch {
	case was && k.isNet(before):
		k.askAbout(source) // it is banned by a set of prefixes as well
	case was && same(before, row):
		k.learn(row) // put back by a program that remembers it as we do
	case was && offence && (before.Timeout == 0 || row.Until < before.Until):
		k.putLater(source, false) // it has done nothing to deserve less
	case e.Role == ruleset.RoleBan && !was && k.countsAsOffence(row, before, climbed, now):
		if row.ByHand, row.Cause = false, ruleset.CauseOther; climbed.Step > 0 {
			row.Step, row.StepUntil = climbed.Step, climbed.StepUntil
		} else {
			k.escalate(&row, before, now)
		}
		if row, counted := k.learn(row); counted {
			k.publish(offenceNews(row, before))
		}
	default:
		row.Step, row.StepUntil = climbed.Step, climbed.StepUntil
		row, _ := k.learn(row)
		k.publish(banNews(ByHand, row))
	}
}

// countsAsOffence reports whether a ban by another program counts as an offence.
// One with a comment of its own is by hand, and is left as it is. One without,
// of a source that has offended before, is taken for the work of a program that
// saw it offend again.
func (k *core) countsAsOffence(row, before, climbed book.Row, now book.Clock) bool {
	return row.Cause == ruleset.CauseOther &&
		(!row.ByHand || climbed.Step > 0 || before.StepAt(now.Boot.Add(slack)) > 0)
}

// escalate turns a row into a ban by the next step of the ladder that lasts at
// least as long as the program asked for, and has it put into the table.
func (k *core) escalate(row *book.Row, before book.Row, now book.Clock) {
	step := k.stepAfter(before, now.Boot)
	if d := k.spec.BanTime[step-1]; row.Timeout < d {
		row.Timeout, row.Until = d, now.Boot.Add(d)
	}
	row.Step, row.StepUntil = step, row.Until.Add(k.spec.Forget)
	_, offence := ruleset.Offence(row.Comment)
	if marked := ruleset.OffenceMark + row.Comment; !offence && len(marked) <= maxComment {
		row.Comment = marked // so that the table says what it is as well
	}
	k.putLater(row.Source, false)
}

// maxComment is what an element of a set can have.
const maxComment = 251
