package main

import (
	"bytes"
	"io"
	"net/netip"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/internal/control"
	"github.com/portmon/portmon/internal/listeners"
	"github.com/portmon/portmon/internal/route"
	"github.com/portmon/portmon/netnstest"
	"github.com/portmon/portmon/nftset"
)

// testNow is what time it is in tests that ask the env.
var testNow = time.Date(2026, 1, 18, 11, 4, 26, 0, time.FixedZone("test", 3600))

// testEnv returns a world without a kernel: no environment, no terminal, and
// output that can be read.
func testEnv() (e env, stdout, stderr *bytes.Buffer) {
	stdout, stderr = &bytes.Buffer{}, &bytes.Buffer{}
	return env{
		stdin: strings.NewReader(""), stdout: stdout, stderr: stderr,
		getenv:    func(string) string { return "" },
		sshPeer:   func() (netip.Addr, bool) { return netip.Addr{}, false },
		now:       func() time.Time { return testNow },
		dial:      func() (*nftset.Conn, error) { panic("this test has no kernel") },
		watcher:   func(string) (watcher, error) { return nil, control.ErrNone },
		listeners: func(string) ([]listeners.Socket, error) { return nil, nil },
		routes:    func() (route.Facts, error) { return route.Facts{}, nil },
		width:     func(io.Writer) int { return 0 },
	}, stdout, stderr
}

// hostEnv returns a world whose kernel is that of a host, as long as what runs
// in it does so within host.Do.
func hostEnv(h *netnstest.Host) (e env, stdout, stderr *bytes.Buffer) {
	e, stdout, stderr = testEnv()
	e.dial = func() (*nftset.Conn, error) { return nftset.Dial(&nftset.Config{NetNS: h.FD()}) }
	e.watcher, e.listeners = dialWatcher, listeners.Read
	e.routes = func() (route.Facts, error) { return route.Read(h.FD()) }
	e.now = time.Now
	return e, stdout, stderr
}

func TestTerminal(t *testing.T) {
	pty, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer pty.Close()
	if err := unix.IoctlSetWinsize(int(pty.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 25, Col: 91}); err != nil {
		t.Fatal(err)
	}
	if got := width(pty); got != 91 {
		t.Errorf("a terminal of 91 columns: width %d", got)
	}
	if err := unix.IoctlSetWinsize(int(pty.Fd()), unix.TIOCSWINSZ, &unix.Winsize{}); err != nil {
		t.Fatal(err)
	}
	if got := width(pty); got != 80 {
		t.Errorf("a terminal that does not know: width %d", got)
	}
	file, err := os.Create(t.TempDir() + "/file")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for _, w := range []io.Writer{file, &bytes.Buffer{}} {
		if got := width(w); got != 0 {
			t.Errorf("%T: width %d", w, got)
		}
	}
}

func TestSystemEnvIsWhole(t *testing.T) {
	for v, i := reflect.ValueOf(systemEnv()), 0; i < v.NumField(); i++ {
		if v.Field(i).IsNil() {
			t.Errorf("%s is missing", v.Type().Field(i).Name)
		}
	}
}
