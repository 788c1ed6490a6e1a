package book

import (
	"time"

	"golang.org/x/sys/unix"
)

// Moment is a point in time on CLOCK_BOOTTIME, in nanoseconds since the host
// booted, negative before that. This clock cannot be set, and goes on while the
// host sleeps. The file keeps moments to the millisecond.
type Moment int64

// horizon bounds how far a moment may be from now, so that sums do not
// overflow.
const horizon = 100 * 365 * 24 * time.Hour

// Add returns the moment d after m.
func (m Moment) Add(d time.Duration) Moment { return m + Moment(d) }

// Sub returns the time from n to m.
func (m Moment) Sub(n Moment) time.Duration { return time.Duration(m - n) }

// bound returns a moment within the horizon of now.
func bound(m, now Moment) Moment { return now.Add(min(max(m.Sub(now), -horizon), horizon)) }

// Clock is one reading of both clocks.
type Clock struct {
	Boot Moment
	Wall time.Time
}

// ReadClock reads both clocks.
func ReadClock() Clock {
	var boot unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &boot); err != nil {
		panic("every Linux has CLOCK_BOOTTIME: " + err.Error())
	}
	return Clock{Boot: Moment(boot.Nano()), Wall: time.Now()}
}

// Time returns what the wall clock shows at m, as it runs now.
func (c Clock) Time(m Moment) time.Time { return c.Wall.Add(m.Sub(c.Boot)) }

// Moment returns when the wall clock showed t, if it was not set since. A time
// in the future is taken as now.
func (c Clock) Moment(t time.Time) Moment { return c.Boot.Add(-max(0, c.Wall.Sub(t))) }
