package watch

import (
	"context"
	"errors"
	"iter"
	"maps"
	"net/netip"
	"slices"

	"github.com/portmon/portmon/internal/state"
)

// ErrEnded tells that the watcher does not run any more.
var ErrEnded = errors.New("the watcher has ended")

// ask has the loop call a function, and returns when it has.
func (w *Watcher) ask(ctx context.Context, f func(*loop)) error {
	called := make(chan struct{})
	select {
	case w.l.asks <- func() { f(w.l); close(called) }:
		<-called
		return nil
	case <-w.l.ended:
		return ErrEnded
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Stats returns what there is to count. It asks nothing of the kernel.
func (w *Watcher) Stats(ctx context.Context) (s Stats, err error) {
	err = w.ask(ctx, func(l *loop) {
		now := state.Clock().Mono
		s = Stats{
			counters: l.core.stats, Table: l.core.table.state == standing, Handle: l.core.table.handle, Tiers: len(l.core.spec.BanTime),
			Bans: l.core.live(now), Offenders: l.core.led.Len(), Saves: l.saves, SaveFailures: l.failures,
		}
		s.Offences = maps.Clone(s.Offences)
	})
	return s, err
}

// Records returns what is remembered: of these sources, or of all if none are named.
func (w *Watcher) Records(ctx context.Context, of ...netip.Prefix) (h state.Header, recs iter.Seq[state.Record], err error) {
	var s *snapshot
	if err := w.ask(ctx, func(l *loop) { h, s = l.snapshot() }); err != nil {
		return h, nil, err
	}
	return h, func(yield func(state.Record) bool) {
		for rec := range s.records() {
			if (len(of) == 0 || slices.Contains(of, rec.Prefix)) && !yield(rec) {
				return
			}
		}
	}, nil
}

// Save writes the state file now.
func (w *Watcher) Save(ctx context.Context) error {
	var saved error
	err := w.ask(ctx, func(l *loop) {
		if saved = l.catchUp(); saved != nil {
			return
		}
		l.settle()
		saved = l.save()
	})
	return errors.Join(err, saved)
}

// Forgive makes the offences of sources count no more, and returns those that had any. Their bans stay.
func (w *Watcher) Forgive(ctx context.Context, sources ...netip.Prefix) (had []netip.Prefix, err error) {
	err = w.ask(ctx, func(l *loop) {
		now := state.Clock().Mono
		for _, src := range sources {
			if _, ok := l.core.led.Lookup(src, now); ok {
				l.core.led.Unbanned(src, now, now)
				had = append(had, src)
			}
		}
	})
	return had, err
}
