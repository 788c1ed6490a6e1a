package control

import (
	"bufio"
	"errors"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestStaleSocketIsReplaced(t *testing.T) {
	path := filepath.Join(folder(t), "sock")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), listenVariable+"="+path)
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	defer cmd.Process.Kill()
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "listening\n" {
		t.Fatalf("the other process said %q, error %v", line, err)
	}
	if _, err := Listen(path); !errors.Is(err, ErrBusy) {
		t.Fatalf("listen beside a process that lives: %v, want %v", err, ErrBusy)
	}
	cmd.Process.Kill()
	cmd.Wait()
	if info, err := os.Lstat(path); err != nil || info.Mode().Type() != fs.ModeSocket {
		t.Fatalf("the killed process has left no socket: %v", err)
	}
	if _, err := Dial(path); !errors.Is(err, ErrNone) {
		t.Errorf("dial: %v, want %v", err, ErrNone)
	}
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	c, err := Dial(path)
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	l.Close()
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the socket is there when the listener is closed: %v", err)
	}
}

func TestLivingSocketIsLeftAlone(t *testing.T) {
	path := filepath.Join(folder(t), "sock")
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for range 3 {
		if _, err := Listen(path); !errors.Is(err, ErrBusy) || !strings.Contains(err.Error(), path) {
			t.Fatalf("got %v, want %v with the path", err, ErrBusy)
		}
	}
	c, err := Dial(path)
	if err != nil {
		t.Fatalf("the first one does not listen any more: %v", err)
	}
	c.Close()
}

func TestNoSocketIsLeftAlone(t *testing.T) {
	dir := folder(t)
	real := filepath.Join(dir, "real")
	stale, err := net.ListenUnix("unix", &net.UnixAddr{Name: real})
	if err != nil {
		t.Fatal(err)
	}
	stale.SetUnlinkOnClose(false)
	stale.Close()
	for name, put := range map[string]func(path string) error{
		"file":           func(path string) error { return os.WriteFile(path, []byte("precious"), 0o600) },
		"directory":      func(path string) error { return os.Mkdir(path, 0o700) },
		"pipe":           func(path string) error { return unix.Mkfifo(path, 0o600) },
		"link":           func(path string) error { return os.Symlink(real, path) },
		"link to nobody": func(path string) error { return os.Symlink("nowhere", path) },
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(dir, name)
			if err := put(path); err != nil {
				t.Fatal(err)
			}
			before, err := os.Lstat(path)
			if err != nil {
				t.Fatal(err)
			}
			l, err := Listen(path)
			if err == nil {
				l.Close()
				t.Fatal("not refused")
			}
			if errors.Is(err, ErrBusy) || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "no socket") {
				t.Errorf("got %v", err)
			}
			after, err := os.Lstat(path)
			if err != nil || !os.SameFile(before, after) || after.Size() != before.Size() {
				t.Errorf("not left alone: %v", err)
			}
		})
	}
	if _, err := os.Lstat(real); err != nil {
		t.Errorf("what a link leads to was removed: %v", err)
	}
}

// TestModes has no sockets for others, whatever the process lets others have. The umask is that of all tests, so this one is not
// parallel.
func TestModes(t *testing.T) {
	defer unix.Umask(unix.Umask(0))
	dir := filepath.Join(folder(t), "new", "state")
	path := filepath.Join(dir, "sock")
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for path, want := range map[string]fs.FileMode{path: 0o600, dir: 0o700, filepath.Dir(dir): 0o700} {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if got := info.Mode().Perm(); got != want {
			t.Errorf("%s has mode %v, want %v", path, got, want)
		}
	}
}

func TestLongPath(t *testing.T) {
	const most = 107 // bytes, and a zero: unix(7)
	dir := folder(t) + "/"
	longest := dir + strings.Repeat("x", most-len(dir))
	l, err := Listen(longest)
	if err != nil {
		t.Fatalf("%d bytes: %v", len(longest), err)
	}
	defer l.Close()
	c, err := Dial(longest)
	if err != nil {
		t.Fatalf("%d bytes: %v", len(longest), err)
	}
	c.Close()
	long := longest + "x"
	_, err = Listen(long)
	if err == nil || !strings.Contains(err.Error(), long) || !strings.Contains(err.Error(), strconv.Itoa(most)) {
		t.Errorf("one byte more: got %v, want an error with the path and the %d bytes that it may have", err, most)
	}
	if _, err := Dial(long); !errors.Is(err, ErrNone) {
		t.Errorf("dial where no watcher can be: %v, want %v", err, ErrNone)
	}
}

func TestNobodyListens(t *testing.T) {
	dir := folder(t)
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, path := range map[string]string{
		"no file":             filepath.Join(dir, "none"),
		"no directory":        filepath.Join(dir, "none", "sock"),
		"a file":              file,
		"a file on its way":   filepath.Join(file, "sock"),
		"a link to nowhere":   link(t, filepath.Join(dir, "link"), "nowhere"),
		"a link to somewhere": link(t, filepath.Join(dir, "link2"), file),
	} {
		if _, err := Dial(path); !errors.Is(err, ErrNone) {
			t.Errorf("%s: got %v, want %v", name, err, ErrNone)
		}
	}
}

func link(t testing.TB, path, to string) string {
	t.Helper()
	if err := os.Symlink(to, path); err != nil {
		t.Fatal(err)
	}
	return path
}
