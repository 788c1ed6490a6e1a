package ledger

import (
	"testing"
	"time"
)

// What is made by hand does not count, whatever is heard or found of it, before and after.
func TestBannedByHand(t *testing.T) {
	const s = time.Second
	ban := func(l *Ledger) { l.BannedByHand(Ban{home, 1, at(100 * s), at(200 * s)}, at(100*s)) }
	seen := func(l *Ledger) { l.Seen(Ban{home, 1, at(100*s + s/2), at(200 * s)}, at(110*s)) }
	heard := func(l *Ledger) { l.Offend(Offence{Source: home, At: at(99 * s)}, at(101*s)) }
	later := func(l *Ledger) { offend(l, home, 200*s) }
	tests := []struct {
		name  string
		calls []func(*Ledger)
		want  int
	}{
		{"alone", []func(*Ledger){ban, seen, seen}, 0},
		{"not heard of", []func(*Ledger){seen, seen}, 1},
		{"beside an offence", []func(*Ledger){heard, ban, seen}, 1},
		{"beside an offence heard later", []func(*Ledger){ban, seen, heard, seen, heard}, 1},
		{"before an offence", []func(*Ledger){ban, seen, later, seen, ban, later}, 1},
		{"between two", []func(*Ledger){heard, ban, ban, seen, later, seen}, 2},
	}
	for _, tt := range tests {
		l := New(usual)
		for _, call := range tt.calls {
			call(l)
		}
		rec, ok := l.Lookup(home, at(300*s))
		if rec.Offences != tt.want || ok != (tt.want > 0) {
			t.Errorf("%s: %d offences, want %d", tt.name, rec.Offences, tt.want)
		}
	}
}

// A ban by hand does not take a source up to the tier of its last offence.
func TestBannedByHandKeepsTier(t *testing.T) {
	l := New(usual)
	offend(l, home, 0)
	offend(l, home, 8*time.Hour)
	l.BannedByHand(Ban{home, 1, at(5 * day), at(6 * day)}, at(5*day))
	if v := l.Seen(Ban{home, 1, at(5 * day), at(6 * day)}, at(5*day)); v.Edit || v.Counted || v.Tier != 2 {
		t.Errorf("the ban by hand: %+v", v)
	}
}

// After an unban by hand a source is in the first tier, and late news of what was before change nothing.
func TestUnbanned(t *testing.T) {
	const s = time.Second
	l := New(Config{Ladder: []time.Duration{10 * s, 20 * s, 40 * s}, Forget: time.Hour})
	offend(l, home, 0)
	offend(l, home, 10*s)
	l.Unbanned(home, at(12*s), at(12*s))
	if _, ok := l.Lookup(home, at(12*s)); ok {
		t.Error("the record is still there")
	}
	for _, v := range []Verdict{
		l.Seen(Ban{home, 2, at(10 * s), at(30 * s)}, at(12*s)),
		l.Offend(Offence{Source: home, At: at(10 * s)}, at(12*s)),
		l.Offend(Offence{Source: home, At: at(12 * s)}, at(12*s)),
	} {
		if v != (Verdict{}) {
			t.Errorf("late news: %+v", v)
		}
	}
	// It offends again at once, closer to the unban than two offences can be.
	if v := offend(l, home, 12*s+1); !v.Counted || v.Offences != 1 || v.Tier != 1 || v.Edit {
		t.Errorf("the next offence: %+v", v)
	}
	if v := l.Seen(Ban{home, 2, at(10 * s), at(30 * s)}, at(13*s)); v.Offences != 1 || v.Counted || v.Edit {
		t.Errorf("later news: %+v", v)
	}
	if v := offend(l, home, 23*s); v.Tier != 2 {
		t.Errorf("the one after: %+v", v)
	}
}

// An unban that is heard before the offence it is about.
func TestUnbannedFirst(t *testing.T) {
	l := New(usual)
	l.Unbanned(home, at(time.Minute), at(time.Minute))
	if v := l.Offend(Offence{Source: home, At: at(59 * time.Second)}, at(time.Minute)); v.Counted {
		t.Errorf("the offence before: %+v", v)
	}
	if n := l.Forget(at(time.Minute + 8*time.Hour)); n != 0 {
		t.Errorf("%d forgotten too early", n)
	}
	if n := l.Forget(at(time.Minute + 8*time.Hour + 1)); n != 1 || l.Len() != 0 {
		t.Errorf("%d forgotten", n)
	}
	// Where there is no room, the note is not worth an offender.
	c := usual
	c.Max = 1
	l = New(c)
	offend(l, network, time.Minute)
	l.Unbanned(home, at(time.Minute), at(time.Minute))
	if _, ok := l.Lookup(network, at(time.Minute)); !ok {
		t.Error("an offender was forgotten")
	}
}

// What All yields and Put takes is the same ledger again.
func TestPut(t *testing.T) {
	rng := random(t)
	a := New(configs[0])
	for i := range 200 {
		offend(a, sources[rng.IntN(len(sources))], time.Duration(i)*time.Second)
	}
	now := at(200 * time.Second)
	b := New(configs[0])
	for rec := range a.All(now) {
		b.Put(rec, now)
	}
	n := 0
	for rec := range a.All(now) {
		n++
		if got, ok := b.Lookup(rec.Source, now); !ok || got != rec {
			t.Errorf("%+v became %+v", rec, got)
		}
		// A record that is there already is replaced.
		rec.Offences, rec.Tier = 7, 2
		b.Put(rec, now)
		if got, _ := b.Lookup(rec.Source, now); got != rec {
			t.Errorf("%+v became %+v", rec, got)
		}
	}
	if n == 0 || b.Len() != n {
		t.Errorf("%d records became %d", n, b.Len())
	}
	// One that is forgotten is not put.
	b.Put(Record{Source: home, Offences: 3, Last: at(0), End: at(time.Second)}, at(2*time.Hour))
	if rec, ok := b.Lookup(home, at(2*time.Second)); ok && rec.Offences == 3 {
		t.Error("a forgotten record was put")
	}
}

// After a restart the source is found in the first tier, though its second offence was counted and saved: the edit was not made.
func TestEditAfterRestart(t *testing.T) {
	l := New(usual)
	l.Put(Record{Source: home, Offences: 2, Tier: 2, Last: at(day), End: at(4 * day)}, at(day+time.Minute))
	v := l.Seen(Ban{home, 1, at(day), at(day + 8*time.Hour)}, at(day+time.Minute))
	want := Verdict{Offences: 2, Tier: 2, Edit: true, Timeout: 3 * day, Left: 3*day - time.Minute}
	if v != want {
		t.Errorf("%+v, want %+v", v, want)
	}
	if v := l.Seen(Ban{home, 2, at(day), at(4 * day)}, at(day+time.Minute)); v.Edit || v.Counted {
		t.Errorf("found where it belongs: %+v", v)
	}
}
