package main

import (
	"fmt"
	"time"
)

// memory measures how much of the watcher is in memory when as many bans are in force as the sets of the default take.
func memory(b *bench, _ *scope) (*table, error) {
	t := &table{
		caption: "Memory of the watcher",
		columns: []string{"bans", "made", "when it has them", "after three savings", "peak"},
		note:    "Resident memory, of which the program itself is part. Bans and offences are saved once a minute.",
	}
	for _, c := range []struct {
		bans        int
		made        string
		watchBefore bool
	}{
		{0, "", true},
		{manyBans, "before it starts", false},
		{manyBans, "by packets while it runs", true},
	} {
		var runs []footprint
		for range min(b.count, 3) {
			err := within(func(s *scope) error {
				f, err := measureMemory(b, s, c.bans, c.watchBefore)
				runs = append(runs, f)
				return err
			})
			if err != nil {
				return nil, err
			}
		}
		t.row(thousandsOr0(c.bans), c.made, footprints(runs, func(f footprint) int64 { return f.first }),
			footprints(runs, func(f footprint) int64 { return f.saved }), footprints(runs, func(f footprint) int64 { return f.peak }))
	}
	return t, nil
}

func thousandsOr0(n int) string {
	if n == 0 {
		return "0"
	}
	return thousands(n)
}

// footprint is memory in bytes.
type footprint struct{ first, saved, peak int64 }

func footprints(runs []footprint, value func(footprint) int64) string {
	values := make([]float64, len(runs))
	for i, r := range runs {
		values[i] = float64(value(r))
	}
	return fmt.Sprintf("%.1f MB", median(values)/1e6)
}

func measureMemory(b *bench, t *scope, bans int, watchBefore bool) (f footprint, err error) {
	g, err := newTarget(t)
	if err != nil {
		return f, err
	}
	toml, err := b.watchConfig("")
	if err != nil {
		return f, err
	}
	var w *watcher
	if watchBefore {
		if w, err = b.watch(t, g.host(), toml); err != nil {
			return f, err
		}
	}
	if bans > 0 {
		in, err := g.burst(t, randomAddrs(bans))
		if err != nil {
			return f, err
		}
		if err := pinned(func() error { _, err := in.send(1); return err }); err != nil {
			return f, err
		}
	}
	if err := wantCount(g.conn, firstTier.Name, bans); err != nil {
		return f, err
	}
	if !watchBefore {
		if w, err = b.watch(t, g.host(), toml); err != nil {
			return f, err
		}
	}
	_, _, err = w.after("count offences", func() (bool, error) { s, err := w.Status(); return s.Offenders == bans, err })
	if err != nil {
		return f, err
	}
	if f.first, _, err = w.memory(); err != nil {
		return f, err
	}
	for range 3 {
		if err := w.Save(); err != nil {
			return f, err
		}
	}
	time.Sleep(2 * time.Second) // Go gives memory back little by little
	f.saved, f.peak, err = w.memory()
	return f, err
}
