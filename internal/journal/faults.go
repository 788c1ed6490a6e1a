package journal

import (
	"context"
	"log/slog"
	"slices"
	"time"

	"github.com/portmon/portmon/internal/ledger"
)

const (
	// again is how long a fault is not told again that was told.
	again = time.Minute
	// maxFaults is how many different ones are told in that time. A fault may name an address, of which there are many.
	maxFaults = 20
)

// faults are those told in the last minute, the oldest first.
type faults struct {
	told []fault
	// others is how many came that there was no room for, the first of them at that moment.
	others int
	since  ledger.Instant
}

type fault struct {
	text   string
	at     ledger.Instant
	silent int // how often it came since
}

// Fault writes what went wrong; the same no more than once a minute, with the count of what was left out.
func (j *Journal) Fault(err error, now ledger.Now) {
	f, text := &j.faults, err.Error()
	j.flushFaults(now.Mono.Add(-again))
	i := slices.IndexFunc(f.told, func(t fault) bool { return t.text == text })
	switch {
	case i >= 0:
		f.told[i].silent++
	case len(f.told) >= maxFaults:
		if f.others == 0 {
			f.since = now.Mono
		}
		f.others++
	default:
		f.told = append(f.told, fault{text: text, at: now.Mono})
		j.log.Warn(text)
	}
}

// flushFaults tells what was left out of those faults that were told until then. One that goes on stays told.
func (j *Journal) flushFaults(until ledger.Instant) {
	f := &j.faults
	var later []fault
	f.told = slices.DeleteFunc(f.told, func(t fault) bool {
		if t.at > until {
			return false
		}
		if t.silent > 0 {
			j.warn(t.text, t.silent)
			later = append(later, fault{text: t.text, at: until.Add(again)})
		}
		return true
	})
	f.told = append(f.told, later...)
	if f.others > 0 && f.since <= until {
		j.warn("other faults", f.others)
		f.others = 0
	}
}

func (j *Journal) warn(text string, times int) {
	j.log.LogAttrs(context.Background(), slog.LevelWarn, text, slog.Int("times", times))
}
