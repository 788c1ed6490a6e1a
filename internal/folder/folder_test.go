package folder

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func open(t *testing.T, path string) *Folder {
	t.Helper()
	d, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// What is not a file that we or the owner of the folder made is neither opened
// nor removed. Package book does the same with all that it has in a folder.
func TestRefused(t *testing.T) {
	for reason, put := range map[string]func(path, other string) error{
		"is a symbolic link":    func(path, other string) error { return os.Symlink(other, path) },
		"is not a regular file": func(path, _ string) error { return unix.Mkfifo(path, 0o600) },
		"has 2 hard links":      func(path, other string) error { return os.Link(other, path) },
	} {
		t.Run(reason, func(t *testing.T) {
			dir := t.TempDir()
			d, other := open(t, dir), filepath.Join(dir, "other")
			write(t, other, "precious")
			if err := put(filepath.Join(dir, "name"), other); err != nil {
				t.Fatal(err)
			}
			_, openErr := d.Open("name", unix.O_RDWR)
			_, lockErr := d.Lock("name", 0)
			for _, err := range []error{openErr, lockErr, d.Remove("name")} {
				var refused *RefusedError
				ok := errors.As(err, &refused)
				if !ok || refused.Reason != filepath.Join(dir, "name")+" "+reason || refused.Hint == "" {
					t.Errorf("error: %v", err)
				}
			}
			if _, err := d.Create("name"); !errors.Is(err, fs.ErrExist) {
				t.Errorf("create: %v", err)
			}
			if text, err := os.ReadFile(other); err != nil || string(text) != "precious" {
				t.Errorf("the other file: %q, %v", text, err)
			}
		})
	}
	if _, err := Open("relative"); err == nil || !strings.Contains(err.Error(), "not an absolute path") {
		t.Errorf("a relative path: %v", err)
	}
	if _, err := Open("/proc/self/status"); !errors.Is(err, unix.ENOTDIR) {
		t.Errorf("a file: %v", err)
	}
}

func TestRename(t *testing.T) {
	dir := t.TempDir()
	d := open(t, dir)
	write(t, filepath.Join(dir, "name"), "old")
	write(t, filepath.Join(dir, "temp"), "new")
	if err := d.Rename("temp", "name"); err != nil {
		t.Error(err)
	}
	if text, err := os.ReadFile(filepath.Join(dir, "name")); err != nil || string(text) != "new" {
		t.Errorf("%q, %v", text, err)
	}
	if err := errors.Join(d.Remove("name"), d.Remove("name")); err != nil {
		t.Error(err)
	}
}

// The folder, or a file in it, is moved away.
func TestInPlace(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new", "state")
	d, err := Make(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	f, err := d.Create("name")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	st, err := d.Stat("name")
	if err != nil || st.Mode() != 0o600 {
		t.Fatalf("mode %o, %v", st.Mode(), err)
	}
	if !d.InPlace("name", st) || !d.InPlace("none", nil) || d.InPlace("name", nil) || d.InPlace("none", st) {
		t.Error("before anything was moved")
	}
	path := filepath.Join(dir, "name")
	if err := errors.Join(os.Rename(path, path+"2"), os.WriteFile(path, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	if d.InPlace("name", st) || !d.InPlace("name2", st) {
		t.Error("when the file was moved")
	}
	if err := errors.Join(os.Rename(dir, dir+"2"), os.Mkdir(dir, 0o700)); err != nil {
		t.Fatal(err)
	}
	if d.InPlace("name2", st) || d.InPlace("none", nil) {
		t.Error("when the folder was moved")
	}
}

func TestLock(t *testing.T) {
	d := open(t, t.TempDir())
	first, err := d.Lock("lock", 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Lock("lock", 0); !errors.Is(err, ErrLocked) {
		t.Errorf("locked twice: %v", err)
	}
	time.AfterFunc(20*time.Millisecond, func() { first.Close() })
	second, err := d.Lock("lock", time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	second.Close()
}
