package watch

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/portmon/portmon/internal/state"
	"github.com/portmon/portmon/ruleset"
)

func TestReconfigure(t *testing.T) {
	t.Parallel()
	l := newLab(t, 2*time.Second, time.Hour, 2*time.Hour)
	faults := make(chan error, 1)
	w := l.watch(func(c *Config) { c.Fault = func(err error) { faults <- err } })
	offenders := l.pair()
	l.offend(offenders...)
	w.want(banned, 1, 1, offenders...)
	send := func(change func(*Config)) {
		c := Config{Spec: l.spec, Forget: time.Hour}
		change(&c)
		w.reload <- c
	}
	for name, bad := range map[string]func(*Config){
		"no ladder": func(c *Config) { c.Spec.BanTime = nil },
		"table":     func(c *Config) { c.Spec.Table = "other" },
		"log group": func(c *Config) { c.Spec.LogGroup++ },
	} {
		send(bad)
		select {
		case <-faults:
		case <-time.After(deadline):
			t.Fatalf("%s: not refused", name)
		}
	}
	l.spec.BanTime = []time.Duration{2 * time.Second, 3 * time.Hour, 4 * time.Hour}
	send(func(*Config) {})
	l.awaitFree(offenders...)
	start := time.Now()
	l.offend(offenders...) // is counted on, in the new ladder
	w.want(escalated, 2, 2, offenders...)
	for _, src := range offenders {
		l.awaitTier(src, 2, 3*time.Hour, start)
	}
	l.served(l.pair()...)
	w.quiet()
}

func TestSavedWhileItWatches(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	path := filepath.Join(t.TempDir(), "state.jsonl")
	w := l.watch(func(c *Config) { c.State, c.SaveEvery = path, 20*time.Millisecond })
	offenders := l.pair()
	l.offend(offenders...)
	w.want(banned, 1, 1, offenders...)
	await(t, "the offences are saved", func() bool {
		f, err := state.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		n := 0
		for rec := range f.Records() {
			if rec.Offences == 1 && rec.Banned && rec.Tier == 1 && rec.Port == trapTCP {
				n++
			}
		}
		return n == len(offenders)
	})
	l.cut(offenders...)
	l.served(l.pair()...)
}

// A change of the ban times makes no offence of the bans that there are, whether a watcher sees it or one that comes later.
func TestNewBanTimeIsNoOffence(t *testing.T) {
	for name, bantime := range map[string][]time.Duration{"longer": {3 * time.Hour, 9 * time.Hour}, "shorter": {time.Hour, 9 * time.Hour}} {
		for _, watched := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, watched %v", name, watched), func(t *testing.T) {
				t.Parallel()
				l := newLab(t, 2*time.Hour, 9*time.Hour)
				path := filepath.Join(t.TempDir(), "state.jsonl")
				saves := func(c *Config) { c.State = path }
				w := l.watch(saves)
				offenders := l.pair()
				l.offend(offenders...)
				w.want(banned, 1, 1, offenders...)
				if !watched {
					w.stop()
				}
				l.spec.BanTime = bantime
				l.apply()
				if watched {
					w.reload <- Config{Spec: l.spec, Forget: 24 * time.Hour}
				} else {
					w = l.watch(saves)
				}
				next := l.pair()
				l.offend(next...)
				w.want(banned, 1, 1, next...)
				w.quiet()
				l.wantOffences(w, 1, append(offenders, next...)...)
				l.cut(offenders...)
			})
		}
	}
}

// wantOffences fails the test unless each of the sources has that many offences, and is in the tier of that number alone.
func (l *lab) wantOffences(w *watcher, n int, sources ...netip.Addr) {
	l.t.Helper()
	for _, src := range sources {
		_, recs, err := w.Records(l.t.Context(), l.read().Source(src))
		if err != nil {
			l.t.Fatal(err)
		}
		for rec := range recs {
			if rec.Offences != n {
				l.t.Errorf("%v has %d offences, want %d", src, rec.Offences, n)
			}
		}
		if tiers, _ := l.bans(src); !slices.Equal(tiers, []int{n}) {
			l.t.Errorf("%v is in tiers %v, want %d", src, tiers, n)
		}
	}
}

// When the ladder has become shorter and the sets of its upper tiers were flushed, their bans go on in what is now the longest tier.
func TestShorterLadderAfterFlush(t *testing.T) {
	for name, late := range map[string]bool{"told before": false, "told after": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t, ladder...)
			ends := l.many(20, 3)
			w := l.watch()
			w.awaitNews(Banned, len(ends))
			const longest = 30 * time.Minute
			tell := func() { w.reload <- Config{Spec: l.spec, Forget: 24 * time.Hour} }
			l.nft("flush ruleset")
			l.spec.BanTime = []time.Duration{2 * time.Second, longest}
			if !late {
				tell()
			}
			l.apply()
			if late {
				tell()
			}
			w.awaitNews(Restored, len(ends))
			for p := range ends {
				set := ruleset.BanSet(p.key.From.Addr(), 2)
				await(t, "it is in tier 2", func() bool { _, err := l.conn.Get(l.setOf(set), p.key.From); return err == nil })
				el, err := l.conn.Get(l.setOf(set), p.key.From)
				if err != nil || el.Expires > longest || el.Expires < longest-deadline {
					t.Errorf("%v in %s: %v left, error %v, want %v", p.key, set, el.Expires, err, longest)
				}
				l.cut(p.key.From.Addr())
			}
			l.served(l.pair()...)
		})
	}
}
