package daemon

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/portmon/portmon/internal/lab"
	"github.com/portmon/portmon/ruleset"
)

// anonymous returns how much memory of its own a process has, in bytes: not the
// program itself, of which the test binary is another one.
func anonymous(t testing.TB, pid int) int {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(string(text), "RssAnon:")
	n, err := strconv.Atoi(strings.Fields(after)[0])
	if err != nil {
		t.Fatal(err)
	}
	return n << 10
}

// TestFootprint has as many bans as a set of the default takes. They need some
// 7 MB, and an idle watcher 4 MB.
func TestFootprint(t *testing.T) {
	t.Parallel()
	if raceEnabled {
		t.Skip("the race detector needs memory of its own")
	}
	const bans = 65_536
	most := 19_000_000
	// Where the kernel gives huge pages to everybody, as Debian's does, the
	// variables of Go's runtime alone take two of them.
	if text, _ := os.ReadFile("/sys/kernel/mm/transparent_hugepage/enabled"); strings.Contains(string(text), "[always]") {
		most += 4 << 20
	}
	// They are an hour old: the watcher asks about each that is not older than its
	// start.
	records := make([]ruleset.Record, bans)
	for i := range records {
		records[i] = ruleset.Record{
			Source: prefixOf(source(i)), Banned: true, Timeout: 8 * time.Hour, Remaining: 7 * time.Hour, Step: 1,
			StepRemaining: 720 * time.Hour, Cause: ruleset.CauseTrap,
		}
	}
	for _, before := range []bool{true, false} {
		l := newLab(t)
		if before {
			l.put(records...)
		}
		p := l.start()
		if !before {
			l.put(records...)
		}
		p.awaitOffenders(bans)
		lab.Await(t, "all is saved", func() bool { return p.ask().Save() == nil })
		used := 0
		lab.Await(t, fmt.Sprintf("no more than %d bytes", most), func() bool {
			used = anonymous(t, p.Process.Pid)
			return used <= most
		})
		t.Logf("made before: %v; %d bytes", before, used)
		p.stop()
	}
}
