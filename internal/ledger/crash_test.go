package ledger

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"
)

// world is a kernel, a watcher that gets killed, and the file that it writes, in simulated time.
type world struct {
	t   *testing.T
	rng *rand.Rand
	now Instant

	sets  []map[netip.Prefix]Ban // one for each tier
	queue []Offence              // logged and not read yet
	truth map[netip.Prefix]int

	watcher *Ledger
	file    []Record
}

func newWorld(t *testing.T, rng *rand.Rand) *world {
	w := &world{t: t, rng: rng, now: at(time.Hour), truth: make(map[netip.Prefix]int), watcher: New(short)}
	for range short.Ladder {
		w.sets = append(w.sets, make(map[netip.Prefix]Ban))
	}
	return w
}

// found returns the ban of the highest tier that a source is in.
func (w *world) found(p netip.Prefix) (Ban, bool) {
	for _, set := range slices.Backward(w.sets) {
		if b := set[p]; b.Until > w.now {
			return b, true
		}
	}
	return Ban{}, false
}

// pass lets time go by, in which any source may offend that is not banned; half of them do so the moment they are free.
func (w *world) pass(d time.Duration) {
	for end := w.now.Add(d); w.now < end; w.now = w.now.Add(10 * time.Millisecond) {
		for i, p := range sources {
			if _, banned := w.found(p); banned || i%2 == 0 && w.rng.IntN(300) > 0 {
				continue
			}
			w.truth[p]++
			w.sets[0][p] = Ban{p, 1, w.now, w.now.Add(short.Ladder[0])}
			w.queue = append(w.queue, Offence{Source: p, At: w.now})
		}
	}
}

// edit does what a verdict asks for.
func (w *world) edit(p netip.Prefix, v Verdict) {
	if v.Edit {
		w.sets[v.Tier-1][p] = Ban{p, v.Tier, w.now.Add(v.Left - v.Timeout), w.now.Add(v.Left)}
	}
}

// watch reads the log. If the watcher is killed, then before it made all the edits.
func (w *world) watch(killed bool) {
	for _, o := range w.queue {
		v := w.watcher.Offend(o, w.now)
		if !killed || w.rng.IntN(2) == 0 {
			w.edit(o.Source, v)
		}
	}
	w.queue = nil
}

func (w *world) save() { w.file = slices.Collect(w.watcher.All(w.now)) }

// restart begins with the file, and then takes in a dump and the log, which overlap; the dump is up to 50 ms off.
func (w *world) restart() {
	w.watcher = New(short)
	w.queue = nil
	w.pass(time.Duration(w.rng.IntN(100)) * time.Millisecond) // heard, and in the dump
	for _, rec := range w.file {
		w.watcher.Put(rec, w.now)
	}
	heardFirst := w.rng.IntN(2) == 0
	if heardFirst {
		w.watch(false)
	}
	for _, p := range sources {
		if b, banned := w.found(p); banned {
			error := time.Duration(w.rng.IntN(100)-50) * time.Millisecond
			b.From, b.Until = b.From.Add(error), b.Until.Add(error)
			w.edit(p, w.watcher.Seen(b, w.now))
		}
	}
	w.watch(false)
}

// Whenever the watcher is killed, between an offence, its saving and its edit, each offence counts once in the end: it is in the
// file, or in the kernel, or in both. Nothing is lost if less time than the shortest ban is between two savings.
func TestKilled(t *testing.T) {
	rng := random(t)
	total := 0
	for range 20 {
		w := newWorld(t, rng)
		for range 100 {
			for range rng.IntN(4) {
				w.pass(time.Duration(rng.IntN(400)) * time.Millisecond)
				w.watch(false)
				if rng.IntN(3) > 0 {
					w.save()
				}
			}
			w.save()
			w.pass(time.Duration(rng.IntN(800)) * time.Millisecond)
			w.watch(true)
			w.pass(time.Duration(rng.IntN(800)) * time.Millisecond) // dead
			w.restart()
			for _, p := range sources {
				rec, _ := w.watcher.Lookup(p, w.now)
				if rec.Offences != w.truth[p] {
					t.Fatalf("%s: %d offences, counted %d", p, w.truth[p], rec.Offences)
				}
				b, banned := w.found(p)
				if left := rec.Last.Add(short.Ladder[max(1, rec.Tier)-1]).Sub(w.now); left > time.Second && (!banned || b.Tier != rec.Tier) {
					t.Fatalf("%s: ban %+v does not fit %+v at %v", p, b, rec, w.now)
				}
			}
		}
		total += w.truth[sources[1]]
	}
	if total < 200 {
		t.Errorf("only %d offences in 20 worlds: they stood still", total)
	}
}
