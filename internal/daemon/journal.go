package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/portmon/portmon/internal/book"
	"github.com/portmon/portmon/internal/text"
	"github.com/portmon/portmon/internal/watch"
)

const (
	// burst is how many lines about news there may be at once; in the long run
	// there is one each interval.
	burst    = 200
	interval = 200 * time.Millisecond
	// again is for how long a fault is counted rather than written again.
	again = time.Minute
	// maxFaults is how many different ones are told apart in that time. A fault
	// may name an address, of which there are many.
	maxFaults = 20
)

// otherFaults stands for those that there was no room for.
const otherFaults = "other faults"

// journal logs what the watcher did and what went wrong, at a bounded rate, with
// the count of what was left out. Foreign text is logged only as values of
// fields, which are quoted where needed.
type journal struct {
	*slog.Logger // for what is always logged

	mu sync.Mutex // guards what follows

	// room is for how many lines there was room at that moment.
	room float64
	at   book.Moment
	// left counts the lines left out since the last one, by what happened.
	left map[string]int

	faults map[string]*fault // by text
}

// fault is one that was written.
type fault struct {
	at    book.Moment // when that was
	again int         // how often it has come again since
}

func newJournal(log *slog.Logger) *journal {
	return &journal{Logger: log, room: burst, left: make(map[string]int), faults: make(map[string]*fault)}
}

// newLogger returns a logger whose lines need not have the time.
func newLogger(w io.Writer, times bool) *slog.Logger {
	opts := new(slog.HandlerOptions)
	if !times {
		opts.ReplaceAttr = func(groups []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey && len(groups) == 0 {
				return slog.Attr{}
			}
			return a
		}
	}
	return slog.New(slog.NewTextHandler(w, opts))
}

// news writes a line for each of them, as far as there is room. What concerns
// the whole table, or many sources, is always written.
func (j *journal) news(news []watch.News, now book.Clock) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for i := range news {
		n := &news[i]
		level, always := slog.LevelInfo, n.Count > 0
		switch n.Kind {
		case watch.TableGone, watch.Removed, watch.Repaired, watch.Full:
			level, always = slog.LevelWarn, true
		case watch.Restored, watch.HeldBack:
			always = true
		}
		if !j.takeRoom(now.Boot) && !always {
			j.left[n.Event()]++
			continue
		}
		j.flushLeft()
		j.LogAttrs(context.Background(), level, n.Event(), attrs(n, now)...)
	}
}

// fault writes what went wrong, the same no more than once a minute.
func (j *journal) fault(err error) { j.faultAt(err, book.ReadClock().Boot) }

func (j *journal) faultAt(err error, now book.Moment) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.flushFaults(now)
	text := err.Error()
	if _, known := j.faults[text]; !known {
		if len(j.faults) < maxFaults {
			j.faults[text] = &fault{at: now}
			j.Warn(text)
			return
		}
		if text = otherFaults; j.faults[text] == nil {
			j.faults[text] = &fault{at: now}
		}
	}
	j.faults[text].again++
}

// Write implements [io.Writer] for the logs of servers, each line a fault.
func (j *journal) Write(line []byte) (int, error) {
	j.fault(errors.New(strings.TrimSpace(string(line))))
	return len(line), nil
}

// flush writes what was left out, if there is room again.
func (j *journal) flush(now book.Moment) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if len(j.left) > 0 && j.takeRoom(now) {
		j.flushLeft()
	}
	j.flushFaults(now)
}

// close writes what was left out.
func (j *journal) close() {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.flushLeft()
	j.flushFaults(math.MaxInt64)
}

// flushFaults writes, a minute after each fault was written, how often it came
// again, and forgets it if it did not.
func (j *journal) flushFaults(now book.Moment) {
	for _, text := range slices.Sorted(maps.Keys(j.faults)) {
		switch f := j.faults[text]; {
		case now.Sub(f.at) < again:
		case f.again > 0:
			j.Warn(text, "times", f.again)
			f.at, f.again = now, 0
		default:
			delete(j.faults, text)
		}
	}
}

// takeRoom reports whether there is room for a line, and takes it.
func (j *journal) takeRoom(now book.Moment) bool {
	j.room = min(burst, j.room+float64(now.Sub(j.at))/float64(interval))
	j.at = now
	if j.room < 1 {
		return false
	}
	j.room--
	return true
}

func (j *journal) flushLeft() {
	if len(j.left) == 0 {
		return
	}
	var parts []string
	total := 0
	for _, event := range slices.Sorted(maps.Keys(j.left)) {
		parts = append(parts, fmt.Sprintf("%d %s", j.left[event], event))
		total += j.left[event]
	}
	clear(j.left)
	j.Info("left out", "lines", total, "of", strings.Join(parts, ", "))
}

// attrs returns the fields of a line: always of these names, in this order.
// What is not known is left out.
func attrs(n *watch.News, now book.Clock) []slog.Attr {
	var a []slog.Attr
	str := func(name, value string) {
		if value != "" {
			a = append(a, slog.String(name, value))
		}
	}
	number := func(name string, value int) {
		if value > 0 {
			a = append(a, slog.Int(name, value))
		}
	}
	str("address", text.Prefix(n.Source))
	str("cause", n.Cause.String())
	number("tier", n.Step)
	if n.Port > 0 {
		str("port", text.Port(n.Proto, n.Port))
	}
	str("country", n.Place.Country)
	str("asn", n.Place.Number())
	str("network", n.Place.Network)
	number("offences", n.Offences)
	switch n.Kind {
	case watch.Full, watch.HeldBack:
		number("offences", n.Count)
	case watch.Disallowed:
		number("allowances", n.Count)
	default:
		number("bans", n.Count)
	}
	switch {
	case n.Forever:
		str("until", "forever")
	case n.Until != 0:
		str("until", now.Time(n.Until).UTC().Format(time.RFC3339))
	}
	str("reason", n.Comment)
	str("wrong", n.What)
	return a
}
