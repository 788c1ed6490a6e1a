package config

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/portmon/portmon/internal/text"
	"github.com/portmon/portmon/ruleset"
)

// What most keys accept: from the shortest duration that can be written to the
// longest that a set can hold.
const (
	minDuration = time.Second
	maxDuration = ruleset.MaxBanTime
)

// units are what a duration is written in, in the order in which they must
// stand. Months and years are left out, as they have no fixed length.
var units = []struct {
	name byte
	size time.Duration
}{
	{'w', 7 * 24 * time.Hour},
	{'d', 24 * time.Hour},
	{'h', time.Hour},
	{'m', time.Minute},
	{'s', time.Second},
}

// errDuration says what a duration from low to high looks like.
func errDuration(low, high time.Duration) error {
	var examples []string
	for _, text := range []string{"90s", "10m", "8h", "3d", "1w", "1d12h"} {
		if _, err := scanDuration(text, high); err == nil {
			examples = append(examples, strconv.Quote(text))
		}
	}
	last := len(examples) - 1
	return fmt.Errorf("want a duration from %s to %s, such as %s or %s",
		text.Duration(low), text.Duration(high), strings.Join(examples[:last], ", "), examples[last])
}

// ParseDuration reads a duration from 1s to 3650d: whole numbers of w, d, h, m
// and s, each unit at most once and the longest first, without spaces. The
// error says what is allowed and does not repeat s.
func ParseDuration(s string) (time.Duration, error) {
	return parseDuration(s, minDuration, maxDuration)
}

// parseDuration is ParseDuration for another range.
func parseDuration(s string, low, high time.Duration) (time.Duration, error) {
	if _, err := strconv.ParseUint(s, 10, 64); err == nil {
		return 0, fmt.Errorf("no unit: %w", errDuration(low, high))
	}
	if strings.HasSuffix(s, "y") || strings.HasSuffix(s, "mo") {
		return 0, fmt.Errorf("months and years have no fixed length: %w", errDuration(low, high))
	}
	d, err := scanDuration(s, high)
	if err != nil || d < low {
		return 0, errDuration(low, high)
	}
	return d, nil
}

var errSyntax = errors.New("not a duration")

// scanDuration reads a duration of at most high, which is at most maxDuration.
func scanDuration(s string, high time.Duration) (d time.Duration, err error) {
	if s == "" {
		return 0, errSyntax
	}
	left := units
	for rest := s; rest != ""; {
		digits := strings.IndexFunc(rest, func(c rune) bool { return c < '0' || '9' < c })
		if digits <= 0 {
			return 0, errSyntax
		}
		n, err := strconv.ParseUint(rest[:digits], 10, 63)
		if err != nil {
			return 0, errSyntax // too many digits
		}
		for len(left) > 0 && left[0].name != rest[digits] {
			left = left[1:]
		}
		if len(left) == 0 || time.Duration(n) > high/left[0].size {
			return 0, errSyntax
		}
		// No overflow: each of the five terms is at most maxDuration.
		d += time.Duration(n) * left[0].size
		left = left[1:]
		rest = rest[digits+1:]
	}
	if d > high {
		return 0, errSyntax
	}
	return d, nil
}

// duration returns a duration from low to high: a string, or seconds as an
// integer.
func (r *reader) duration(v value, low, high time.Duration) (time.Duration, bool) {
	var d time.Duration
	var err error
	switch v.kind {
	case absent:
		return 0, false
	case aString:
		d, err = parseDuration(v.text, low, high)
	case anInteger:
		n, ok := parseInteger(v.text)
		if !ok || n < int64(low/time.Second) || n > int64(high/time.Second) {
			err = errDuration(low, high)
		}
		d = time.Duration(n) * time.Second
	default:
		err = fmt.Errorf("%w, not %s", errDuration(low, high), v.kind)
	}
	if err != nil {
		r.fault(v.place(), "%w", err)
		return 0, false
	}
	return d, true
}

// ladder returns the timeouts of the tiers: a list of durations, each longer
// than the one before, or a single duration.
func (r *reader) ladder(v value) ([]time.Duration, bool) {
	if v.kind != aList {
		d, ok := r.duration(v, minDuration, maxDuration)
		return []time.Duration{d}, ok
	}
	if n := len(v.items); n < 1 || n > ruleset.MaxSteps {
		r.fault(v.place(), "%d tiers: want 1 to %d", n, ruleset.MaxSteps)
		return nil, false
	}
	var tiers []time.Duration
	for _, item := range v.items {
		d, ok := r.duration(item, minDuration, maxDuration)
		if !ok {
			continue
		}
		if n := len(tiers); n > 0 && d <= tiers[n-1] {
			r.fault(item.place(), "each tier must be longer than the one before, which is %s", text.Duration(tiers[n-1]))
		}
		tiers = append(tiers, d)
	}
	return tiers, len(tiers) == len(v.items)
}
