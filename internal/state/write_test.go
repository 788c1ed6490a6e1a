package state

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestWrite(t *testing.T) {
	defer unix.Umask(unix.Umask(0))
	dir := filepath.Join(t.TempDir(), "a", "b")
	path := filepath.Join(dir, "state.jsonl")
	if aside := mustWrite(t, path, header, sample...); aside != "" {
		t.Errorf("kept aside: %s", aside)
	}
	for name, want := range map[string]fs.FileMode{dir: fs.ModeDir | 0o700, filepath.Dir(dir): fs.ModeDir | 0o700, path: 0o600, path + ".lock": 0o600} {
		if info, err := os.Stat(name); err != nil || info.Mode() != want {
			t.Errorf("%s has mode %v, %v: want %v", name, info.Mode(), err, want)
		}
	}
	if contents(t, path) != string(encoded(header, sample...)) {
		t.Error("the file is not what was written")
	}
	// Whatever the mode was.
	if err := os.Chmod(path, 0o666); err != nil {
		t.Fatal(err)
	}
	if aside := mustWrite(t, path, header); aside != "" {
		t.Errorf("kept aside: %s", aside)
	}
	if info, err := os.Stat(path); err != nil || info.Mode() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if _, records, report := read(t, path); len(records) > 0 || report.Condition != Whole {
		t.Errorf("%d records, %s", len(records), report)
	}
	if got := listing(t, dir); !slices.Equal(got, []string{"state.jsonl", "state.jsonl.lock"}) {
		t.Errorf("the directory has %q", got)
	}
}

// Where the file is a link, the file that it leads to is replaced.
func TestWriteThroughLink(t *testing.T) {
	dir := t.TempDir()
	real, link := filepath.Join(dir, "real", "s"), filepath.Join(dir, "link")
	mustWrite(t, real, header)
	if err := os.Symlink(real, link); err != nil {
		t.Fatal(err)
	}
	mustWrite(t, link, header, sample...)
	if info, err := os.Lstat(link); err != nil || info.Mode()&fs.ModeSymlink == 0 {
		t.Errorf("the link became %v, %v", info.Mode(), err)
	}
	if _, records, _ := read(t, real); len(records) != len(sample) {
		t.Errorf("%d records behind the link", len(records))
	}
	if err := os.Remove(real); err != nil {
		t.Fatal(err)
	}
	_, err := Write(link, header, many(0))
	checkError(t, err, "write state "+link+": a link to nowhere: file does not exist", "")
	if info, err := os.Lstat(link); err != nil || info.Mode()&fs.ModeSymlink == 0 {
		t.Errorf("the link became %v, %v", info.Mode(), err)
	}
}

// What is not a sound state of this version and machine is kept aside, unchanged.
func TestKeptAside(t *testing.T) {
	l := sampleLines()
	whole := strings.Join(l, "")
	other := header
	other.Machine = "fedcba98"
	nobody := header
	nobody.Machine = ""
	tests := []struct {
		name, file, kind string
	}{
		{"whole", whole, ""},
		{"empty", "", ""},
		{"torn", whole[:len(whole)/2], "damaged"},
		{"torn in the header", l[0][:40], "damaged"},
		{"without its newline", whole[:len(whole)-1], "damaged"},
		{"garbage", edit(4, "garbage\n"), "damaged"},
		{"edited", edit(3, ""), "damaged"},
		{"more after the end", whole + "x", "damaged"},
		{"an endless line", edit(2, strings.Repeat("x", 200_000)+"\n"), "damaged"},
		{"the header is garbage", edit(1, "garbage\n"), "damaged"},
		{"zeros", strings.Repeat("\x00", 4096), "damaged"},
		{"another version", `{"format":"portmon-state","version":2}` + "\nx\n", "version-2"},
		{"another machine", string(encoded(other, sample...)), "other-machine"},
		{"nobody knows which machine", string(encoded(nobody, sample...)), ""},
	}
	for _, tt := range tests {
		path := statePath(t)
		put(t, path, []byte(tt.file))
		aside := mustWrite(t, path, header)
		want := ""
		if tt.kind != "" {
			want = path + "." + tt.kind + "-20260118T110426.123Z"
		}
		if aside != want {
			t.Errorf("%s: kept as %q, want %q", tt.name, aside, want)
		}
		if aside != "" && contents(t, aside) != tt.file {
			t.Errorf("%s: what was kept is not what was there", tt.name)
		}
		if _, _, report := read(t, path); report.Condition != Whole {
			t.Errorf("%s: then %s", tt.name, report)
		}
	}
}

// The newest three of each kind are kept.
func TestKeptAsideIsBounded(t *testing.T) {
	path := statePath(t)
	dir := filepath.Dir(path)
	put(t, path+".damaged", []byte("the administrator's"))
	put(t, path+".version-2-20200101T000000.000Z", []byte("x"))
	for i := range 7 {
		h := header
		h.Saved.Wall = saved.Wall.Add(time.Duration(i/2) * time.Hour) // two have the same name
		put(t, path, []byte(headerStart+strings.Repeat("x", i)))
		mustWrite(t, path, h)
		// One that is whole keeps nothing.
		mustWrite(t, path, h)
	}
	// That the clock is wrong is no reason to lose the newest.
	h := header
	h.Saved.Wall = time.Unix(0, 0)
	put(t, path, []byte(headerStart+strings.Repeat("x", 3)))
	mustWrite(t, path, h)
	want := []string{
		"state.jsonl", "state.jsonl.damaged",
		"state.jsonl.damaged-19700101T000000.000Z", "state.jsonl.damaged-20260118T130426.123Z-2", "state.jsonl.damaged-20260118T140426.123Z",
		"state.jsonl.lock", "state.jsonl.version-2-20200101T000000.000Z",
	}
	if d := diff(want, listing(t, dir)); d != "" {
		t.Errorf("(-want +got)\n%s", d)
	}
	for i, name := range want[2:5] {
		if got := contents(t, filepath.Join(dir, name)); len(got) != len(headerStart)+[]int{3, 5, 6}[i] {
			t.Errorf("%s is the wrong one", name)
		}
	}
}

// What is none of ours is not replaced.
func TestWriteOverForeign(t *testing.T) {
	const hint = "move it away, or name another file as state under [watch]"
	path := statePath(t)
	put(t, path, []byte("127.0.0.1 localhost\n"))
	_, err := Write(path, header, slices.Values(sample))
	checkError(t, err, "write state "+path+": not written by portmon", hint)
	if contents(t, path) != "127.0.0.1 localhost\n" {
		t.Error("the file changed")
	}
	// Nor is a device or a pipe, and nothing is made beside it.
	pipe := statePath(t)
	if err := unix.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = Write(pipe, header, slices.Values(sample))
	checkError(t, err, "write state "+pipe+": no regular file", hint)
	if got := listing(t, filepath.Dir(pipe)); len(got) != 1 {
		t.Errorf("the directory has %q", got)
	}
}

// Records that make no sense are left out, and the rest is written.
func TestWriteInvalid(t *testing.T) {
	path := statePath(t)
	bad := []Record{{}, {Prefix: prefix("203.0.113.7/24"), Offences: 1}, {Prefix: prefix("203.0.113.7/32")}}
	_, err := Write(path, header, slices.Values(slices.Concat(bad, sample)))
	checkError(t, err, "write state "+path+": 3 records left out, the first because of invalid Prefix: no prefix", "")
	if _, records, report := read(t, path); diff(sample, records) != "" || report.Condition != Whole {
		t.Errorf("%d records, %s", len(records), report)
	}
}

// A killed writer's temporary files are removed, and nothing else.
func TestLeftovers(t *testing.T) {
	path := statePath(t)
	dir := filepath.Dir(path)
	others := []string{".state.jsonl", ".state.jsonl12x", ".state.json1", "state.jsonl1"}
	for _, name := range append([]string{".state.jsonl1", ".state.jsonl8674665223082153551"}, others...) {
		put(t, filepath.Join(dir, name), nil)
	}
	mustWrite(t, path, header)
	want := append([]string{"state.jsonl", "state.jsonl.lock"}, others...)
	slices.Sort(want)
	if d := diff(want, listing(t, dir)); d != "" {
		t.Errorf("(-want +got)\n%s", d)
	}
}

// onThread runs f in a goroutine whose thread ends with it, and with it all that f did to the thread.
func onThread(f func()) {
	done := make(chan struct{})
	go func() {
		runtime.LockOSThread()
		defer close(done)
		f()
	}()
	<-done
}

// Whoever may not write is told so, and what to do about it.
func TestUnwritable(t *testing.T) {
	const hint = "run as root, or name a file that can be written as state under [watch]"
	path := statePath(t)
	dir := filepath.Dir(path)
	mustWrite(t, path, header, sample...)
	before := contents(t, path)
	if err := os.Chmod(dir, 0o500); err != nil {
		t.Fatal(err)
	}
	defer os.Chmod(dir, 0o700)
	onThread(func() {
		// Root without its capabilities is like anybody else.
		var none [2]unix.CapUserData
		if err := unix.Capset(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &none[0]); err != nil {
			t.Error(err)
			return
		}
		_, err := Write(path, header, many(1))
		var e *Error
		if !errors.As(err, &e) || !errors.Is(err, fs.ErrPermission) || e.Hint() != hint || e.Path != path {
			t.Errorf("in a directory that is read-only: %v", err)
		}
		secret := filepath.Join(dir, "state.jsonl.lock")
		if err := os.Chmod(secret, 0); err != nil {
			t.Error(err)
		}
		_, err = Open(secret)
		checkError(t, err, "read state "+secret+": open "+secret+": permission denied", "run as root")
		_, err = Write(filepath.Join(dir, "sub", "s"), header, many(1))
		checkError(t, err, "write state "+dir+"/sub/s: mkdir "+dir+"/sub: permission denied", hint)
	})
	_, err := Write(path+"/s", header, many(1))
	checkError(t, err, "write state "+path+"/s: mkdir "+path+": not a directory", "name another file as state under [watch]")
	if contents(t, path) != before {
		t.Error("the file changed")
	}
}

// On a disk that is full the old file stays, and nothing else.
func TestDiskFull(t *testing.T) {
	onThread(func() {
		dir := t.TempDir()
		if err := mountSmall(dir); err != nil {
			t.Error(err)
			return
		}
		path := filepath.Join(dir, "state.jsonl")
		if _, err := Write(path, header, slices.Values(sample)); err != nil {
			t.Error(err)
			return
		}
		_, err := Write(path, header, many(10_000))
		var e *Error
		if !errors.As(err, &e) || !errors.Is(err, unix.ENOSPC) || e.Hint() != "make room there; the state saved before is kept until then" {
			t.Errorf("on a full disk: %v", err)
		}
		if got, err := os.ReadFile(path); err != nil || string(got) != string(encoded(header, sample...)) {
			t.Errorf("the file changed, %v", err)
		}
		if entries, err := os.ReadDir(dir); err != nil || len(entries) != 2 {
			t.Errorf("left behind: %v, %v", entries, err)
		}
		if _, err := Write(path, header, many(100)); err != nil {
			t.Errorf("once there is room: %v", err)
		}
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
}

// mountSmall mounts a file system of 128 KiB that only this thread sees.
func mountSmall(dir string) error {
	return errors.Join(
		unix.Unshare(unix.CLONE_NEWNS),
		unix.Mount("none", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""),
		unix.Mount("none", dir, "tmpfs", 0, "size=128k"),
	)
}
