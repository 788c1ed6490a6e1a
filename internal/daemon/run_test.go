package daemon

import (
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/internal/book"
	"github.com/portmon/portmon/internal/control"
	"github.com/portmon/portmon/internal/lab"
	"github.com/portmon/portmon/netnstest"
)

var offender, offender6 = source(1), netip.MustParseAddr("2001:db8:1:1::bad")

// saved returns how many offences the state file has of each prefix.
func saved(t testing.TB, path string) map[string]int {
	t.Helper()
	b, report, err := book.Read(book.Config{Path: path, Now: book.ReadClock()})
	if err != nil || report.BadLines > 0 || report.Torn {
		t.Fatalf("%v %+v", err, report)
	}
	got := make(map[string]int)
	for row := range b.Rows() {
		got[row.Source.String()] = row.Offences
	}
	return got
}

// TestReady has bans made before there is a watcher, which it must know of when
// it says that it is ready, and one right after that.
func TestReady(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	const before = 3000
	l.Internet.Burst(before, func(i int) netnstest.Packet {
		return netnstest.SYN(source(i), netip.AddrPortFrom(l.Link.B.IPv4, lab.TrapTCP))
	})
	p := l.start()
	l.Offend(offender6)
	p.awaitOffenders(before + 1)
	p.awaitJournal("msg=watching", `table="inet portmon"`)
	p.stop()
	if n := len(saved(t, l.state)); n != before+1 {
		t.Errorf("it saved %d offenders at its end, want %d", n, before+1)
	}
	if got, want := p.notified(), []string{"READY", "STOPPING"}; !slices.Equal(got, want) {
		t.Errorf("it told systemd %v, want %v", got, want)
	}
	lines := p.seen(&p.lines)
	if last := lines[len(lines)-1]; !strings.Contains(last, "level=INFO msg=ended") {
		t.Errorf("the last line is %q", last)
	}
	if _, err := os.Lstat(p.socket); err == nil {
		t.Error("the socket is still there")
	}
}

func TestNoTable(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	host := netnstest.NewHost(t, "bare")
	l.Host = host
	p := l.start()
	p.awaitJournal("level=WARN", "no table inet portmon", "portmon apply")
	p.stop()
}

func TestWatchdog(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	p := l.run(200 * time.Millisecond)
	p.awaitNotified("WATCHDOG", 1)
	p.awaitNotified("WATCHDOG", 6)
	l.Offend(offender)
	p.awaitOffenders(1)
	p.awaitNotified("WATCHDOG", len(p.notified())+3)
	p.stop()
	if got := p.notified(); got[len(got)-1] != "STOPPING" && !slices.Contains(got, "STOPPING") {
		t.Errorf("it told systemd %v, and nothing of its end", got)
	}
}

// TestSecond has another daemon in the same network namespace, and one
// elsewhere that keeps its state in the same directory.
func TestSecond(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	first := l.start()
	refused := func(what string, words ...string) {
		t.Helper()
		p := l.run(0)
		p.awaitEnd()
		lines := p.seen(&p.lines)
		if p.err == nil || len(lines) != 1 {
			t.Fatalf("%s: it ended with error %v, and said %q", what, p.err, lines)
		}
		for _, w := range words {
			if !strings.Contains(lines[0], w) {
				t.Errorf("%s: it said %q, want %q", what, lines[0], w)
			}
		}
		if len(p.notified()) > 0 {
			t.Errorf("%s: it told systemd %v", what, p.notified())
		}
	}
	mine := l.state
	l.state = filepath.Join(l.dir, "other", "state.jsonl")
	refused("in the same namespace", "log group 513")
	l.Host, l.state = netnstest.NewHost(t, "other host"), mine
	refused("with the same state", control.Path(mine), "another watcher")
	if first.hasEnded() {
		t.Error("the first one has ended")
	}
	first.status() // and answers
	first.stop()
}

// TestNoSocket has something in the way of the socket: all else goes on, and
// commands are answered once it is gone.
func TestNoSocket(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	if err := os.WriteFile(control.Path(l.state), []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	p := l.start()
	p.awaitJournal("level=WARN", "commands cannot ask this watcher", "not a socket")
	l.Offend(offender)
	p.awaitJournal("msg=banned", "address=198.18.0.1")
	time.Sleep(retryEvery + retryEvery/2) // it fails once more
	if text, err := os.ReadFile(control.Path(l.state)); string(text) != "precious" {
		t.Errorf("what was in the way is %q, error %v", text, err)
	}
	if err := os.Remove(control.Path(l.state)); err != nil {
		t.Fatal(err)
	}
	p.awaitJournal("commands can ask this watcher", "address=")
	p.status()
	if n := len(p.journal("not a socket")); n != 1 {
		t.Errorf("the journal says %d times why commands cannot ask", n)
	}
	p.stop()
}

// TestAnswersInAStorm asks while packets pour in, which they do until all has
// been asked.
func TestAnswersInAStorm(t *testing.T) {
	t.Parallel()
	const most, each, questions = 8_000, 200, 10
	l := newLab(t)
	p := l.start()
	asked, poured := make(chan struct{}), make(chan int)
	go func() {
		for sent := 0; ; sent += each {
			select {
			case <-asked:
				poured <- min(sent, most)
				return
			default:
			}
			l.Internet.Burst(each, func(i int) netnstest.Packet {
				return netnstest.SYN(source((sent+i)%most), netip.AddrPortFrom(l.Link.B.IPv4, lab.TrapTCP))
			})
		}
	}()
	known := 0
	for i := 0; i < questions || known < 2000; i++ {
		known = p.status().Rows
		if n := p.book().Len(); n < known {
			t.Fatalf("%d rows of %d", n, known)
		}
	}
	close(asked)
	bans := <-poured
	p.awaitOffenders(bans)
	if n := len(p.journal("msg=banned")); n > bans/2 || n == 0 {
		t.Errorf("the journal has %d lines of %d bans", n, bans)
	}
	p.stop()
	if len(p.journal(`msg="left out"`)) == 0 {
		t.Error("the journal does not say what was left out")
	}
}

// TestRestart has the next daemon go on where the last one was killed.
func TestRestart(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	p := l.start()
	l.Offend(offender, offender6)
	p.awaitOffenders(2)
	p.awaitJournal("msg=banned", "address=2001:db8:1:1::/64", "cause=trap", "tier=1", "port=tcp/23", "offences=1")
	p.Process.Signal(unix.SIGKILL)
	p.awaitEnd()
	if _, err := os.Lstat(p.socket); err != nil {
		t.Fatalf("the killed one has left no socket: %v", err)
	}
	p = l.start()
	p.awaitOffenders(2)
	p.awaitJournal("msg=watching", "bans=2", "offenders=2")
	p.stop()
}
