package ledger

import (
	"math/rand/v2"
	"testing"
	"time"
)

var short = Config{Ladder: []time.Duration{2 * time.Second, 4 * time.Second, 8 * time.Second}, Forget: time.Hour}

// Report is what is heard of an offence, which number counts from 1.
type report struct {
	number int
	at     Instant
	tier   int // the set that it is found in; 0 if it is heard
}

// reports returns a list of reports of n offences, each of which comes right when the ban for the one before ends, or some time
// later: every offence at least once, heard or seen, up to almost half a second off. The order is random as far as a report may come after
// those of up to spread later offences.
func reports(rng *rand.Rand, n, spread int) []report {
	var out []report
	var keys []float64
	moment := at(time.Minute)
	for i := range n {
		for range 1 + rng.IntN(3) {
			r := report{number: i + 1, at: moment.Add(time.Duration(rng.IntN(980)-490) * time.Millisecond)}
			if rng.IntN(2) == 0 {
				r.tier = 1 + rng.IntN(min(i+1, 3))
			}
			out = append(out, r)
			keys = append(keys, float64(i)+rng.Float64()*(float64(spread)+0.999))
		}
		// A jiffy less than the ban is long: the kernel counts from the last tick.
		moment = moment.Add(2*time.Second - 10*time.Millisecond)
		if rng.IntN(2) == 0 {
			moment = moment.Add(time.Duration(rng.IntN(20)) * time.Second)
		}
	}
	for i := range out { // by their keys
		for j := i; j > 0 && keys[j-1] > keys[j]; j-- {
			out[j-1], out[j] = out[j], out[j-1]
			keys[j-1], keys[j] = keys[j], keys[j-1]
		}
	}
	return out
}

func (r report) to(l *Ledger, now Instant) Verdict {
	if r.tier == 0 {
		return l.Offend(Offence{Source: home, At: r.at}, now)
	}
	return l.Seen(Ban{home, r.tier, r.at, r.at.Add(short.Ladder[r.tier-1])}, now)
}

// However the reports of a source's offences are mixed and repeated, each offence counts once, as long as none is reported after
// those of too many later ones.
func TestAnyOrder(t *testing.T) {
	rng := random(t)
	now := at(time.Hour)
	for range 20000 {
		n, spread := 1+rng.IntN(4), 100 // up to four offences in any order at all
		if rng.IntN(2) == 0 {
			n, spread = 1+rng.IntN(30), depth-1
		}
		l := New(short)
		rs := reports(rng, n, spread)
		counted := 0
		for _, r := range rs {
			before, _ := l.Lookup(home, now)
			v := r.to(l, now)
			if v.Counted != (v.Offences > before.Offences) || v.Offences < before.Offences {
				t.Fatalf("%d offences became %d, and the verdict is %+v", before.Offences, v.Offences, v)
			}
			counted = v.Offences
		}
		if counted != n {
			t.Fatalf("%d offences were counted as %d: %v", n, counted, rs)
		}
	}
}

// The wall clock is set to any time, and nothing is lost or counted twice: each offence is stamped by the wall clock and reported
// within a second, by what the clock shows then.
func TestClockJumps(t *testing.T) {
	rng := random(t)
	for range 500 {
		l := New(short)
		n := 1 + rng.IntN(20)
		now := Now{Wall: time.Date(2026, 1, 18, 11, 4, 26, 0, time.UTC), Mono: at(time.Minute)}
		pass := func(d time.Duration) {
			now.Wall, now.Mono = now.Wall.Add(d), now.Mono.Add(d)
		}
		for i := range n {
			stamp, from := now.Wall, now.Mono
			pass(time.Duration(rng.IntN(1000)) * time.Millisecond)
			if v := l.Offend(Offence{Source: home, At: now.Instant(stamp)}, now.Mono); !v.Counted || v.Offences != i+1 {
				t.Fatalf("offence %d: %+v", i+1, v)
			}
			now.Wall = now.Wall.Add(time.Duration(rng.Int64N(int64(20*365*day)) - int64(10*365*day)))
			if v := l.Seen(Ban{home, 1, from, from.Add(2 * time.Second)}, now.Mono); v.Counted {
				t.Fatalf("offence %d was counted twice after the clock was set: %+v", i+1, v)
			}
			pass(2 * time.Second)
		}
		rec, _ := l.Lookup(home, now.Mono)
		if d := now.Wall.Sub(now.Time(rec.Last)); rec.Offences != n || d < 2*time.Second || d > 3*time.Second {
			t.Errorf("%d offences, the last %v ago: want %d, at most 3s ago", rec.Offences, d, n)
		}
	}
}

// If the wall clock is set while a report is on its way, its moment is wrong; but one offence is not lost.
func TestClockJumpOnTheWay(t *testing.T) {
	for _, jump := range []time.Duration{-10 * 365 * day, -time.Hour, time.Hour, 10 * 365 * day, 290 * 365 * day} {
		now := Now{Wall: time.Date(2026, 1, 18, 11, 4, 26, 0, time.UTC), Mono: at(time.Hour)}
		l := New(short)
		stamp := now.Wall
		now.Wall = now.Wall.Add(jump)
		if v := l.Offend(Offence{Source: home, At: now.Instant(stamp)}, now.Mono); !v.Counted || v.Offences != 1 {
			t.Errorf("clock set by %v: %+v", jump, v)
		}
		if v := l.Offend(Offence{Source: home, At: at(2 * time.Hour)}, at(2*time.Hour)); !v.Counted {
			t.Errorf("clock set by %v: the next offence was not counted", jump)
		}
	}
}

// Moments that cannot be are taken for the nearest that can: the future for now, and what is too far to calculate with for that far.
func TestImpossibleMoments(t *testing.T) {
	const far = Instant(1<<63 - 1)
	now := at(time.Hour)
	l := New(short)
	if v := l.Offend(Offence{Source: home, At: far}, now); !v.Counted || v.Left != 2*time.Second {
		t.Errorf("an offence in the future: %+v", v)
	}
	if v := l.Offend(Offence{Source: network, At: -far}, now); !v.Counted || v.Left != 0 {
		t.Errorf("an offence before all time: %+v", v)
	}
	if v := l.Seen(Ban{sources[1], 1, now, far}, now); !v.Counted {
		t.Errorf("a ban for all time: %+v", v)
	}
	if rec, ok := l.Lookup(sources[1], now.Add(90*365*day)); !ok || rec.End < now || rec.End > now.Add(horizon) {
		t.Errorf("a ban for all time ends at %d, found %v", rec.End, ok)
	}
	if got := (Now{Wall: time.Unix(1000, 0), Mono: 5}).Instant(time.Unix(2000, 0)); got != 5 {
		t.Errorf("the wall clock in the future is %d, want 5", got)
	}
}
