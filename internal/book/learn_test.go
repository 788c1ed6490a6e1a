package book

import (
	"testing"
	"time"

	"github.com/portmon/portmon/ruleset"
)

// offence returns what the log says of the nth offence of a source.
func offence(at Moment, timeout time.Duration, step int) Row {
	return Row{
		Source: address(1), Banned: true, Timeout: timeout, Until: at.Add(timeout), Step: step, StepUntil: at.Add(timeout + 30*day),
		Cause: ruleset.CauseTrap, Proto: 6, Port: 23,
	}
}

// dumped returns what the kernel's sets say of it, a little later.
func dumped(r Row) Row {
	r.Cause, r.Proto, r.Port = ruleset.CauseUnknown, 0, 0
	r.Until, r.StepUntil = r.Until.Add(7*time.Millisecond), r.StepUntil.Add(-5*time.Millisecond)
	return r
}

func learn(t *testing.T, b *Book, r Row, counted bool, offences int) Row {
	t.Helper()
	now, got := b.Learn(r)
	if got != counted || now.Offences != offences {
		t.Errorf("counted %t, offences %d, want %t, %d", got, now.Offences, counted, offences)
	}
	if stored, _ := b.Get(r.Source); stored != now {
		t.Errorf("it returned %+v and keeps %+v", now, stored)
	}
	return now
}

// A step on record that is learned after a ban by hand leaves that what it is.
func TestHandBesideStep(t *testing.T) {
	byHand := Row{
		Source: address(1), Banned: true, ByHand: true, Timeout: time.Hour, Until: in(time.Hour), Cause: ruleset.CauseHand, Comment: HandComment,
	}
	step := Row{Source: address(1), Step: 1, StepUntil: in(30 * day), Cause: ruleset.CauseScan}
	for _, rows := range [][]Row{{byHand, step}, {step, byHand}} {
		b := New(0)
		for _, r := range rows {
			b.Learn(r)
		}
		r, _ := b.Get(address(1))
		spec := ruleset.Default()
		put, _ := r.Record(&spec, in(0))
		if r.Cause != ruleset.CauseHand || r.Step != 1 || put.Timeout != time.Hour || put.Comment != HandComment {
			t.Errorf("it keeps %+v, and puts back %+v", r, put)
		}
	}
	b := New(0)
	b.Learn(step)
	if r, _ := b.Get(address(1)); r.Cause != ruleset.CauseScan {
		t.Errorf("of a step alone, it keeps %+v", r)
	}
}

// What is allowed is no offender until that is over.
func TestAllowedIsNoOffender(t *testing.T) {
	allowed := Row{Source: address(1), Allowed: true, Timeout: time.Hour, Until: in(time.Hour), Cause: ruleset.CauseLogin, Comment: "root"}
	b := New(0)
	learn(t, b, offence(in(-time.Minute), day, 1), true, 1)
	if r := learn(t, b, allowed, false, 0); r != allowed {
		t.Errorf("it keeps %+v", r)
	}
	for _, at := range []time.Duration{-time.Minute, time.Minute} { // the first is a late report
		if r := learn(t, b, offence(in(at), day, 1), false, 0); r != allowed {
			t.Errorf("after an offence at %v it keeps %+v", at, r)
		}
	}
	if r := learn(t, b, offence(in(time.Hour), day, 1), true, 1); r.Allowed || !r.Banned || r.Cause != ruleset.CauseTrap {
		t.Errorf("after it was over, it keeps %+v", r)
	}
}

// An offence counts once, in whatever order it is logged and found.
func TestCountedOnce(t *testing.T) {
	first, second := offence(in(0), time.Minute, 1), offence(in(2*time.Minute), time.Hour, 2)
	b := New(0)
	learn(t, b, first, true, 1)
	learn(t, b, dumped(first), false, 1)
	learn(t, b, first, false, 1)
	learn(t, b, dumped(second), true, 2)
	r := learn(t, b, second, false, 2)
	if r.First != in(0) || !near(r.Last, in(2*time.Minute)) || r.Port != 23 || r.Cause != ruleset.CauseTrap || r.Step != 2 {
		t.Errorf("%+v", r)
	}
	// A late report of the first one changes nothing.
	if late := learn(t, b, first, false, 2); late != r {
		t.Errorf("%+v", late)
	}
	// Nor does a ban that goes on for longer than it did, as after a time
	// asleep.
	asleep := dumped(second)
	asleep.Until = asleep.Until.Add(30 * time.Minute)
	learn(t, b, asleep, false, 2)
	// Swept, it is known that the ban was over.
	b.Sweep(after(2 * time.Hour))
	learn(t, b, second, false, 2)
	b.Sweep(after(2 * time.Hour))
	learn(t, b, offence(in(2*time.Hour), day, 3), true, 3)
	// The port of an offence that was not logged is not that of the one before.
	if r := learn(t, b, dumped(offence(in(3*day), day, 3)), true, 4); r.Proto != 0 || r.Port != 0 || r.Cause != ruleset.CauseTrap {
		t.Errorf("%+v", r)
	}
}

func TestNotCounted(t *testing.T) {
	b := New(0)
	hand := Row{Source: address(1), Banned: true, Timeout: time.Hour, Until: in(time.Hour), ByHand: true, Comment: "x", Cause: ruleset.CauseHand, Step: 1, StepUntil: in(day)}
	learn(t, b, hand, false, 1) // who is at step 1 has offended
	other := Row{Source: address(2), Banned: true, Timeout: time.Hour, Until: in(time.Hour), Cause: ruleset.CauseOther}
	learn(t, b, other, false, 0)
	subnet := Row{Source: prefix("192.0.2.0/24"), Banned: true, Timeout: time.Hour, Until: in(time.Hour), Cause: ruleset.CauseSubnet}
	learn(t, b, subnet, true, 1)
	// Found at step 3, a source has three offences.
	learn(t, b, Row{Source: address(3), Step: 3, StepUntil: in(day)}, false, 3)
	// A step does not go down while it lasts.
	if r := learn(t, b, Row{Source: address(3), Step: 1, StepUntil: in(time.Hour)}, false, 3); r.Step != 3 || r.StepUntil != in(day) {
		t.Errorf("%+v", r)
	}
	if r := learn(t, b, Row{Source: address(3), Step: 1, StepUntil: in(40 * day)}, false, 3); r.Step != 1 {
		t.Errorf("%+v", r)
	}
	// A ban for ever stays one.
	b.Put(sample[3])
	forever := Row{Source: sample[3].Source, Banned: true, Timeout: time.Hour, Until: in(time.Hour), Cause: ruleset.CauseTrap}
	learn(t, b, forever, false, 0)
}

func TestLiftAndFree(t *testing.T) {
	b := New(0)
	put(t, b, hourly(1), hourly(2), sample[3], hourly(3))
	lifted := hourly(1)
	lifted.Banned, lifted.Timeout, lifted.Until = false, 0, 0
	if !b.Lift(address(1)) || b.Lift(address(1)) || b.Lift(address(9)) || !b.Lift(sample[3].Source) {
		t.Error("lift")
	}
	if !b.Free(address(2)) || b.Free(address(2)) || b.Free(prefix("203.0.0.0/24")) {
		t.Error("free")
	}
	checkRows(t, b, lifted, hourly(3))
	if freed := b.FreeWithin(prefix("203.0.0.3/31")); len(freed) != 1 || freed[0] != address(3) {
		t.Errorf("freed: %v", freed)
	}
	checkRows(t, b, lifted)
	put(t, b, Row{Source: prefix("203.0.0.0/24"), Banned: true}, Row{Source: prefix("203.0.0.0/16"), Banned: true}, Row{Source: prefix("2001:db8::/32"), Banned: true})
	if freed := b.FreeWithin(prefix("203.0.0.0/24")); len(freed) != 2 {
		t.Errorf("freed: %v", freed)
	}
	checkRows(t, b, Row{Source: prefix("203.0.0.0/16"), Banned: true}, Row{Source: prefix("2001:db8::/32"), Banned: true})

	// A /64 is freed alone, or with the addresses in it that were banned singly.
	whole, single := Row{Source: prefix("2001:db8::/64"), Banned: true}, Row{Source: prefix("2001:db8::7/128"), Banned: true}
	put(t, b, whole, single)
	if !b.Free(whole.Source) {
		t.Error("free")
	}
	checkRows(t, b, single, Row{Source: prefix("203.0.0.0/16"), Banned: true}, Row{Source: prefix("2001:db8::/32"), Banned: true})
	put(t, b, whole)
	if freed := b.FreeWithin(prefix("203.0.0.0/8"), whole.Source); len(freed) != 3 {
		t.Errorf("freed: %v", freed)
	}
	checkRows(t, b, Row{Source: prefix("2001:db8::/32"), Banned: true})
}

// When a book is full, free first-timers go first, the oldest of them, and rows
// that are worth more do not go for one that is worth less.
func TestBounded(t *testing.T) {
	const size = 160 // ten go at a time
	b := New(size)
	free := func(n, step int) Row {
		return Row{Source: address(n), Step: step, StepUntil: in(day), Offences: step, Last: in(time.Duration(n) * time.Second), First: in(0)}
	}
	put(t, b, sample[3])
	for n := range 50 {
		put(t, b, hourly(1000+n))
	}
	for n := range size - 51 {
		put(t, b, free(n, 1+n%2))
	}
	has := func(n int) bool { _, ok := b.Get(address(n)); return ok }
	put(t, b, free(500, 1))
	if b.Len() != size-9 || has(18) || !has(1) || !has(20) || !has(500) {
		t.Errorf("%d rows", b.Len())
	}
	for n := range 10_000 {
		put(t, b, free(2000+n, 1))
		if b.Len() > size {
			t.Fatalf("%d rows", b.Len())
		}
	}
	if !has(1) || !has(107) || has(108) || !has(11_999) || !has(1049) {
		t.Error("first-timers have washed out others")
	}
	for n := range size {
		b.Put(hourly(20_000 + n))
	}
	if has(1) || !has(20_000+size-1) {
		t.Error("banned sources go last")
	}
	for n := range size {
		b.Put(hourly(20_000 + n))
	}
	b.Sweep(clock)
	for b.Len() < size {
		put(t, b, hourly(30_000+b.Len()))
	}
	if b.Put(free(9, 2)) || has(9) {
		t.Error("a banned source went for one that is free")
	}
	if _, ok := b.Get(sample[3].Source); !ok {
		t.Error("a ban by hand went")
	}
	b.SetMaxRows(5)
	if _, ok := b.Get(sample[3].Source); !ok || b.Len() > 5 {
		t.Errorf("%d rows", b.Len())
	}
}
