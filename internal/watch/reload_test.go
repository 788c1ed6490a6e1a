package watch

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/portmon/portmon/internal/state"
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
