package book

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// folder is the directory of a state file, held open. Its path is that of the
// configuration and trusted, but it may belong to an unprivileged user who puts
// links, pipes and what not into it while root works there. So names are opened
// beneath it and not followed, and looked at before anything is done with them.
type folder struct {
	dir  *os.File
	stat unix.Stat_t
}

func openFolder(path string) (*folder, error) {
	if !filepath.IsAbs(path) {
		return nil, fmt.Errorf("%s is not an absolute path", path)
	}
	dir, err := os.OpenFile(path, unix.O_DIRECTORY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	d := &folder{dir: dir}
	return d, unix.Fstat(d.fd(), &d.stat)
}

func (d *folder) fd() int { return int(d.dir.Fd()) }

// check looks at what is under a name. The error is fs.ErrNotExist if there is
// nothing, and a *RefusedError if it is not a file that we or the owner of the
// folder made.
func (d *folder) check(name string) error {
	var st unix.Stat_t
	if err := unix.Fstatat(d.fd(), name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	return d.judge(name, &st)
}

func (d *folder) judge(name string, st *unix.Stat_t) error {
	reason := ""
	switch kind := st.Mode & unix.S_IFMT; {
	case kind == unix.S_IFLNK:
		reason = "is a symbolic link"
	case kind != unix.S_IFREG:
		reason = "is not a regular file"
	case st.Nlink > 1:
		reason = fmt.Sprintf("has %d hard links", st.Nlink)
	case st.Uid != 0 && int(st.Uid) != os.Geteuid() && st.Uid != d.stat.Uid:
		reason = fmt.Sprintf("belongs to user %d", st.Uid)
	default:
		return nil
	}
	path := filepath.Join(d.dir.Name(), name)
	return &RefusedError{path + " " + reason, "find out who made it, and remove it"}
}

// open opens a file that is there.
func (d *folder) open(name string, flags int) (*os.File, error) {
	// Asked before it is opened, because to open a device may do something.
	if err := d.check(name); err != nil {
		return nil, err
	}
	// Not blocking, for a pipe that has taken its place meanwhile.
	f, err := d.openat(name, flags|unix.O_NONBLOCK|unix.O_NOCTTY)
	if err != nil {
		return nil, err
	}
	var st unix.Stat_t
	if err = unix.Fstat(int(f.Fd()), &st); err == nil {
		err = d.judge(name, &st)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func (d *folder) openat(name string, flags int) (*os.File, error) {
	fd, err := unix.Openat(d.fd(), name, flags|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), filepath.Join(d.dir.Name(), name)), nil
}

// create makes a file where there is none. It is made to belong to the owner of
// the folder, who has to go on with what root has written there.
func (d *folder) create(name string) (*os.File, error) {
	f, err := d.openat(name, unix.O_RDWR|unix.O_APPEND|unix.O_CREAT|unix.O_EXCL)
	if err == nil && os.Geteuid() == 0 && d.stat.Uid != 0 {
		if err = f.Chown(int(d.stat.Uid), int(d.stat.Gid)); err != nil {
			f.Close()
			err = errors.Join(err, unix.Unlinkat(d.fd(), name, 0))
		}
	}
	return f, err
}

// remove removes a file of ours, if there is one.
func (d *folder) remove(name string) error {
	err := d.check(name)
	if err == nil {
		err = unix.Unlinkat(d.fd(), name, 0)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// replace puts the file temp in the place of name, and keeps what was there as
// bad unless that is "". There is no moment without a file, but on file systems
// that cannot exchange two.
func (d *folder) replace(temp, name, bad string) error {
	rename := func(from, to string) error { return unix.Renameat(d.fd(), from, d.fd(), to) }
	switch {
	case bad == "":
		return errors.Join(rename(temp, name), d.dir.Sync())
	case unix.Renameat2(d.fd(), temp, d.fd(), name, unix.RENAME_EXCHANGE) == nil:
		return errors.Join(rename(temp, bad), d.dir.Sync())
	}
	return errors.Join(rename(name, bad), rename(temp, name), d.dir.Sync())
}

const lockSuffix = ".lock"

// lock makes this process the owner of a state file until the returned file is
// closed or the process ends. The file that stands for the lock stays, because
// to remove it would let in two owners at once.
func (d *folder) lock(name string, wait time.Duration) (*os.File, error) {
	f, err := d.create(name)
	if errors.Is(err, fs.ErrExist) {
		f, err = d.open(name, unix.O_RDWR)
	}
	if err != nil {
		return nil, err
	}
	// By trying again rather than by waiting in the kernel, which cannot be
	// ended.
	for deadline := time.Now().Add(wait); ; time.Sleep(5 * time.Millisecond) {
		switch err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); {
		case err == nil:
			return f, nil
		case errors.Is(err, unix.EWOULDBLOCK) && time.Now().Before(deadline), errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EWOULDBLOCK):
			err = ErrLocked
		}
		f.Close()
		return nil, err
	}
}
