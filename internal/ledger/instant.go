package ledger

import "time"

// Instant is a moment on CLOCK_MONOTONIC, in nanoseconds since the host booted; negative before that. This clock never jumps, and
// it stands still while the host is suspended, as the timeouts of the kernel's sets do. What happened within one hundred years of
// now can be told; what is farther away is taken to be that far.
type Instant int64

// horizon keeps sums and differences of instants within 64 bits.
const horizon = 100 * 365 * 24 * time.Hour

// Add returns the moment d after i.
func (i Instant) Add(d time.Duration) Instant { return i + Instant(d) }

// Sub returns the time from j to i.
func (i Instant) Sub(j Instant) time.Duration { return time.Duration(i - j) }

// Now is one reading of both clocks. Only the wall clock goes by the calendar, and it may be set at any time; so it is asked when
// something comes in or goes out, and what is compared is always an [Instant].
type Now struct {
	Wall time.Time
	Mono Instant
}

// Instant returns when the wall clock showed t, provided that it was not set since. Nothing has happened in the future: that is
// taken as now.
func (n Now) Instant(t time.Time) Instant { return n.Mono.Add(-max(0, n.Wall.Sub(t))) }

// Time returns what the wall clock, as it goes now, showed or will show at i.
func (n Now) Time(i Instant) time.Time { return n.Wall.Add(i.Sub(n.Mono)) }
