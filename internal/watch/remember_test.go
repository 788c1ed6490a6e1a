package watch

import (
	"maps"
	"net/netip"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/portmon/portmon/internal/state"
	"github.com/portmon/portmon/ruleset"
)

// A new table, as after a reboot, gets the bans that the watcher before has saved, but not those that were lifted while none ran.
func TestNewTableWhileNobodyWatched(t *testing.T) {
	t.Parallel()
	const bans = 10_000
	l := newLab(t, ladder...)
	path := filepath.Join(t.TempDir(), "state.jsonl")
	saves := func(c *Config) { c.State = path }
	ends := l.many(bans, 2) // no ban is restored for longer than its tier is
	w := l.watch(saves)
	w.awaitNews(Banned, bans)
	offenders, more := l.offendTwice(w)
	lifted, _ := l.offendTwice(w)
	maps.Copy(ends, more)
	prefix := netip.MustParsePrefix("203.0.113.0/24")
	if _, err := l.read().Ban(l.conn, prefix, ruleset.Forever, "net"); err != nil {
		t.Fatal(err)
	}
	l.wantPrefix(w, ByHand, prefix, "net")
	w.stop()

	l.unban(lifted...)
	w = l.watch(saves) // learns that they were lifted
	w.quiet()
	w.stop()
	l.nft("flush ruleset")
	l.apply()
	w = l.watch(saves)
	w.awaitNews(Restored, len(ends)+1)
	w.quiet()
	l.wantAll(ends)
	l.cut(offenders...)
	l.cut(netip.MustParseAddr("203.0.113.9"))
	l.served(lifted...)
	l.served(l.pair()...)
	l.offend(lifted...)
	w.want(banned, 1, 1, lifted...)
	w.quiet()
}

func TestBanByHandIsRememberedAsSuch(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	path := filepath.Join(t.TempDir(), "state.jsonl")
	saves := func(c *Config) { c.State = path }
	w := l.watch(saves)
	sources := l.pair()
	for _, src := range sources {
		s := l.read()
		if _, err := s.Ban(l.conn, s.Source(src), time.Hour, ""); err != nil {
			t.Fatal(err)
		}
	}
	w.want([]Kind{ByHand}, 1, 0, sources...)
	for range 3 {
		w.stop()
		for _, src := range sources {
			if rec, ok := w.loop.core.led.Lookup(l.read().Source(src), state.Clock().Mono); ok {
				t.Errorf("%v has offences: %+v", src, rec)
			}
		}
		w = l.watch(saves)
		w.quiet()
	}
	l.cut(sources...)
	l.served(l.pair()...)
}

// Whoever gives memory back is told when there is some: after the start, and after each saving.
func TestFreed(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	var freed atomic.Int32
	w := l.watch(func(c *Config) {
		c.State = filepath.Join(t.TempDir(), "state.jsonl")
		c.Freed = func() { freed.Add(1) }
	})
	for range 3 {
		before := freed.Load()
		if err := w.Save(t.Context()); err != nil {
			t.Fatal(err)
		}
		if before == 0 || freed.Load() == before {
			t.Fatalf("told %d times before a saving, and %d times after it", before, freed.Load())
		}
	}
}
