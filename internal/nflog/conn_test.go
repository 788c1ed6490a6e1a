package nflog

import (
	"context"
	"errors"
	"os"
	"runtime"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/internal/lab"
)

func TestGroupIsTaken(t *testing.T) {
	l := newLab(t)
	first := l.dial(0)
	_, err := Dial(&Config{Group: group, NetNS: l.Host.FD()})
	if !errors.Is(err, ErrBusy) || errors.Is(err, os.ErrPermission) {
		t.Fatalf("second listener: %v, want ErrBusy", err)
	}
	if got, want := err.Error(), "netlink log group 513 is taken: is another `portmon watch` or `portmon top` running?"; got != want {
		t.Errorf("error %q, want %q", got, want)
	}
	other, err := Dial(&Config{Group: group + 1, NetNS: l.Host.FD()})
	if err != nil {
		t.Fatalf("listen to another group: %v", err)
	}
	defer other.Close()

	l.knock(1)
	receive(t, first, 1)

	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	second := l.dial(0)
	l.knock(1)
	receive(t, second, 1)
}

func TestDialWithoutPrivilege(t *testing.T) {
	l := newLab(t)
	for _, taken := range []bool{false, true} {
		if taken {
			l.dial(0)
		}
		var err error
		l.Host.Do(func() {
			withoutNetAdmin(t, func() { _, err = Dial(&Config{Group: group}) })
		})
		if !errors.Is(err, os.ErrPermission) || errors.Is(err, ErrBusy) {
			t.Errorf("without CAP_NET_ADMIN, group taken %v: %v, want os.ErrPermission", taken, err)
		}
	}
}

// withoutNetAdmin runs f without the capability, which the thread of the caller
// gets back then.
func withoutNetAdmin(t *testing.T, f func()) {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var before [2]unix.CapUserData
	if err := unix.Capget(&header, &before[0]); err != nil {
		t.Fatal(err)
	}
	without := before
	without[0].Effective &^= 1 << unix.CAP_NET_ADMIN
	if err := unix.Capset(&header, &without[0]); err != nil {
		t.Fatal(err)
	}
	f()
	if err := unix.Capset(&header, &before[0]); err != nil {
		t.Fatal(err)
	}
}

// TestDialInTraffic binds the group again and again while packets are logged to
// it. None is lost from the first on.
func TestDialInTraffic(t *testing.T) {
	l := newLab(t)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := range 200 {
			if err := l.dialOnce(); err != nil {
				t.Errorf("%d: %v", i, err)
				return
			}
		}
	}()
	for {
		select {
		case <-done:
			return
		default:
			l.knock(200)
		}
	}
}

// TestRequestKeepsMessages asks the kernel something while messages wait, as
// Dial does in the midst of traffic.
func TestRequestKeepsMessages(t *testing.T) {
	l := newLab(t)
	c := l.dial(0)
	l.knock(64)
	const notSupported = syscall.Errno(524) // ENOTSUPP of include/linux/errno.h
	if err := c.request(msgPacket, group, nil); err != notSupported {
		t.Errorf("request: %v, want errno %d", err, notSupported)
	}
	l.knock(1)
	got, _ := receive(t, c, 65)
	for i, m := range got {
		if m.Seq != uint32(i) {
			t.Errorf("message %d has number %d", i, m.Seq)
		}
	}
}

// dialOnce listens until the first messages come.
func (l *fixture) dialOnce() error {
	c, err := Dial(&Config{Group: group, NetNS: l.Host.FD()})
	if err != nil {
		return err
	}
	if err := c.SetReadDeadline(time.Now().Add(lab.Patience)); err != nil {
		return err
	}
	batch, lost, err := c.Receive(nil)
	if err == nil && (lost != (Lost{}) || batch[0].Seq != 0) {
		err = errors.New("messages are missing")
	}
	return errors.Join(err, c.Close())
}

func TestCloseEndsReceive(t *testing.T) {
	l := newLab(t)
	c := l.dial(0)
	result := make(chan error)
	go func() {
		_, _, err := c.Receive(nil)
		result <- err
	}()
	awaitBlocked(t)
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-result; !errors.Is(err, os.ErrClosed) {
		t.Errorf("Receive, while it waits: %v, want os.ErrClosed", err)
	}
	if _, _, err := c.Receive(nil); !errors.Is(err, os.ErrClosed) {
		t.Errorf("Receive, later: %v, want os.ErrClosed", err)
	}
}

func TestDeadlineEndsReceive(t *testing.T) {
	l := newLab(t)
	c := l.dial(0)
	ctx, cancel := context.WithCancel(t.Context())
	context.AfterFunc(ctx, func() { c.SetReadDeadline(time.Unix(1, 0)) })
	result := make(chan error)
	go func() {
		_, _, err := c.Receive(nil)
		result <- err
	}()
	awaitBlocked(t)
	cancel()
	if err := <-result; !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("Receive: %v, want os.ErrDeadlineExceeded", err)
	}
	if err := c.SetReadDeadline(time.Now().Add(lab.Patience)); err != nil {
		t.Fatal(err)
	}
	l.knock(1)
	receive(t, c, 1)
}

// TestNothingLeaks counts file descriptors and goroutines after connections
// that were in use, and after attempts that failed.
func TestNothingLeaks(t *testing.T) {
	l := newLab(t)
	round := func() {
		c := l.dial(0)
		done := make(chan struct{})
		go func() {
			defer close(done)
			c.Receive(nil)
		}()
		if _, err := Dial(&Config{Group: group, NetNS: l.Host.FD()}); !errors.Is(err, ErrBusy) {
			t.Fatal(err)
		}
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
		<-done
	}
	round()
	files, goroutines := openFiles(t), runtime.NumGoroutine()
	for range 50 {
		round()
	}
	if n := openFiles(t); n > files {
		t.Errorf("%d file descriptors, %d before", n, files)
	}
	// Those that have done their work may take a moment to end.
	for end := time.Now().Add(lab.Patience); runtime.NumGoroutine() > goroutines; runtime.Gosched() {
		if time.Now().After(end) {
			t.Fatalf("%d goroutines, %d before", runtime.NumGoroutine(), goroutines)
		}
	}
}

func openFiles(t *testing.T) int {
	t.Helper()
	files, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(files)
}

// TestDialNil listens to group 0 of the calling thread's network namespace.
func TestDialNil(t *testing.T) {
	l := newLab(t)
	l.Host.Do(func() {
		c, err := Dial(nil)
		if err != nil {
			t.Error(err)
			return
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
}
