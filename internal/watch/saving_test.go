package watch

import (
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/portmon/portmon/internal/book"
	"github.com/portmon/portmon/internal/lab"
	"github.com/portmon/portmon/ruleset"
)

// What was banned before somebody asks to save is saved, although the kernel
// may hold the news of it back.
func TestSavedAtOnce(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	path := t.TempDir() + "/state.jsonl"
	w := l.watch(func(c *Config) { c.State = path })
	var all []netip.Addr
	check := func(when string) {
		rows := l.saved(path)
		for _, src := range all {
			// On a busy machine the sets may show a ban before the log tells of it,
			// which alone knows the port.
			if row := rows[l.source(src)]; !row.Banned || row.Offences != 1 || row.Port != 0 && row.Port != lab.TrapTCP {
				t.Fatalf("%s %v is saved as %+v", when, src, row)
			}
		}
	}
	for range 20 {
		offenders := l.Sources(1)
		all = append(all, offenders...)
		l.Offend(offenders...)
		if err := w.Save(t.Context()); err != nil {
			t.Fatal(err)
		}
		check("when asked")
	}
	last := l.Sources(1)
	l.Offend(last...)
	all = append(all, last...)
	w.stop()
	check("at its end")
	w.want(Banned, 1, 1, all...)
}

// What happens is written by itself within a moment, and nothing is if nothing
// does.
func TestSavedByItself(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	path := t.TempDir() + "/state.jsonl"
	w := l.watch(func(c *Config) { c.State = path })
	offenders := l.Sources(1)
	l.Offend(offenders...)
	w.want(Banned, 1, 1, offenders...)
	lab.Await(t, "the offences are saved", func() bool { return len(l.saved(path)) == len(offenders) })
	lab.Await(t, "all is written", func() bool {
		var idle bool
		if err := w.call(t.Context(), func() {
			_, dirty := w.core.book.NextSync()
			idle = !w.syncing && !dirty
		}); err != nil {
			t.Fatal(err)
		}
		return idle
	})
	before, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	saves := w.stats().Saves
	resyncs := w.stats().Resyncs
	w.call(t.Context(), func() { w.core.resync(now()) }) // a reading finds nothing new
	lab.Await(t, "the sets are read twice", func() bool { return w.stats().Resyncs >= resyncs+2 })
	w.Save(t.Context())
	after, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if !after.ModTime().Equal(before.ModTime()) || w.stats().Saves != saves {
		t.Errorf("written at %v, and again at %v although nothing had happened", before.ModTime(), after.ModTime())
	}
}

// A folder that vanishes comes back with all that is remembered.
func TestFolderVanishes(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	folder := filepath.Join(t.TempDir(), "state")
	path := filepath.Join(folder, "state.jsonl")
	var faults atomic.Int32
	w := l.watch(func(c *Config) { c.State, c.Fault = path, func(error) { faults.Add(1) } })
	first, second := l.Sources(1), l.Sources(1)
	l.Offend(first...)
	w.want(Banned, 1, 1, first...)
	if err := w.Save(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(folder, folder+".away"); err != nil {
		t.Fatal(err)
	}
	l.Offend(second...)
	w.want(Banned, 1, 1, second...)
	lab.Await(t, "all are saved again", func() bool {
		_, err := os.Stat(path)
		return err == nil && len(l.saved(path)) == len(first)+len(second)
	})
	l.Cut(first...)
	l.Served(l.Sources(1)...)
}

// Without a file that can be used, all else goes on, and whoever asks is told.
func TestUnusableState(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	path := t.TempDir() + "/state.jsonl"
	if err := os.WriteFile(path, []byte("somebody else's\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var faults atomic.Int32
	w := l.watch(func(c *Config) { c.State, c.Fault = path, func(error) { faults.Add(1) } })
	offenders := l.Sources(1)
	l.Offend(offenders...)
	w.want(Banned, 1, 1, offenders...)
	if err := w.Save(t.Context()); err == nil || faults.Load() == 0 {
		t.Errorf("saving ended with %v, and %d faults were told", err, faults.Load())
	}
	if s := w.stats(); s.SaveError == nil || s.Rows != len(offenders) {
		t.Errorf("stats are %+v", s)
	}
	w.stop()
	if b, err := os.ReadFile(path); err != nil || string(b) != "somebody else's\n" {
		t.Errorf("the file is %q, error %v", b, err)
	}
}

func TestReconfigure(t *testing.T) {
	t.Parallel()
	l := newLab(t, 2*time.Second, time.Hour, 2*time.Hour)
	faults := make(chan error, 1)
	w := l.watch(func(c *Config) { c.Fault = func(err error) { faults <- err } })
	offenders, bystanders := l.Sources(1), l.Sources(1)
	l.Offend(offenders...)
	w.want(Banned, 1, 1, offenders...)
	for name, bad := range map[string]func(*ruleset.Spec){
		"no ladder": func(s *ruleset.Spec) { s.BanTime = nil },
		"table":     func(s *ruleset.Spec) { s.Table = "other" },
		"log group": func(s *ruleset.Spec) { s.LogGroup++ },
	} {
		spec := l.spec
		bad(&spec)
		w.reload <- Config{Spec: spec}
		select {
		case <-faults:
		case <-time.After(lab.LongPatience):
			t.Fatalf("%s: not refused", name)
		}
	}
	l.spec.BanTime = []time.Duration{2 * time.Second, 3 * time.Hour, 4 * time.Hour}
	w.reload <- Config{Spec: l.spec} // the table becomes what it says
	w.awaitNews(Repaired, 1)
	l.AwaitFree(offenders...)
	l.Offend(offenders...)
	w.want(Escalated, 2, 2, offenders...)
	for src, row := range w.rows(offenders...) {
		if left := l.left(src.Addr()); row.Timeout != 3*time.Hour || left > 3*time.Hour || left < 3*time.Hour-lab.Patience {
			t.Errorf("%v is banned for %v and remembered as %+v", src, left, row)
		}
	}
	l.Served(bystanders...)
	w.quiet()
}

// No ban by the ladder comes back for longer than it bans today, and steps that
// it does not have any more are its last.
func TestShorterLadder(t *testing.T) {
	t.Parallel()
	l := newLab(t, ladder...)
	path := t.TempDir() + "/state.jsonl"
	want := l.many(20, 3)
	w := l.watch(func(c *Config) { c.State = path })
	w.awaitNews(Escalated, len(want))
	w.stop()
	l.FlushRuleset()
	const longest = 30 * time.Minute
	l.spec.BanTime = []time.Duration{2 * time.Second, longest}
	l.apply()
	w = l.watch(func(c *Config) { c.State = path })
	w.awaitNews(Restored, len(want))
	for a := range want {
		if st, left := l.Lookup(a), l.left(a); st.Step != 2 || left > longest || left < longest-lab.Patience {
			t.Errorf("%v is banned for %v at step %d, want %v at step 2", a, left, st.Step, longest)
		}
		l.Cut(a)
	}
	l.Served(l.Sources(1)...)
}

// Rows come in pieces, while the book changes.
func TestRows(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	const n = 10_000
	var rows []book.Row
	w := l.watch()
	if err := w.call(t.Context(), func() {
		for i := range n {
			a := netip.AddrFrom4([4]byte{203, 0, byte(i >> 8), byte(i)})
			row := book.Row{Source: netip.PrefixFrom(a, 32), Banned: true, ByHand: true}
			w.core.book.Put(row)
			rows = append(rows, row)
		}
	}); err != nil {
		t.Fatal(err)
	}
	seen := make(map[netip.Prefix]bool)
	_, all, err := w.Rows(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for row, err := range all {
		if err != nil {
			t.Fatal(err)
		}
		if len(seen) == 0 {
			if _, err := w.Unbanned(t.Context(), false, rows[0].Source, rows[n-1].Source); err != nil {
				t.Fatal(err)
			}
		}
		seen[row.Source] = true
	}
	if missing := slices.IndexFunc(rows[1:n-1], func(r book.Row) bool { return !seen[r.Source] }); missing >= 0 {
		t.Errorf("%v is missing, one of %d seen", rows[1+missing], len(seen))
	}
	if _, all, err = w.Rows(t.Context()); err != nil {
		t.Fatal(err)
	}
	for range all {
		break // whoever has enough leaves nothing behind
	}
	_, all, err = w.Rows(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	w.stop()
	for _, e := range all {
		err = e
	}
	if err != ErrEnded {
		t.Errorf("in between, got error %v, want %v", err, ErrEnded)
	}
	if _, _, err := w.Rows(t.Context()); err != ErrEnded {
		t.Errorf("got error %v, want %v", err, ErrEnded)
	}
	if _, err := w.Stats(t.Context()); err != ErrEnded {
		t.Errorf("got error %v, want %v", err, ErrEnded)
	}
}

// A ban of a prefix that was made just before the end is remembered: the event of
// it says only that there is something to read.
func TestEndReadsPrefixes(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	path := t.TempDir() + "/state.jsonl"
	w := l.watch(func(c *Config) { c.State = path })
	want := netip.MustParsePrefix("198.51.100.0/24")
	err := w.call(t.Context(), func() { // nothing is handled meanwhile
		if _, err := l.Open().Put([]ruleset.Record{{Source: want, Banned: true}}); err != nil {
			t.Error(err)
		}
		lab.Await(t, "the event of it", func() bool { return len(w.reports) > 0 })
		w.cancel()
	})
	if err != nil {
		t.Fatal(err)
	}
	w.stop()
	l.FlushRuleset()
	l.apply()
	w = l.watch(func(c *Config) { c.State = path })
	l.Cut(netip.MustParseAddr("198.51.100.7"))
}
