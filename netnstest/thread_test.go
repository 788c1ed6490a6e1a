package netnstest

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// namespaces returns the network namespaces of all threads of the process, and how many threads are in each.
func namespaces(t testing.TB) map[string]int {
	t.Helper()
	tasks, err := filepath.Glob("/proc/self/task/*/ns/net")
	if err != nil || len(tasks) == 0 {
		t.Fatalf("no threads: %v", err)
	}
	in := map[string]int{}
	for _, task := range tasks {
		ns, err := os.Readlink(task)
		// A thread that has ended in between is in no namespace.
		if err == nil {
			in[ns]++
		}
	}
	return in
}

func wantOneNamespace(t testing.TB) {
	t.Helper()
	if in := namespaces(t); len(in) != 1 {
		t.Errorf("threads are in %d namespaces: %v", len(in), in)
	}
}

func here(t testing.TB) string {
	t.Helper()
	ns, err := os.Readlink("/proc/thread-self/ns/net")
	if err != nil {
		t.Error(err)
	}
	return ns
}

func TestDoIsInTheNamespaceOfTheHost(t *testing.T) {
	home := here(t)
	a, b := NewHost(t, "a"), NewHost(t, "b")
	var inA, inB, backInA, inGoroutine string
	a.Do(func() {
		inA = here(t)
		b.Do(func() { inB = here(t) })
		backInA = here(t)
		done := make(chan struct{})
		go func() { defer close(done); inGoroutine = here(t) }()
		<-done
	})
	var inProcess []byte
	a.Do(func() {
		var err error
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = append(os.Environ(), roleVariable+"="+roleWhere)
		if inProcess, err = cmd.Output(); err != nil {
			t.Error(err)
		}
	})
	if got := strings.TrimSuffix(string(inProcess), " <nil>\n"); got != inA {
		t.Errorf("process started in Do: in %s, want %s", got, inA)
	}
	if inA == home || inB == home || inA == inB {
		t.Errorf("process in %s, a in %s, b in %s: want three namespaces", home, inA, inB)
	}
	if backInA != inA {
		t.Errorf("after a nested Do: in %s, want %s", backInA, inA)
	}
	if inGoroutine != home {
		t.Errorf("goroutine started in Do: in %s, want %s as documented", inGoroutine, home)
	}
	if here(t) != home {
		t.Errorf("after Do: in %s, want %s", here(t), home)
	}
}

func TestDoSocketsStay(t *testing.T) {
	a := NewHost(t, "a")
	var l net.Listener
	a.Do(func() {
		var err error
		if l, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
			t.Fatal(err)
		}
	})
	defer l.Close()
	if conn, err := net.Dial("tcp", l.Addr().String()); err == nil {
		conn.Close()
		t.Error("a listener of the host can be reached from outside")
	}
	a.Do(func() {
		conn, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		conn.Close()
	})
}

// TestDoLeavesNoThreadBehind also runs it where f does not return, which must be no way out.
func TestDoLeavesNoThreadBehind(t *testing.T) {
	const goroutines = 3000
	hosts := []*Host{NewHost(t, "a"), NewHost(t, "b"), NewHost(t, "c")}
	var wg sync.WaitGroup
	for i := range goroutines {
		wg.Go(func() {
			defer func() { _ = recover() }()
			hosts[i%3].Do(func() {
				runtime.Gosched()
				switch i % 7 {
				case 0:
					hosts[(i+1)%3].Do(func() { runtime.Gosched() })
				case 1:
					panic("on purpose")
				case 2:
					runtime.Goexit()
				}
			})
		})
	}
	wg.Wait()
	wantOneNamespace(t)
}

func TestDoFatalEndsTheTest(t *testing.T) {
	fake := &fakeT{TB: t}
	reached := false
	fake.run(func() {
		h := NewHost(fake, "a")
		h.Do(func() { fake.FailNow() })
		reached = true
	})
	if !fake.Failed() || reached {
		t.Errorf("FailNow in Do: failed %t, went on after it %t", fake.Failed(), reached)
	}
	wantOneNamespace(t)
}

func TestDoAfterTheEndOfTheHost(t *testing.T) {
	wantFatal(t, func(fake testing.TB) {
		h := NewHost(fake, "gone")
		if err := h.close(); err != nil {
			t.Error(err)
		}
		h.Do(func() { t.Error("ran") })
	}, "host gone: enter network namespace: bad file descriptor")
	wantOneNamespace(t)
}

// TestThreadThatCannotReturnEnds takes the capability away by which a thread goes home.
func TestThreadThatCannotReturnEnds(t *testing.T) {
	h := NewHost(t, "a")
	var lost int
	var attempt func() error
	attempt = func() (err error) {
		done := make(chan struct{})
		go func() {
			defer close(done)
			err = h.do(func() error {
				if lost = unix.Gettid(); lost == os.Getpid() {
					// The main thread never ends. While this goroutine has it, the next gets another.
					return attempt()
				}
				header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
				var none [2]unix.CapUserData
				return unix.Capset(&header, &none[0])
			})
		}()
		<-done
		return err
	}
	if err := attempt(); !errors.Is(err, unix.EPERM) || !strings.Contains(err.Error(), "return to the network namespace") {
		t.Errorf("do: got %v, want EPERM on the way home", err)
	}
	task := fmt.Sprintf("/proc/self/task/%d", lost)
	for start := time.Now(); ; runtime.Gosched() {
		if _, err := os.Stat(task); errors.Is(err, os.ErrNotExist) {
			break
		}
		if time.Since(start) > patience {
			t.Fatalf("thread %d lives on in a foreign namespace", lost)
		}
	}
	wantOneNamespace(t)
}
