// Package folder works in a directory that may belong to an unprivileged user
// while root does the work, as the folder of the state file and of the
// watcher's socket does. That user can put links, pipes and devices into it at
// any moment. So the directory is held open, names are opened beneath it
// without following links, and what was opened is checked before it is used.
package folder

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// RefusedError means that a file was left alone: portmon did not write it, a
// newer version did, or it may be a trap that another user has set for root.
type RefusedError struct{ Reason, Hint string }

func (e *RefusedError) Error() string { return e.Reason }

var (
	// ErrLocked means that another process owns a file.
	ErrLocked = errors.New("locked by another process")
	// ErrNotSocket means that something other than a socket has its name.
	ErrNotSocket = errors.New("file exists and is not a socket")
)

// Folder is a directory that is held open.
type Folder struct {
	dir  *os.File
	stat unix.Stat_t
}

// Open opens a directory by its absolute path. The path comes from the
// configuration and is trusted: links in it are followed.
func Open(path string) (*Folder, error) {
	if !filepath.IsAbs(path) {
		return nil, fmt.Errorf("%s is not an absolute path", path)
	}
	dir, err := os.OpenFile(path, unix.O_DIRECTORY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	d := &Folder{dir: dir}
	return d, unix.Fstat(d.fd(), &d.stat)
}

// Make is [Open], and makes the directory with mode 0700 if it is missing.
func Make(path string) (*Folder, error) {
	d, err := Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		if err = os.MkdirAll(path, 0o700); err == nil {
			d, err = Open(path)
		}
	}
	return d, err
}

// Close closes the directory.
func (d *Folder) Close() error { return d.dir.Close() }

func (d *Folder) fd() int { return int(d.dir.Fd()) }

// Path returns a path that leads to a name in this very directory. It is short,
// where that of a socket may have no more than 107 bytes.
func (d *Folder) Path(name string) string { return procPath(d.fd()) + "/" + name }

func procPath(fd int) string { return fmt.Sprintf("/proc/self/fd/%d", fd) }

// Stat returns what has a name, without following a link.
func (d *Folder) Stat(name string) (st unix.Stat_t, err error) {
	err = unix.Fstatat(d.fd(), name, &st, unix.AT_SYMLINK_NOFOLLOW)
	return st, err
}

// InPlace reports whether the directory is still at its path, and the name in
// it is still that of the file, or of none if file is nil.
func (d *Folder) InPlace(name string, file *unix.Stat_t) bool {
	same := func(a, b *unix.Stat_t) bool { return a.Ino == b.Ino && a.Dev == b.Dev }
	var dir unix.Stat_t
	if unix.Stat(d.dir.Name(), &dir) != nil || !same(&dir, &d.stat) {
		return false
	}
	st, err := d.Stat(name)
	if file == nil {
		return errors.Is(err, fs.ErrNotExist)
	}
	return err == nil && same(&st, file)
}

// Check looks at what has a name. The error is fs.ErrNotExist if nothing has,
// and a *RefusedError if it is not a regular file that we or the owner of the
// directory made.
func (d *Folder) Check(name string) error {
	st, err := d.Stat(name)
	if err != nil {
		return err
	}
	return d.judge(name, &st)
}

func (d *Folder) judge(name string, st *unix.Stat_t) error {
	reason := ""
	switch kind := st.Mode & unix.S_IFMT; {
	case kind == unix.S_IFLNK:
		reason = "is a symbolic link"
	case kind != unix.S_IFREG:
		reason = "is not a regular file"
	case st.Nlink > 1:
		reason = fmt.Sprintf("has %d hard links", st.Nlink)
	case !d.trusts(st.Uid):
		reason = fmt.Sprintf("belongs to user %d", st.Uid)
	default:
		return nil
	}
	return &RefusedError{filepath.Join(d.dir.Name(), name) + " " + reason, "find out who made it, and remove it"}
}

// trusts reports whether a user may make files and sockets here: root, the one
// that we are, and the owner of the directory.
func (d *Folder) trusts(uid uint32) bool {
	return uid == 0 || int(uid) == os.Geteuid() || uid == d.stat.Uid
}

// Open opens a file that is there. The error is that of [Folder.Check].
func (d *Folder) Open(name string, flags int) (*os.File, error) {
	// Checked before it is opened, because to open a device may do something.
	if err := d.Check(name); err != nil {
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

func (d *Folder) openat(name string, flags int) (*os.File, error) {
	fd, err := unix.Openat(d.fd(), name, flags|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), filepath.Join(d.dir.Name(), name)), nil
}

// Create makes a file for reading and appending where there is none. It is
// given to the owner of the directory, who has to go on with what root wrote.
func (d *Folder) Create(name string) (*os.File, error) {
	f, err := d.openat(name, unix.O_RDWR|unix.O_APPEND|unix.O_CREAT|unix.O_EXCL)
	if err == nil && os.Geteuid() == 0 && d.stat.Uid != 0 {
		if err = f.Chown(int(d.stat.Uid), int(d.stat.Gid)); err != nil {
			f.Close()
			err = errors.Join(err, unix.Unlinkat(d.fd(), name, 0))
		}
	}
	return f, err
}

// Remove removes a file of ours, if there is one.
func (d *Folder) Remove(name string) error {
	err := d.Check(name)
	if err == nil {
		err = unix.Unlinkat(d.fd(), name, 0)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// RemoveSocket removes a socket.
func (d *Folder) RemoveSocket(name string) error { return unix.Unlinkat(d.fd(), name, 0) }

// Replace renames the file temp to name, and what was there to bad, unless that
// is "". There is no moment without a file, except on file systems that cannot
// exchange two.
func (d *Folder) Replace(temp, name, bad string) error {
	rename := func(from, to string) error { return unix.Renameat(d.fd(), from, d.fd(), to) }
	switch {
	case bad == "":
		return errors.Join(rename(temp, name), d.dir.Sync())
	case unix.Renameat2(d.fd(), temp, d.fd(), name, unix.RENAME_EXCHANGE) == nil:
		return errors.Join(rename(temp, bad), d.dir.Sync())
	}
	return errors.Join(rename(name, bad), rename(temp, name), d.dir.Sync())
}

// Lock locks the file of a name until it is closed or the process ends, and
// makes it if it is missing. The error is [ErrLocked] if another process has
// not let go of it in time. The file stays: if it were removed, two processes
// could hold a lock at once.
func (d *Folder) Lock(name string, wait time.Duration) (*os.File, error) {
	f, err := d.Create(name)
	if errors.Is(err, fs.ErrExist) {
		f, err = d.Open(name, unix.O_RDWR)
	}
	if err != nil {
		return nil, err
	}
	// Tried again and again, because to wait in the kernel cannot be ended.
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

// Connect connects to a unix socket. The error is [ErrNotSocket] if the name is
// that of something else, and a *RefusedError if a user listens there who has
// no business in this directory.
func (d *Folder) Connect(ctx context.Context, name string) (net.Conn, error) {
	fd, err := unix.Openat(d.fd(), name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFSOCK {
		return nil, ErrNotSocket
	}
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "unix", procPath(fd))
	if err != nil {
		return nil, err
	}
	if err := d.checkPeer(name, conn.(*net.UnixConn)); err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

// checkPeer checks the user who listens on a socket.
func (d *Folder) checkPeer(name string, conn *net.UnixConn) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var peer *unix.Ucred
	controlErr := raw.Control(func(fd uintptr) {
		peer, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err = errors.Join(controlErr, err); err == nil && !d.trusts(peer.Uid) {
		reason := fmt.Sprintf("%s belongs to user %d", filepath.Join(d.dir.Name(), name), peer.Uid)
		err = &RefusedError{reason, "find out who listens there, and remove it"}
	}
	return err
}
