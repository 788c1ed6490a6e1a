package book

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// appendForEver adds a source after the other, frees each 100 rows later, and
// says which number is on the disk, until it is killed.
func appendForEver(path string) error {
	c := config(path, 0)
	c.Wait = time.Minute
	b, report, err := Open(c)
	if err != nil {
		return err
	}
	if report.BadLines > 0 {
		return fmt.Errorf("%s", report)
	}
	first := 0
	for r := range b.Rows() {
		first = max(first, number(r)+1)
	}
	for n := first; ; n++ {
		b.Put(hourly(n))
		if n >= 100 {
			b.Free(address(n - 100))
		}
		wait, err := b.Flush(clock)
		if err != nil {
			return err
		}
		if err := wait(); err != nil {
			return err
		}
		fmt.Println(n)
	}
}

func number(r Row) int {
	a := r.Source.Addr().As4()
	return int(a[1])<<16 | int(a[2])<<8 | int(a[3])
}

func startChild(t *testing.T, kind, path string) (*exec.Cmd, *bufio.Scanner) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), childVariable+"="+path, childVariable+"_KIND="+kind)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &unix.SysProcAttr{Pdeathsig: unix.SIGKILL}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd, bufio.NewScanner(stdout)
}

// Fifty owners are killed while they append and rewrite, at any moment. What
// they said was on the disk is there, whoever reads meanwhile finds no damage,
// and the next owner goes on.
func TestKilled(t *testing.T) {
	rng := random(t)
	path := statePath(t)
	acknowledged, torn, temps := -1, 0, 0
	for range 50 {
		cmd, out := startChild(t, "append", path)
		for left := 1 + rng.IntN(400); left > 0 && out.Scan(); left-- {
			acknowledged = check(t, path, out.Text(), left == 1)
		}
		time.AfterFunc(time.Duration(rng.IntN(3000))*time.Microsecond, func() { cmd.Process.Kill() })
		for out.Scan() {
			acknowledged = check(t, path, out.Text(), false)
		}
		if err := cmd.Wait(); cmd.ProcessState.ExitCode() != -1 {
			t.Fatalf("the owner was not killed: %v", err)
		}
		check(t, path, strconv.Itoa(acknowledged), true)
		data := contents(t, path)
		if data[len(data)-1] != '\n' {
			torn++
		}
		if _, err := os.Stat(path + ".tmp"); err == nil {
			temps++
		}
	}
	t.Logf("%d rows; torn lines: %d, files half rewritten: %d", acknowledged+1, torn, temps)
	if acknowledged < 1000 {
		t.Error("too few rows to show anything")
	}
	b := open(t, config(path, 0))
	b.Clear()
	mustSync(t, b, clock)
	if got := listing(t, filepath.Dir(path)); got != "state.jsonl state.jsonl.lock" {
		t.Errorf("left behind: %s", got)
	}
}

// check returns the number that was acknowledged. If the file is read, it must
// have that row or, as the owner goes on, later ones, and all those before them
// that were not freed.
func check(t *testing.T, path, text string, read bool) int {
	t.Helper()
	n, err := strconv.Atoi(text)
	if err != nil || !read {
		return n
	}
	b, report, err := Read(config(path, 0))
	if err != nil || report.BadLines > 0 {
		t.Fatalf("%v, %s", err, report)
	}
	last := 0
	for r := range b.Rows() {
		last = max(last, number(r))
	}
	if first := max(0, last-99); last < n || b.Len() < last-first+1 || b.Len() > last-first+2 {
		t.Fatalf("%d rows up to %d, and %d was acknowledged", b.Len(), last, n)
	}
	return n
}

// An owner keeps others out, who say so, and its death lets them in.
func TestLocked(t *testing.T) {
	path := written(t, hourly(0))
	cmd, out := startChild(t, "append", path)
	out.Scan()
	_, _, err := Open(config(path, 0))
	if want := "open state " + path + ": locked by another process"; err == nil || err.Error() != want {
		t.Errorf("error: %v", err)
	}
	if e, ok := err.(*Error); !ok || e.Hint() != "find who holds it: fuser -v "+path+".lock" {
		t.Errorf("hint of %v", err)
	}
	if err := amend(config(path, 0), sample[:1], nil); err == nil {
		t.Error("amended")
	}
	time.AfterFunc(20*time.Millisecond, func() { cmd.Process.Kill() })
	c := config(path, 0)
	c.Wait = time.Minute
	open(t, c)
	cmd.Wait()
}
