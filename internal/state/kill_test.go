package state

import (
	"bufio"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/internal/ledger"
)

// writerVariable makes the test binary a process that does nothing but write the file which it names.
const writerVariable = "PORTMON_STATE_WRITER"

// writeForEver writes states of different sizes and says so, until it is killed. The header's table handle is the number of records.
func writeForEver(path string) {
	for n := 1; ; n = n%3000 + 1 {
		h := header
		h.Table = uint64(n)
		if _, err := Write(path, h, many(n)); err != nil {
			fatal(err)
		}
		if _, err := os.Stdout.WriteString("."); err != nil {
			fatal(err)
		}
	}
}

// startWriter returns when the process has written the file for the first time.
func startWriter(t *testing.T, path string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), writerVariable+"="+path)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &unix.SysProcAttr{Pdeathsig: unix.SIGKILL}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := bufio.NewReader(stdout).ReadByte(); err != nil {
		t.Fatalf("the writer wrote nothing: %v", err)
	}
	go func() { // so that it is never blocked
		for b := make([]byte, 4096); ; {
			if _, err := stdout.Read(b); err != nil {
				return
			}
		}
	}()
	return cmd
}

func checkWhole(t *testing.T, path string) {
	t.Helper()
	h, records, report := read(t, path)
	if report.Condition != Whole || len(records) != int(h.Table) {
		t.Fatalf("%d records of %d: %s", len(records), h.Table, report)
	}
}

// A writer is killed a hundred times, at any moment. There is always a whole file, and what the dead leave behind is cleared away.
func TestKilled(t *testing.T) {
	rng := random(t)
	path := statePath(t)
	killedWithin := 0
	for range 100 {
		cmd := startWriter(t, path)
		for range rng.IntN(5) {
			checkWhole(t, path) // while it is written
		}
		// The moment of death is to fall anywhere within a write, of which each takes some milliseconds.
		time.AfterFunc(time.Duration(rng.IntN(8000))*time.Microsecond, func() { cmd.Process.Kill() })
		if err := cmd.Wait(); err == nil {
			t.Fatal("the writer came to an end")
		}
		checkWhole(t, path)
		if len(listing(t, filepath.Dir(path))) > 3 {
			t.Fatalf("left behind: %q", listing(t, filepath.Dir(path)))
		}
		if len(listing(t, filepath.Dir(path))) == 3 {
			killedWithin++
		}
	}
	mustWrite(t, path, header, sample...)
	if got := listing(t, filepath.Dir(path)); !slices.Equal(got, []string{"state.jsonl", "state.jsonl.lock"}) {
		t.Errorf("left behind: %q", got)
	}
	t.Logf("%d of 100 were killed while they wrote", killedWithin)
	if killedWithin == 0 {
		t.Error("none was killed while it wrote")
	}
}

// Several write at the same time, in this process and in another. Readers always see one of their files, and in the end it is whole.
func TestConcurrentWriters(t *testing.T) {
	path := statePath(t)
	other := startWriter(t, path)
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			for n := range 25 {
				h := header
				h.Table = uint64(10*n + i)
				if _, err := Write(path, h, many(10*n+i)); err != nil {
					t.Error(err)
					return
				}
				checkSound(t, path)
			}
		})
	}
	wg.Wait()
	other.Process.Kill()
	if err := other.Wait(); err == nil {
		t.Error("the writer came to an end")
	}
	checkWhole(t, path)
	// Nobody holds the lock any more, and the last one wins.
	h := header
	h.Table, h.Saved = 7, ledger.Now{Wall: saved.Wall.Add(-time.Hour)}
	if _, err := Write(path, h, many(7)); err != nil {
		t.Fatal(err)
	}
	checkWhole(t, path)
	if got := listing(t, filepath.Dir(path)); !slices.Equal(got, []string{"state.jsonl", "state.jsonl.lock"}) {
		t.Errorf("left behind: %q", got)
	}
}

// checkSound is checkWhole for goroutines, which must not end the test.
func checkSound(t *testing.T, path string) {
	f, err := Open(path)
	if err != nil {
		t.Error(err)
		return
	}
	defer f.Close()
	n := 0
	for range f.Records() {
		n++
	}
	if f.Report().Condition != Whole || n != int(f.Table) {
		t.Errorf("%d records of %d: %s", n, f.Table, f.Report())
	}
}

// Who does not get the lock says so, and changes nothing.
func TestLocked(t *testing.T) {
	path := statePath(t)
	mustWrite(t, path, header, sample...)
	unlock, err := lock(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func(d time.Duration) { lockWait = d }(lockWait)
	lockWait = 20 * time.Millisecond
	before := contents(t, path)
	_, err = Write(path, header, many(1))
	checkError(t, err, "write state "+path+": locked by another process", "find who holds it: fuser -v "+path+".lock")
	if contents(t, path) != before {
		t.Error("the file changed")
	}
	unlock()
	mustWrite(t, path, header)
}
