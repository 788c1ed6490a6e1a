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

// cpuTime returns the CPU time that a process has spent.
func cpuTime(t *testing.T, pid int) time.Duration {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	_, fields, ok := strings.Cut(string(text), ") ") // the name may have blanks in it
	if err != nil || !ok {
		t.Fatalf("%q, %v", text, err)
	}
	const tick = 10 * time.Millisecond // USER_HZ is 100 for all programs
	var ticks int
	for _, field := range strings.Fields(fields)[11:13] { // utime and stime
		n, err := strconv.Atoi(field)
		if err != nil {
			t.Fatal(err)
		}
		ticks += n
	}
	return time.Duration(ticks) * tick
}

// TestFootprint has as many bans as a set of the default takes. They need some
// 7 MB, and an idle watcher 4 MB, and next to no CPU time.
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
		const span, busy = 2 * time.Second, 200 * time.Millisecond
		began := cpuTime(t, p.Process.Pid)
		time.Sleep(span)
		spent := cpuTime(t, p.Process.Pid) - began
		if spent > busy {
			t.Errorf("it spends %s of CPU time in %s with nothing to do", spent, span)
		}
		t.Logf("made before: %v; %d bytes; %s of %s", before, used, spent, span)
		p.stop()
	}
}
