package daemon

import (
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/portmon/portmon/internal/lab"
)

// TestNotice has a command run for an offence, and for one that takes its
// source up the ladder.
func TestNotice(t *testing.T) {
	t.Parallel()
	l := newLab(t, "2s", "2h")
	dir := l.notices(roleNote)
	p := l.start()
	l.Offend(offender)
	lab.Await(t, "a notice", func() bool { return len(notes(t, dir)) == 1 })
	n := notes(t, dir)[0]
	wantFields(t, n, map[string]string{
		"EVENT": "banned", "ADDRESS": "198.18.0.1", "CAUSE": "trap", "TIER": "1", "PROTOCOL": "tcp", "PORT": "23", "OFFENCES": "1",
		"HOST": hostName, "COUNT": "1",
	})
	wantUntil(t, n, 2*time.Second)
	for _, secret := range []string{configVariable, watchdogVariable} {
		if _, there := n[secret]; there {
			t.Errorf("the command has our %s", secret)
		}
	}
	p.stop()

	// Within a minute there is one notice, so another daemon sends the next. It
	// goes on where the last one stopped.
	dir = l.notices(roleNote)
	p = l.start()
	l.AwaitFree(offender)
	l.Offend(offender)
	lab.Await(t, "a notice", func() bool { return len(notes(t, dir)) == 1 })
	n = notes(t, dir)[0]
	wantFields(t, n, map[string]string{
		"EVENT": "escalated", "ADDRESS": "198.18.0.1", "CAUSE": "trap", "TIER": "2", "PROTOCOL": "tcp", "PORT": "23", "OFFENCES": "2",
		"HOST": hostName, "COUNT": "1",
	})
	wantUntil(t, n, 2*time.Hour)
	p.stop()

	dir = l.notices(roleNote)
	p = l.start()
	l.Offend(offender6)
	lab.Await(t, "a notice", func() bool { return len(notes(t, dir)) == 1 })
	wantFields(t, notes(t, dir)[0], map[string]string{
		"EVENT": "banned", "ADDRESS": "2001:db8:1:1::/64", "CAUSE": "trap", "TIER": "1", "PROTOCOL": "tcp", "PORT": "23", "OFFENCES": "1",
		"HOST": hostName, "COUNT": "1",
	})
	p.stop()
}

// wantFields fails the test unless a notice has these fields, some for people,
// and no others.
func wantFields(t testing.TB, n, want map[string]string) {
	t.Helper()
	for name, v := range want {
		if got := n["PORTMON_"+name]; got != v {
			t.Errorf("%s is %q, want %q", name, got, v)
		}
	}
	people := []string{"TITLE", "MESSAGE", "PRIORITY", "UNTIL"}
	for _, name := range people {
		if n["PORTMON_"+name] == "" {
			t.Errorf("there is no %s", name)
		}
	}
	if !strings.Contains(n["PORTMON_TITLE"]+n["PORTMON_MESSAGE"], want["ADDRESS"]) {
		t.Errorf("neither %q nor %q names the address", n["PORTMON_TITLE"], n["PORTMON_MESSAGE"])
	}
	for _, name := range slices.Sorted(maps.Keys(n)) {
		field, ours := strings.CutPrefix(name, "PORTMON_")
		if _, ok := want[field]; ours && !ok && !slices.Contains(people, field) {
			t.Errorf("there is a field %s", field)
		}
	}
}

// wantUntil fails the test unless a notice that has just come tells of a ban of
// that length.
func wantUntil(t testing.TB, n map[string]string, length time.Duration) {
	t.Helper()
	until, err := time.Parse(time.RFC3339, n["PORTMON_UNTIL"])
	if err != nil {
		t.Error(err)
	}
	// The time has no fractions of a second.
	if left := time.Until(until); left > length || left < length-lab.Patience-time.Second {
		t.Errorf("the ban ends in %v, want %v less what has passed", left, length)
	}
}

// TestHangingCommand has a command that never ends hold up nothing else:
// neither bans nor metrics nor the end.
func TestHangingCommand(t *testing.T) {
	t.Parallel()
	l := newLab(t, "2s", "1h")
	l.metrics = metricsAddr
	dir := l.notices(roleHang)
	p := l.start()
	l.Offend(offender)
	lab.Await(t, "the command runs", func() bool { return len(notes(t, dir)) == 1 })
	l.AwaitFree(offender)
	l.Offend(offender, offender6)
	p.awaitOffenders(2)
	p.awaitJournal("msg=escalated")
	for series, want := range map[string]string{
		`portmon_packets_total{outcome="banned"}`:                  "3",
		`portmon_escalations_total{tier="2"}`:                      "1",
		`portmon_notices_total{channel="command",result="sent"}`:   "0",
		`portmon_notices_total{channel="command",result="failed"}`: "0",
	} {
		if v, _ := l.value(metricsAddr, series); v != want {
			t.Errorf("%s is %q, want %s", series, v, want)
		}
	}
	p.stop()
	p.awaitJournal("level=WARN", "send a notice", "stopped because the watcher ended")
	if lines := p.seen(&p.lines); !strings.Contains(lines[len(lines)-1], "msg=ended") {
		t.Errorf("the last line is %q", lines[len(lines)-1])
	}
	if n := len(saved(t, l.state)); n != 2 {
		t.Errorf("it saved %d offenders at its end, want 2", n)
	}
}

// TestLastNotice has a notice sent at the end that waits for others to come
// with it.
func TestLastNotice(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	dir := l.notices(roleNote)
	p := l.start()
	l.Offend(offender)
	p.awaitOffenders(1)
	p.stop()
	if got := notes(t, dir); len(got) != 1 || got[0]["PORTMON_ADDRESS"] != "198.18.0.1" {
		t.Errorf("the notices are %v", got)
	}
}

// TestBrokenCommand has the journal say what is wrong with a command.
func TestBrokenCommand(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.command = []string{"/nonexistent/notify"}
	p := l.start()
	l.Offend(offender)
	p.awaitJournal("level=WARN", "send a notice", "/nonexistent/notify", "no such file")
	p.awaitOffenders(1)
	p.stop()
}
