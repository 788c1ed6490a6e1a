package daemon

import (
	"context"
	"os"
	"runtime/debug"
	"time"
)

// collectSooner has garbage collected when there is half as much of it as of
// what is kept, where Go would wait for as much again; unless the user says
// otherwise by GOGC. The function that it returns undoes it.
func collectSooner() (undo func()) {
	if os.Getenv("GOGC") != "" {
		return func() {}
	}
	before := debug.SetGCPercent(50)
	return func() { debug.SetGCPercent(before) }
}

// onFreed is called by the watcher when it has read or written much.
func (d *daemon) onFreed() {
	select {
	case d.freed <- struct{}{}:
	default:
	}
}

// giveBack gives memory that is not needed any more back to the system: Go
// would keep for minutes what it took to read all bans at the start. With many
// bans it takes some time, and so it is done beside the watcher, and in a
// fiftieth of the time at most.
func (d *daemon) giveBack(ctx context.Context) {
	for {
		select {
		case <-d.freed:
		case <-ctx.Done():
			return
		}
		start := time.Now()
		debug.FreeOSMemory()
		sleep(ctx, 50*time.Since(start))
	}
}

// sleep returns when the time has passed or the context has ended.
func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
