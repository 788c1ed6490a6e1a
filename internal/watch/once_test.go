package watch

import (
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/portmon/portmon/internal/state"
)

// once does what a command does while no watcher runs.
func (l *lab) once(path string) {
	l.t.Helper()
	config := Config{NetNS: l.host.FD(), Spec: l.spec, Forget: 24 * time.Hour, State: path, Fault: func(err error) { l.t.Error(err) }}
	ok, err := Once(config)
	if err != nil || !ok {
		l.t.Fatalf("a table: %v, error %v", ok, err)
	}
}

// remembered returns the records of a state file.
func (l *lab) remembered(path string) map[netip.Prefix]state.Record {
	l.t.Helper()
	f, err := state.Open(path)
	if err != nil {
		l.t.Fatal(err)
	}
	defer f.Close()
	recs := make(map[netip.Prefix]state.Record)
	for rec := range f.Records() {
		recs[rec.Prefix] = rec
	}
	if c := f.Report().Condition; c != state.Whole {
		l.t.Fatalf("the state is %v, want it whole", c)
	}
	return recs
}

// Without a watcher, bans that were saved come back to a new table, within a second of it, and those lifted in between do not.
func TestOnce(t *testing.T) {
	t.Parallel()
	const bans = 10_000
	l := newLab(t, ladder...)
	path := filepath.Join(t.TempDir(), "state.jsonl")
	ends := l.many(bans, 2)
	offenders := l.pair()
	l.once(path)
	var lifted []netip.Addr // one of each family
	for p := range ends {
		if a := p.key.From.Addr(); len(lifted) == 0 || len(lifted) == 1 && lifted[0].Is4() != a.Is4() {
			lifted = append(lifted, a)
			delete(ends, p)
		}
	}
	l.unban(lifted...)
	l.once(path)
	for _, src := range lifted {
		if rec, ok := l.remembered(path)[l.read().Source(src)]; ok {
			t.Errorf("%v was lifted, and is remembered: %+v", src, rec)
		}
	}
	l.nft("flush ruleset")
	l.apply()
	start := time.Now()
	l.once(path)
	t.Logf("%d bans are back after %v", bans, time.Since(start))
	l.wantAll(ends)
	l.served(lifted...)
	l.served(l.pair()...)
	// Whoever has offended before, as the state says, goes up at once.
	l.offend(offenders...)
	l.once(path)
	l.awaitFree(offenders...)
	l.offend(offenders...)
	l.once(path)
	for _, src := range offenders {
		if tiers, _ := l.bans(src); !slices.Contains(tiers, 2) {
			t.Errorf("%v is in tiers %v, want 2 among them", src, tiers)
		}
		if rec := l.remembered(path)[l.read().Source(src)]; rec.Offences != 2 || !rec.Banned {
			t.Errorf("%v is remembered as %+v, want 2 offences and a ban", src, rec)
		}
	}
}

func TestOnceWithoutTable(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	path := filepath.Join(t.TempDir(), "state.jsonl")
	offenders := l.pair()
	l.offend(offenders...)
	l.once(path)
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	l.nft("flush ruleset")
	ok, err := Once(Config{NetNS: l.host.FD(), Spec: l.spec, Forget: time.Hour, State: path})
	if ok || err != nil {
		t.Errorf("a table: %v, error %v", ok, err)
	}
	if after, err := os.ReadFile(path); err != nil || !slices.Equal(before, after) {
		t.Errorf("the state has changed, error %v", err)
	}
	l.apply()
	l.once(path)
	l.cut(offenders...)
}

// A table that was there when the state was saved is made again by a watcher that starts without it, with its bans.
func TestTableGoneBeforeStart(t *testing.T) {
	t.Parallel()
	l := newLab(t, ladder...)
	path := filepath.Join(t.TempDir(), "state.jsonl")
	saves := func(c *Config) { c.State = path }
	ends := l.many(10, 2)
	offenders := l.pair()
	w := l.watch(saves)
	l.offend(offenders...)
	w.awaitNews(Banned, len(offenders)+len(ends))
	w.stop()
	l.nft("flush ruleset")
	w = l.watch(saves)
	w.awaitNews(Restored, len(offenders)+len(ends))
	l.cut(offenders...)
	l.wantAll(ends)
	l.served(l.pair()...)
}

// What `portmon remove` took away stays away, even if the watcher dies right after it.
func TestRemovedIsSaved(t *testing.T) {
	t.Parallel()
	l := newLab(t, ladder...)
	path := filepath.Join(t.TempDir(), "state.jsonl")
	offenders := l.pair()
	w := l.watch(func(c *Config) { c.State = path })
	l.offend(offenders...)
	w.want(banned, 1, 1, offenders...)
	if err := w.Save(t.Context()); err != nil {
		t.Fatal(err)
	}
	for src, rec := range l.remembered(path) {
		if !rec.Banned {
			t.Errorf("%v is remembered as %+v, want a ban", src, rec)
		}
	}
	l.remove()
	w.awaitNews(Removed, 1)
	await(t, "the state has no bans", func() bool {
		recs := l.remembered(path)
		return len(recs) == len(offenders) && !slices.ContainsFunc(slices.Collect(maps.Values(recs)), func(r state.Record) bool { return r.Banned })
	})
	l.apply()
	l.once(path)
	l.served(offenders...)
}

func TestForgive(t *testing.T) {
	t.Parallel()
	l := newLab(t, 2*time.Second, time.Hour)
	w := l.watch()
	offenders, others := l.pair(), l.pair()
	l.offend(slices.Concat(offenders, others)...)
	w.want(banned, 1, 1, slices.Concat(offenders, others)...)
	l.awaitFree(slices.Concat(offenders, others)...)
	sources := func(addrs []netip.Addr) (out []netip.Prefix) {
		for _, a := range addrs {
			out = append(out, l.read().Source(a))
		}
		return out
	}
	had, err := w.Forgive(t.Context(), append(sources(offenders), sources(l.pair())...)...)
	if err != nil || !slices.Equal(had, sources(offenders)) {
		t.Errorf("%v had offences, error %v, want %v", had, err, offenders)
	}
	l.offend(offenders...)
	w.want(banned, 1, 1, offenders...)
	l.offend(others...)
	w.want(escalated, 2, 2, others...)
	_, all, err := w.Records(t.Context(), sources(others)...)
	if err != nil {
		t.Fatal(err)
	}
	recs := slices.Collect(all)
	if len(recs) != len(others) {
		t.Fatalf("%d records, want %d", len(recs), len(others))
	}
	for _, rec := range recs {
		if rec.Offences != 2 || rec.Tier != 2 || rec.Port != trapTCP {
			t.Errorf("got %+v, want 2 offences and tier 2", rec)
		}
	}
	w.stop()
	if _, err := w.Stats(t.Context()); err != ErrEnded {
		t.Errorf("got error %v, want %v", err, ErrEnded)
	}
}

// What was banned before somebody asks to save is saved, although the kernel may hold the news of it back.
func TestSavedAtOnce(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	path := filepath.Join(t.TempDir(), "state.jsonl")
	w := l.watch(func(c *Config) { c.State = path })
	var all []netip.Addr
	for range 20 {
		offenders := l.pair()
		all = append(all, offenders...)
		l.offend(offenders...)
		if err := w.Save(t.Context()); err != nil {
			t.Fatal(err)
		}
		recs := l.remembered(path)
		for _, src := range all {
			if rec := recs[l.read().Source(src)]; !rec.Banned || rec.Offences != 1 {
				t.Fatalf("%v is remembered as %+v", src, rec)
			}
		}
	}
	last := l.pair()
	l.offend(last...)
	w.stop()
	recs := l.remembered(path)
	for _, src := range last {
		if rec := recs[l.read().Source(src)]; !rec.Banned || rec.Offences != 1 {
			t.Errorf("at its end %v is remembered as %+v", src, rec)
		}
	}
	w.want(banned, 1, 1, append(all, last...)...)
	w.quiet()
}
