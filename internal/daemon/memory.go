package daemon

import (
	"context"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"time"

	"golang.org/x/sys/unix"
)

// refuseHugePages has the kernel give this process pages of the common size.
// Where transparent_hugepage is "always", as in Debian's kernels, each page that
// is left of the heap would keep 2 MB.
func refuseHugePages() {
	// Since Linux 3.15. It fails only if we pass something else, and is no more
	// than a saving.
	_ = unix.Prctl(unix.PR_SET_THP_DISABLE, 1, 0, 0, 0)
}

const (
	// collectSooner has garbage collected when there is half as much of it as of
	// what is kept, where Go would wait for as much again.
	collectSooner = 50
	// collectLater is for what others wait for: it takes memory in place of time.
	collectLater = 200
)

// collectAt has garbage collected when there is so much of it, in per cent of what
// is kept; unless the user says otherwise by GOGC. The function that it returns
// undoes it.
func collectAt(percent int) (undo func()) {
	if os.Getenv("GOGC") != "" {
		return func() {}
	}
	before := debug.SetGCPercent(percent)
	return func() { debug.SetGCPercent(before) }
}

// giveBack gives memory that is not needed any more back to the system, every
// few seconds in which much was allocated: Go would keep for minutes what it
// took to read all bans at the start. With many bans it takes some time, and so
// it is done in a fiftieth of the time at most, but twice a minute on a machine
// that has no time.
func giveBack(ctx context.Context) {
	const every, atMost, much = 5 * time.Second, 30 * time.Second, 2 << 20
	allocated := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	for before := uint64(0); ctx.Err() == nil; sleep(ctx, every) {
		metrics.Read(allocated)
		if now := allocated[0].Value.Uint64(); now-before > much {
			before = now
			start := time.Now()
			debug.FreeOSMemory()
			sleep(ctx, min(50*time.Since(start), atMost))
		}
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
