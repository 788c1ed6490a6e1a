// Package journal writes what the watcher has done, one line for each ban, and no more lines than anybody can read.
package journal

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/portmon/portmon/internal/ledger"
	"github.com/portmon/portmon/internal/watch"
)

// How many lines there may be: so many at once, and in the long run one each interval.
const (
	burst    = 200
	interval = 200 * time.Millisecond
)

// Journal writes lines. It is not safe for concurrent use.
type Journal struct {
	log *slog.Logger

	// room is for how many lines there was room at that moment.
	room float64
	at   ledger.Instant
	// left counts the lines left out since the last one, by kind.
	left map[watch.Kind]int

	faults faults
}

// New returns a journal that writes to a logger.
func New(log *slog.Logger) *Journal {
	return &Journal{log: log, room: burst, left: make(map[watch.Kind]int)}
}

// Tell writes a line for each of the news, as far as there is room. What concerns the whole table is always written.
func (j *Journal) Tell(news []watch.News, now ledger.Now) {
	for i := range news {
		n := &news[i]
		if !j.has(now) && !important(n.Kind) {
			j.left[n.Kind]++
			continue
		}
		j.flush()
		level := slog.LevelInfo
		if important(n.Kind) && n.Kind != watch.Restored {
			level = slog.LevelWarn
		}
		j.log.LogAttrs(context.Background(), level, n.Kind.String(), attrs(n, now)...)
	}
}

// Flush tells what was left out, if there is room again.
func (j *Journal) Flush(now ledger.Now) {
	if len(j.left) > 0 && j.has(now) {
		j.flush()
	}
	j.flushFaults(now.Mono.Add(-again))
}

// Close tells what was left out.
func (j *Journal) Close() {
	j.flush()
	j.flushFaults(math.MaxInt64 - ledger.Instant(again))
}

// important reports whether news are always told. None of these come often.
func important(k watch.Kind) bool {
	return k == watch.TableGone || k == watch.Removed || k == watch.Restored || k == watch.Full
}

// has reports whether there is room for a line, and takes it.
func (j *Journal) has(now ledger.Now) bool {
	j.room = min(burst, j.room+float64(now.Mono.Sub(j.at))/float64(interval))
	j.at = now.Mono
	if j.room < 1 {
		return false
	}
	j.room--
	return true
}

func (j *Journal) flush() {
	if len(j.left) == 0 {
		return
	}
	var parts []string
	total := 0
	for _, kind := range slices.Sorted(maps.Keys(j.left)) {
		parts = append(parts, fmt.Sprintf("%d %s", j.left[kind], kind))
		total += j.left[kind]
	}
	clear(j.left)
	j.log.LogAttrs(context.Background(), slog.LevelInfo, "left out", slog.Int("lines", total), slog.String("of", strings.Join(parts, ", ")))
}

// attrs returns the fields of a line: always of these names, in this order. What is not known is left out.
func attrs(n *watch.News, now ledger.Now) []slog.Attr {
	var a []slog.Attr
	if n.Source.IsValid() {
		a = append(a, slog.String("address", Address(n.Source)))
	}
	if n.Set != "" {
		a = append(a, slog.String("set", n.Set))
	}
	if n.Tier > 0 {
		a = append(a, slog.Int("tier", n.Tier))
	}
	if n.Port > 0 {
		a = append(a, slog.String("port", fmt.Sprintf("%s/%d", ledger.ProtocolName(n.Proto), n.Port)))
	}
	if n.Offences > 0 {
		a = append(a, slog.Int("offences", n.Offences))
	}
	if n.Count > 0 {
		a = append(a, slog.Int("bans", n.Count))
	}
	switch {
	case n.Forever:
		a = append(a, slog.String("until", "forever"))
	case n.Until != 0:
		a = append(a, slog.String("until", now.Time(n.Until).UTC().Format(time.RFC3339)))
	}
	if n.Reason != "" {
		a = append(a, slog.String("reason", n.Reason))
	}
	return a
}

// Address writes a prefix the short way: a single address without its length.
func Address(p netip.Prefix) string {
	if p.IsSingleIP() {
		return p.Addr().String()
	}
	return p.String()
}
