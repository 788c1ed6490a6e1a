package book

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/portmon/portmon/ruleset"
)

// observing marks rows as those of a table that drops nothing.
func observing(rows ...Row) []Row {
	for i := range rows {
		rows[i].Observed = true
	}
	return rows
}

// What a table has only observed is forgotten once it enforces, and nothing
// else.
func TestObserved(t *testing.T) {
	first, second := offence(in(-2*time.Hour), time.Hour, 1), offence(in(0), 8*time.Hour, 2)
	hand := Row{Source: address(1), Banned: true, ByHand: true, Cause: ruleset.CauseHand, Comment: "abuse"}
	login := Row{Source: address(1), Allowed: true, Timeout: day, Until: in(day), Cause: ruleset.CauseLogin}
	running := offence(in(-time.Minute), time.Hour, 1)
	for name, test := range map[string]struct {
		before, observed []Row
		banned, allowed  bool
		step             int
	}{
		"a first offence":            {nil, []Row{second}, false, false, 0},
		"a later one":                {[]Row{first}, []Row{second}, false, false, 1},
		"again and again":            {[]Row{first}, []Row{second, offence(in(9*time.Hour), 8*time.Hour, 2)}, false, false, 1},
		"a ban that has gone on":     {[]Row{running}, []Row{running, dumped(running)}, true, false, 1},
		"a ban by hand":              {nil, []Row{hand}, true, false, 0},
		"and after an offence":       {nil, []Row{second, hand}, true, false, 0},
		"and after a later one":      {[]Row{first}, []Row{second, hand}, true, false, 1},
		"an allowance":               {nil, []Row{second, login}, false, true, 0},
		"a step without its ban":     {nil, []Row{{Source: address(1), Step: 1, StepUntil: in(day)}}, false, false, 0},
		"the same, of before":        {[]Row{first}, []Row{{Source: address(1), Step: 1, StepUntil: first.StepUntil}}, false, false, 1},
		"a ban that was lifted then": {[]Row{running}, []Row{{}}, false, false, 1},
	} {
		t.Run(name, func(t *testing.T) {
			all := append(test.before[:len(test.before):len(test.before)], observing(append([]Row{}, test.observed...)...)...)
			b := New(0)
			for _, r := range all {
				if r.Source.IsValid() {
					b.Learn(r)
				} else {
					b.Lift(address(1))
				}
			}
			var file strings.Builder
			if err := Encode(&file, Origin{}, clock, b.Rows()); err != nil {
				t.Fatal(err)
			}
			read, report, err := Decode(strings.NewReader(file.String()), Config{Now: clock})
			if err != nil || report.BadLines > 0 {
				t.Fatal(err, report)
			}
			kept, _ := b.Get(address(1))
			b.Enforce(false)
			read.Enforce(false)
			for where, b := range map[string]*Book{"": b, " from a file": read} {
				r, _ := b.Get(address(1))
				if r.BannedAt(in(0)) != test.banned || r.AllowedAt(in(0)) != test.allowed || r.StepAt(in(0)) != test.step || r.Observed || r.Before != nil {
					t.Errorf("what stays%s is %+v", where, r)
				}
			}
			b = New(0)
			b.Put(kept)
			b.Enforce(true)
			if r, _ := b.Get(address(1)); r.Banned != kept.Banned || r.Step != kept.Step || r.Observed {
				t.Errorf("%+v was kept as %+v", kept, r)
			}
		})
	}
}

// What a table that enforces shows is in effect, of what was only observed as well.
func TestShownInEffect(t *testing.T) {
	before, seen := offence(in(-2*time.Hour), time.Hour, 1), offence(in(0), 8*time.Hour, 2)
	for name, test := range map[string]struct {
		shown  Row
		banned bool
		step   int
	}{
		"what was observed":   {dumped(seen), true, 2},
		"what was before":     {Row{Source: address(1), Step: 1, StepUntil: before.StepUntil}, false, 1},
		"another offence":     {offence(in(time.Minute), time.Hour, 1), true, 1},
		"its step alone":      {Row{Source: address(1), Step: 2, StepUntil: seen.StepUntil}, true, 2},
		"a ban by hand":       {Row{Source: address(1), Banned: true, ByHand: true, Cause: ruleset.CauseHand, Step: 1, StepUntil: before.StepUntil}, true, 1},
		"the same, in a list": {Row{Source: address(1), Banned: true, ByHand: true, Cause: ruleset.CauseHand}, true, 1},
	} {
		b := New(0)
		b.Learn(before)
		b.Learn(observing(seen)[0])
		b.Learn(test.shown)
		if r, _ := b.Get(address(1)); r.BannedAt(in(2*time.Minute)) != test.banned || r.StepAt(in(0)) != test.step || r.Observed {
			t.Errorf("%s: %+v", name, r)
		}
	}
}

// In a file, what was before comes first; so others read a row as that, and
// nothing where there was none.
func TestObservedFormat(t *testing.T) {
	b := New(0)
	before := Row{Source: address(1), Step: 1, StepUntil: in(day)}
	for _, r := range []Row{before, observing(offence(in(0), time.Hour, 2))[0]} {
		b.Learn(r)
	}
	alone := observing(offence(in(0), time.Hour, 1))[0]
	alone.Source = address(2)
	b.Learn(alone)
	path := written(t, slices.Collect(b.Rows())...)
	if text := contents(t, path); strings.Count(text, `"observed":true`) != 2 || strings.Count(text, `"free":true,"observed":true`) != 1 {
		t.Errorf("the file is\n%s", text)
	}
	mustRead(t, config(path, 0), slices.Collect(b.Rows())...)
}

// Once what was observed is over, what was before counts again while it lasts.
func TestObservedEnds(t *testing.T) {
	b := New(0)
	b.Learn(Row{Source: address(1), Step: 1, StepUntil: in(90 * day)})
	b.Learn(Row{Source: address(1), Banned: true, Timeout: time.Hour, Until: in(time.Hour), Step: 2, StepUntil: in(2 * time.Hour), Cause: ruleset.CauseTrap, Observed: true})
	b.Sweep(after(3 * time.Hour))
	if r, _ := b.Get(address(1)); r.Step != 1 || r.Observed {
		t.Errorf("%+v", r)
	}
	b.Sweep(after(91 * day))
	if b.Len() != 0 {
		t.Errorf("%d rows", b.Len())
	}
}
