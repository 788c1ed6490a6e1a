package book

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// watcher is the user to whom the folder belongs.
const watcher = 4242

// theirs returns the path of a state file in a folder of another user. In a user
// namespace there is no other user, and the folder is ours.
func theirs(t *testing.T) (path string, ours bool) {
	t.Helper()
	dir := t.TempDir()
	err := os.Chown(dir, watcher, watcher)
	if ours = errors.Is(err, unix.EINVAL); ours {
		err = nil
	}
	if err := errors.Join(err, os.Chmod(filepath.Dir(dir), 0o755)); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, "state.jsonl"), ours
}

// bind puts another file in the place of one, as is permitted in a user
// namespace too.
func bind(other, name string) error {
	return errors.Join(os.WriteFile(name, nil, 0o666), unix.Mount(other, name, "", unix.MS_BIND, ""))
}

// play plays a trick until the test ends.
func play(t *testing.T, trick func(name, precious string) error, name, precious string) {
	t.Helper()
	if err := trick(name, precious); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(name, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW) }) // EINVAL if it is no mount
}

// trick puts something in the place of a file for root to fall for. What it
// leads to is the file precious.
var tricks = map[string]func(name, precious string) error{
	"link":            func(name, precious string) error { return os.Symlink(precious, name) },
	"link to nowhere": func(name, precious string) error { return os.Symlink(precious+"-not-there", name) },
	"hard link":       func(name, precious string) error { return os.Link(precious, name) },
	"pipe":            func(name, _ string) error { return unix.Mkfifo(name, 0o666) },
	"folder":          func(name, _ string) error { return os.Mkdir(name, 0o777) },
	"somebody's file": func(name, _ string) error {
		err := errors.Join(os.WriteFile(name, nil, 0o666), os.Chown(name, 999, 999))
		if errors.Is(err, unix.EINVAL) {
			return bind("/etc/passwd", name)
		}
		return err
	},
	"device": func(name, _ string) error {
		err := unix.Mknod(name, unix.S_IFCHR|0o666, int(unix.Mkdev(1, 5)))
		if errors.Is(err, unix.EPERM) {
			return bind("/dev/zero", name)
		}
		return err
	},
	"link to a device":  func(name, _ string) error { return os.Symlink("/dev/zero", name) },
	"link to the state": func(name, _ string) error { return os.Symlink("state.jsonl", name) },
}

// Whatever the owner of the folder puts in the place of a file, root refuses it
// at once, follows nothing and gives nothing away.
func TestTricks(t *testing.T) {
	for trick, set := range tricks {
		for _, suffix := range []string{"", ".lock", ".tmp", ".bad"} {
			t.Run(trick+suffix, func(t *testing.T) {
				path, _ := theirs(t)
				precious := filepath.Join(t.TempDir(), "precious")
				overwrite(t, precious, "precious")
				b := open(t, config(path, 0))
				put(t, b, sample...)
				mustSync(t, b, clock)
				b.Close()
				if suffix == ".bad" {
					overwrite(t, path, contents(t, path)+"damage\n")
				}
				if err := os.Remove(path + suffix); err != nil && !errors.Is(err, os.ErrNotExist) {
					t.Fatal(err)
				}
				play(t, set, path+suffix, precious)
				before, trap := identity(t, precious), identity(t, path+suffix)
				for what, do := range map[string]func() error{
					"open":  func() error { _, err := rewrite(config(path, 0)); return err },
					"amend": func() error { c := config(path, 0); c.Here.Boot = "next"; return amend(c, []Row{hourly(5)}, nil) },
					"read": func() error {
						_, _, err := Read(config(path, 0))
						if suffix != "" {
							return &RefusedError{Reason: path + suffix, Hint: ""} // it has nothing to do with it
						}
						return err
					},
				} {
					err := do()
					if reason := refusal(err); !strings.HasPrefix(reason, path+suffix) {
						t.Errorf("%s: %v", what, err)
					}
				}
				after := identity(t, precious)
				before.Atim, after.Atim = unix.Timespec{}, unix.Timespec{}
				if after != before || contents(t, precious) != "precious" {
					t.Errorf("the file was %+v and is %+v", before, after)
				}
				if now := identity(t, path+suffix); now.Uid != trap.Uid || now.Ino != trap.Ino {
					t.Errorf("what was put there was %+v and is %+v", trap, now)
				}
				if _, err := os.Lstat(precious + "-not-there"); err == nil {
					t.Error("a file was made where the link leads to")
				}
			})
		}
	}
}

// rewrite opens a book and has it rewritten.
func rewrite(c Config) (*Book, error) {
	b, _, err := Open(c)
	if err != nil {
		return nil, err
	}
	defer b.Close()
	b.store.replace()
	return b, b.Sync(c.Now)
}

// While a file is open, it is replaced by something else.
func TestTrickedWhileOpen(t *testing.T) {
	for trick, set := range tricks {
		t.Run(trick, func(t *testing.T) {
			path, _ := theirs(t)
			precious := filepath.Join(t.TempDir(), "precious")
			overwrite(t, precious, "precious")
			b := open(t, config(path, 0))
			put(t, b, sample...)
			mustSync(t, b, clock)
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
			play(t, set, path, precious)
			for range 3 {
				b.Put(hourly(1))
				if err := b.Sync(clock); trick != "link to the state" && !strings.HasPrefix(refusal(err), path) {
					t.Errorf("error: %v", err)
				}
			}
			if contents(t, precious) != "precious" {
				t.Error("it was written to")
			}
			unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
			mustSync(t, b, clock)
			if mustRead(t, config(path, 0), append(sample, hourly(1))...); contents(t, precious) != "precious" {
				t.Error("it was written to")
			}
		})
	}
}

// What root makes belongs to the owner of the folder, who can go on with it.
func TestOwner(t *testing.T) {
	path, ours := theirs(t)
	if ours {
		t.Skip("needs root: in a user namespace there is no other user to own the folder")
	}
	if err := amend(config(path, 0), sample, nil); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		for _, name := range []string{path, path + ".lock"} {
			if st := identity(t, name); st.Uid != watcher || st.Gid != watcher || st.Mode != unix.S_IFREG|0o600 {
				t.Errorf("%s: user %d, group %d, mode %o", name, st.Uid, st.Gid, st.Mode)
			}
		}
		cmd, out := startChild(t, "use", path)
		for out.Scan() {
			t.Log(out.Text())
		}
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	}
	mustRead(t, config(path, 0), append(sample, hourly(1))...)
}

// useBook does what a watcher does, as the user to whom the folder belongs.
func useBook(path string) error {
	if err := errors.Join(unix.Setgroups(nil), unix.Setgid(watcher), unix.Setuid(watcher)); err != nil {
		return err
	}
	c := config(path, 0)
	b, _, err := Open(c)
	if err != nil {
		return err
	}
	b.Put(hourly(1))
	b.Put(hourly(2))
	if err := b.Sync(clock); err != nil {
		return err
	}
	b.Free(address(2))
	b.Close()
	return errors.Join(amend(c, nil, []netip.Prefix{address(2)}), second(rewrite(c)))
}

func second(_ *Book, err error) error { return err }

// The path to the folder is the administrator's, who may use links: systemd
// makes /var/lib/portmon one. A folder that is missing is made.
func TestPath(t *testing.T) {
	dir := t.TempDir()
	if err := os.Symlink("private/portmon", filepath.Join(dir, "portmon")); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(dir, "private/portmon"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"portmon/state.jsonl", "new/and/deep/state.jsonl"} {
		path = filepath.Join(dir, path)
		if err := amend(config(path, 0), sample, nil); err != nil {
			t.Fatal(err)
		}
		mustRead(t, config(path, 0), sample...)
	}
	if st := identity(t, filepath.Join(dir, "new/and")); st.Mode != unix.S_IFDIR|0o700 {
		t.Errorf("mode %o", st.Mode)
	}
	if _, _, err := Open(config(filepath.Join(dir, "new/and/deep/state.jsonl/x"), 0)); !errors.Is(err, unix.ENOTDIR) {
		t.Errorf("error: %v", err)
	}
}
