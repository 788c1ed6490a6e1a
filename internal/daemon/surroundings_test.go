package daemon

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/internal/lab"
	"github.com/portmon/portmon/netnstest"
	"github.com/portmon/portmon/ruleset"
)

// pipe returns a pipe that takes no more than a page until it is read.
func pipe(t testing.TB) (read, write *os.File) {
	t.Helper()
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { read.Close(); write.Close() })
	if _, err := unix.FcntlInt(write.Fd(), unix.F_SETPIPE_SZ, 4096); err != nil {
		t.Fatal(err)
	}
	return read, write
}

// goesOn fails the test unless bans are learned, saved and put back.
func (l *fixture) goesOn(p *process) {
	l.T.Helper()
	l.Offend(offender, offender6)
	p.awaitOffenders(2)
	if err := p.ask().Save(); err != nil {
		l.T.Error(err)
	}
	if n := len(saved(l.T, l.state)); n != 2 {
		l.T.Errorf("%d sources are saved, want 2", n)
	}
	if _, err := ruleset.Remove(l.Conn, ruleset.Default().Table); err != nil {
		l.T.Fatal(err)
	}
	lab.Await(l.T, "the bans are put back", func() bool {
		return l.Lookup(offender).Banned() && l.Lookup(offender6).Banned()
	})
}

// TestReaderGone has nobody read the journal any more, as when the journal of
// systemd has crashed.
func TestReaderGone(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	read, write := pipe(t)
	p := l.runWith(write, 200*time.Millisecond)
	write.Close()
	p.awaitReady()
	if line, err := bufio.NewReader(read).ReadString('\n'); err != nil || !strings.Contains(line, "watching") {
		t.Fatalf("the first line is %q, error %v", line, err)
	}
	read.Close()
	l.goesOn(p)
	if n := p.status().JournalDropped; n == 0 {
		t.Error("the status does not say that nobody reads the journal")
	}
	p.awaitNotified("WATCHDOG", len(p.notified())+2)
	p.stop()
}

// TestStalledStderr has whoever reads the journal hang.
func TestStalledStderr(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	read, write := pipe(t)
	p := l.runWith(write, 200*time.Millisecond)
	write.Close()
	p.awaitReady()
	l.Internet.Burst(burst, func(i int) netnstest.Packet { return l.SYN(source(1000+i), lab.TrapTCP) })
	p.awaitOffenders(burst)
	lab.Await(t, "the pipe is full", func() bool {
		n, err := unix.IoctlGetInt(int(read.Fd()), unix.TIOCINQ)
		return err == nil && n > 4096-200
	})
	l.Offend(offender)
	p.awaitOffenders(burst + 1)
	if err := p.ask().Save(); err != nil {
		t.Error(err)
	}
	if n := len(saved(t, l.state)); n != burst+1 {
		t.Errorf("%d sources are saved, want %d", n, burst+1)
	}
	p.awaitNotified("WATCHDOG", len(p.notified())+2)
	p.stop()
}

// TestQueue has a writer stall until more lines have come than wait for it.
func TestQueue(t *testing.T) {
	read, write := io.Pipe()
	q := newQueue(write, false)
	const lines = 3 * maxWaiting
	for i := range lines {
		if n, err := fmt.Fprintf(q, "line %d\n", i); err != nil || n < 7 {
			t.Fatal(n, err)
		}
	}
	long := strings.Repeat("ü", maxLine)
	fmt.Fprintln(q, long)
	dropped := int(q.dropped.Load())
	if dropped < lines-maxWaiting-1 {
		t.Errorf("%d lines were dropped", dropped)
	}
	got := make(chan []byte)
	go func() {
		b, _ := io.ReadAll(read)
		got <- b
	}()
	lab.Await(t, "the queue is empty", func() bool { return len(q.lines) == 0 })
	fmt.Fprintln(q, long)
	q.close()
	write.Close()
	b := <-got
	if n := bytes.Count(b, []byte("\nline ")) + 1; n != lines+1-dropped {
		t.Errorf("%d lines were written and %d dropped, of %d", n, dropped, lines+1)
	}
	if want := fmt.Sprintf("level=WARN msg=\"journal lines dropped\" lines=%d\n", dropped); bytes.Count(b, []byte(want)) != 1 {
		t.Errorf("it does not say %q", want)
	}
	if i := bytes.Index(b, []byte("ü")); i < 0 || len(b)-i > maxLine+1 || b[len(b)-1] != '\n' {
		t.Errorf("of a line of %d bytes, %d were written", len(long), len(b)-i)
	}
	fmt.Fprintln(q, "too late") // and nothing happens
}

// TestQueueEnd has a writer that stalls for ever, and an end all the same.
func TestQueueEnd(t *testing.T) {
	_, write := io.Pipe()
	q := newQueue(write, false)
	fmt.Fprintln(q, "a line")
	start := time.Now()
	q.close()
	if took := time.Since(start); took > 10*lastWords {
		t.Errorf("it took %v", took)
	}
}

// exchange puts what is made at another path in the place of a folder, with no
// moment in between at which the daemon could make it anew.
func exchange(folder string, make func(other string) error) error {
	other := folder + ".other"
	return errors.Join(make(other), unix.Renameat2(unix.AT_FDCWD, other, unix.AT_FDCWD, folder, unix.RENAME_EXCHANGE))
}

// TestSocketComesBack has the socket, and its folder, vanish and come back.
func TestSocketComesBack(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.state = filepath.Join(l.dir, "state", "state.jsonl")
	p := l.start()
	folder := filepath.Dir(l.state)
	comes := 0
	for name, vanish := range map[string]func() error{
		"the socket": func() error { return os.Remove(p.socket) },
		"the folder": func() error { return os.RemoveAll(folder) },
		"the folder, with another one in its place": func() error {
			return exchange(folder, func(other string) error { return os.Mkdir(other, 0o700) })
		},
	} {
		if err := vanish(); err != nil {
			t.Fatal(err)
		}
		// It may be back before anyone could see that it was away.
		comes++
		lab.Await(t, name+" comes back", func() bool { return len(p.journal("commands can ask this watcher")) == comes })
		if s := p.status(); s.PID != p.Process.Pid {
			t.Errorf("%s: process %d answers, want %d", name, s.PID, p.Process.Pid)
		}
	}
	l.Offend(offender)
	p.awaitOffenders(1)
	if err := p.ask().Save(); err != nil {
		t.Error(err)
	}
	if n := len(saved(t, l.state)); n != 1 {
		t.Errorf("%d sources are saved, want 1", n)
	}
	p.stop()
	if _, err := os.Lstat(p.socket); err == nil {
		t.Error("the socket is still there")
	}
}

// TestFolderStaysAway has the folder vanish, with something in its place for a
// while that keeps it from being made again.
func TestFolderStaysAway(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.state, l.metrics = filepath.Join(l.dir, "state", "state.jsonl"), metricsAddr
	p := l.start()
	folder := filepath.Dir(l.state)
	if err := exchange(folder, func(other string) error { return os.WriteFile(other, []byte("precious"), 0o600) }); err != nil {
		t.Fatal(err)
	}
	const said = "commands cannot ask this watcher"
	p.awaitJournal("level=WARN", said, "not a directory")
	// All else goes on: bans are learned, and put back.
	l.Offend(offender, offender6)
	p.awaitJournal("msg=banned", "address="+offender.String())
	if _, err := ruleset.Remove(l.Conn, ruleset.Default().Table); err != nil {
		t.Fatal(err)
	}
	lab.Await(t, "the bans are put back", func() bool {
		return l.Lookup(offender).Banned() && l.Lookup(offender6).Banned()
	})
	lab.Await(t, "it has tried to save again", func() bool {
		v, _ := l.value(metricsAddr, `portmon_state_saves_total{result="failed"}`)
		n, _ := strconv.Atoi(v)
		return n > 1
	})
	if text, err := os.ReadFile(folder); string(text) != "precious" {
		t.Errorf("what was in the way is %q, error %v", text, err)
	}
	if err := os.Remove(folder); err != nil {
		t.Fatal(err)
	}
	p.awaitJournal("commands can ask this watcher", "address=")
	if err := p.ask().Save(); err != nil {
		t.Error(err)
	}
	if n := len(saved(t, l.state)); n != 2 {
		t.Errorf("%d sources are saved, want 2", n)
	}
	if s := p.status(); s.SaveError != "" {
		t.Errorf("the status is %+v", s)
	}
	if n := len(p.journal(said)); n != 1 {
		t.Errorf("the journal says %d times that commands cannot ask", n)
	}
	p.stop()
}

// TestSlowConnections has 1,500 connections that say nothing, or not enough,
// kept open for as long as they are let, to the metrics and to the socket.
func TestSlowConnections(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.metrics = metricsAddr
	p := l.start()
	files := func() int {
		entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", p.Process.Pid))
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	before := files()
	for name, dial := range map[string]func() (net.Conn, error){
		"metrics": func() (net.Conn, error) {
			return l.Host.Dial("tcp", netip.Addr{}, netip.MustParseAddrPort(metricsAddr), lab.Patience)
		},
		"socket": func() (net.Conn, error) { return net.Dial("unix", p.socket) },
	} {
		const slow = 1500
		var conns []net.Conn
		for i := range slow {
			conn, err := dial()
			if err != nil {
				t.Fatalf("%s: connection %d: %v", name, i, err)
			}
			conns = append(conns, conn)
			if i%2 == 0 {
				io.WriteString(conn, "GET /metrics HTTP/1.1\r\nHost: ")
			}
		}
		start := time.Now()
		if _, err := l.get(metricsAddr); err != nil {
			t.Errorf("%s: metrics: %v", name, err)
		}
		p.status()
		// They are closed in the end when those who read from them let go.
		lab.Await(t, fmt.Sprintf("no more files are open than %d and %d", before, 2*maxConns), func() bool {
			return files() <= before+2*maxConns
		})
		// That is before the last slow ones have to go.
		if took := time.Since(start); took > 4*time.Second {
			t.Errorf("%s: the answers took %v", name, took)
		}
		// All are closed in the end, by us or by it.
		var closing sync.WaitGroup
		for _, conn := range conns {
			closing.Go(func() {
				conn.SetReadDeadline(time.Now().Add(lab.Patience))
				io.Copy(io.Discard, conn)
				conn.Close()
			})
		}
		closing.Wait()
		if took := time.Since(start); took > lab.Patience {
			t.Errorf("%s: some are open after %v", name, took)
		}
	}
	p.stop()
}
