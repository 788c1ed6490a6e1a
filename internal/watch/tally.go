package watch

import (
	"context"
	"errors"
	"time"

	"github.com/portmon/portmon/internal/book"
	"github.com/portmon/portmon/internal/stats"
	"github.com/portmon/portmon/ruleset"
)

// addToTally adds a ban to the statistics.
func (k *core) addToTally(n *News, now book.Clock) {
	o := stats.Offence{At: now.Wall, Cause: n.Cause, Observed: n.Observed}
	switch n.Kind {
	case Banned, Escalated:
		if n.old {
			return
		}
		o.Step, o.Proto, o.Port, o.First = n.Step, n.Proto, n.Port, n.Offences == 1
		o.At = n.happened(now)
		if n.Before != 0 {
			o.Before = now.Time(n.Before)
		}
	case ByHand:
	default:
		return
	}
	k.tally.AddOffence(o)
}

// addPlaces adds to the statistics where the sources of offences are, and what
// they used.
func (k *core) addPlaces(news []News, now book.Clock) {
	for i := range news {
		if n := &news[i]; n.isOffence() {
			k.tally.AddPlace(n.happened(now), n.Place)
			k.tally.AddUser(n.happened(now), n.Source, n.Uses)
		}
	}
}

// isOffence reports whether the news is of an offence that counts.
func (n *News) isOffence() bool { return n.Kind <= Escalated && n.Step > 0 && !n.old }

// happened returns when an offence was, as far as that is known.
func (n *News) happened(now book.Clock) time.Time {
	if n.At == 0 {
		return now.Wall
	}
	return now.Time(min(n.At, now.Boot))
}

// addTable adds what the counters of the table have grown. Tables are read one
// after the other, so what was read is never older than what is known.
func (k *core) addTable(t stats.Table, now book.Clock) {
	made := k.table.made || now.Boot < k.table.madeBy // its event may come later
	if k.tally.AddTable(t, made, now.Wall) {
		k.table.made, k.table.countedAt = false, now.Boot
	}
}

// openTally returns the statistics. If their file cannot be used, they are in
// memory only.
func (w *Watcher) openTally(here book.Origin, now book.Clock) *stats.Stats {
	if w.config.State == "" {
		return stats.New(time.Local)
	}
	s, report, err := stats.Open(w.config.State, here, time.Local, now, lockPatience)
	if err != nil {
		w.fault(err)
		return stats.New(time.Local)
	}
	if damage := report.String(); damage != "" {
		w.fault(errors.New(damage))
	}
	return s
}

// count reads the counters of the table, and returns when what they have grown
// is in the statistics: it would be lost with the table.
func (w *Watcher) count(ctx context.Context) error {
	counted := make(chan error, 1)
	err := w.call(ctx, func() {
		if w.core.paused != 0 {
			counted <- nil
			return
		}
		w.core.toCount = true
		w.counting = append(w.counting, counted)
	})
	if err != nil {
		return err
	}
	select {
	case err := <-counted: // at the end at the latest
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (w *Watcher) answerCounting(err error) {
	for _, counted := range w.counting {
		counted <- err
	}
	w.counting = nil
}

// closeTally adds what the counters have grown until now, and writes the
// statistics, unless the book could not be: what it lacks will be counted again.
func (w *Watcher) closeTally(now book.Clock, booked bool) {
	k := w.core
	defer k.tally.Close()
	if !booked {
		return
	}
	if s, err := ruleset.Read(w.editor, k.spec.Table); err != nil {
		w.fault(err)
	} else if k.begun {
		k.addTable(stats.TableOf(s), now)
	}
	if wait := k.tally.Flush(now); wait != nil {
		w.fault(wait())
	}
}
