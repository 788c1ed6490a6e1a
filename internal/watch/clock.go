package watch

import (
	"time"

	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/internal/ledger"
)

// now reads both clocks.
func now() ledger.Now {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		panic(err) // there is no Linux without this clock
	}
	return ledger.Now{Wall: time.Now(), Mono: ledger.Instant(ts.Nano())}
}
