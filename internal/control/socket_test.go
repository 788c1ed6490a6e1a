package control

import (
	"bufio"
	"errors"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/internal/lab"
)

func TestStaleSocketIsReplaced(t *testing.T) {
	path := filepath.Join(lab.ShortDir(t), "sock")
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
	path := filepath.Join(lab.ShortDir(t), "sock")
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
	dir := lab.ShortDir(t)
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
			if errors.Is(err, ErrBusy) || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "not a socket") {
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

// TestSocketOfAnotherUser has a user listen who can neither be the watcher nor
// give the folder away.
func TestSocketOfAnotherUser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: in a user namespace there is no other user to listen")
	}
	dir := lab.ShortDir(t)
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "sock")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), listenVariable+"="+path, listenVariable+"_AS=4242")
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer cmd.Process.Kill()
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "listening\n" {
		t.Fatalf("the other process said %q, error %v", line, err)
	}
	if _, err := Dial(path); err == nil || !strings.Contains(err.Error(), "belongs to user 4242") {
		t.Errorf("dial: %v", err)
	}
	if err := os.Chown(dir, 4242, 4242); err != nil {
		t.Fatal(err)
	}
	c, err := Dial(path)
	if err != nil {
		t.Fatalf("the owner of the folder is refused: %v", err)
	}
	c.Close()
}

// TestModes has no sockets for others, whatever the process lets others have.
// The umask is that of all tests, so this one is not parallel.
func TestModes(t *testing.T) {
	defer unix.Umask(unix.Umask(0))
	dir := filepath.Join(lab.ShortDir(t), "new", "state")
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

// TestLongPath has a socket whose path is longer than the 107 bytes that
// connect(2) takes.
func TestLongPath(t *testing.T) {
	path := filepath.Join(lab.ShortDir(t), strings.Repeat("x", 120), "sock")
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if _, err := Dial(path); err != nil {
		t.Fatal(err)
	}
}

// TestLinksAreNotFollowed has the owner of the folder lead root to another
// socket.
func TestLinksAreNotFollowed(t *testing.T) {
	dir := lab.ShortDir(t)
	l, err := Listen(filepath.Join(dir, "real"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	path := link(t, filepath.Join(dir, "sock"), "real")
	if _, err := Dial(path); !errors.Is(err, ErrNone) {
		t.Errorf("dial: got %v, want %v", err, ErrNone)
	}
	if _, err := Listen(path); err == nil || !strings.Contains(err.Error(), "not a socket") {
		t.Errorf("listen: got %v", err)
	}
}

// TestInPlace has the socket, and then its folder, deleted and made again. The
// listener that is not in place any more must not remove what is there now.
func TestInPlace(t *testing.T) {
	dir := filepath.Join(lab.ShortDir(t), "state")
	path := filepath.Join(dir, "sock")
	listen := func() *Listener {
		t.Helper()
		l, err := Listen(path)
		if err != nil {
			t.Fatal(err)
		}
		if !l.InPlace() {
			t.Fatal("it is not in place when it was just made")
		}
		return l
	}
	for name, remove := range map[string]func(string) error{"socket": os.Remove, "folder": func(string) error { return os.RemoveAll(dir) }} {
		first := listen()
		if err := remove(path); err != nil {
			t.Fatal(err)
		}
		if first.InPlace() {
			t.Errorf("%s: it is in place although it was deleted", name)
		}
		second := listen()
		if first.InPlace() {
			t.Errorf("%s: it is in place although another one is", name)
		}
		if err := first.Close(); err != nil || !second.InPlace() {
			t.Errorf("%s: the first one has removed the second: error %v", name, err)
		}
		if err := second.Close(); err != nil {
			t.Error(err)
		}
		if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: the socket is there after the end: %v", name, err)
		}
	}
}

func TestNobodyListens(t *testing.T) {
	dir := lab.ShortDir(t)
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
