// Package folder works in a directory that may belong to an unprivileged user
// while root does the work, as the folder of the state file and of the
// watcher's socket does. That user can put links, pipes and devices into it at
// any moment. So the directory is held open, names are looked up beneath it,
// and what was opened is checked before it is used.
package folder

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"
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
	// ErrNoProc means that a socket cannot be reached: unlike a file, it is not
	// opened beneath a directory, but by a path.
	ErrNoProc = errors.New("a socket is reached through /proc, which is not mounted")
)

// Folder is a directory that is held open.
type Folder struct {
	dir      *os.File
	info     fs.FileInfo
	uid, gid int // to whom it belongs
}

// Open opens a directory by its absolute path. The path comes from the
// configuration and is trusted: links in it are followed.
func Open(path string) (*Folder, error) {
	if !filepath.IsAbs(path) {
		return nil, fmt.Errorf("%s is not an absolute path", path)
	}
	dir, err := os.OpenFile(path, unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	info, err := dir.Stat()
	if err != nil {
		return nil, errors.Join(err, dir.Close())
	}
	st := info.Sys().(*syscall.Stat_t)
	return &Folder{dir, info, int(st.Uid), int(st.Gid)}, nil
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
// where that of a socket may have no more than 107 bytes. The error is
// [ErrNoProc].
func (d *Folder) Path(name string) (string, error) {
	path, err := procPath(d.dir)
	return path + "/" + name, err
}

// procPath returns a path that leads to an open file, whatever has its name.
func procPath(f *os.File) (string, error) {
	path := fmt.Sprintf("/proc/self/fd/%d", f.Fd())
	if _, err := os.Lstat(path); err != nil {
		return "", ErrNoProc
	}
	return path, nil
}

// hold opens what has a name without using it: no link is followed, no pipe
// waited for, and no device asked.
func (d *Folder) hold(name string) (*os.File, fs.FileInfo, error) {
	f, err := d.openat(name, unix.O_PATH|unix.O_NOFOLLOW)
	if err != nil {
		return nil, nil, err
	}
	info, err := f.Stat()
	return f, info, err
}

// holdGood holds what has a name, unless it is refused.
func (d *Folder) holdGood(name string, want fs.FileMode) (*os.File, error) {
	f, info, err := d.hold(name)
	if err == nil {
		err = d.judge(name, info, want)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func (d *Folder) openat(name string, flags int) (*os.File, error) {
	fd, err := unix.Openat(d.fd(), name, flags|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), filepath.Join(d.dir.Name(), name)), nil
}

// Stat returns what has a name, without following a link.
func (d *Folder) Stat(name string) (fs.FileInfo, error) {
	f, info, err := d.hold(name)
	f.Close()
	return info, err
}

// InPlace reports whether the directory is still at its path, and the name in
// it is still that of the file, or of none if file is nil.
func (d *Folder) InPlace(name string, file fs.FileInfo) bool {
	if dir, err := os.Stat(d.dir.Name()); err != nil || !os.SameFile(dir, d.info) {
		return false
	}
	now, err := d.Stat(name)
	if file == nil {
		return errors.Is(err, fs.ErrNotExist)
	}
	return err == nil && os.SameFile(now, file)
}

// judge refuses all but files of one type that have no other name, and that
// root made, the one that we are, or the owner of the directory.
func (d *Folder) judge(name string, info fs.FileInfo, want fs.FileMode) error {
	st, reason := info.Sys().(*syscall.Stat_t), ""
	switch kind := info.Mode().Type(); {
	case kind != want && want == fs.ModeSocket:
		return ErrNotSocket
	case kind == fs.ModeSymlink:
		reason = "is a symbolic link"
	case kind != want:
		reason = "is not a regular file"
	case st.Nlink > 1:
		reason = fmt.Sprintf("has %d hard links", st.Nlink)
	case st.Uid != 0 && int(st.Uid) != os.Geteuid() && int(st.Uid) != d.uid:
		reason = fmt.Sprintf("belongs to user %d", st.Uid)
	default:
		return nil
	}
	return &RefusedError{filepath.Join(d.dir.Name(), name) + " " + reason, "find out who made it, and remove it"}
}

// Open opens a file that is there. The error is a *RefusedError if it is not a
// regular file that we or the owner of the directory made.
func (d *Folder) Open(name string, flags int) (*os.File, error) {
	// Judged before it is opened, because to open a device may do something.
	held, err := d.holdGood(name, 0)
	if err != nil {
		return nil, err
	}
	held.Close()
	// And judged again, because the name may be that of another file by now. It
	// need not be refused: a watcher replaces its file while others read.
	f, err := d.openat(name, flags|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_NOCTTY)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil {
		err = d.judge(name, info, 0)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// Create makes a file for reading and appending where there is none. It is
// given to the owner of the directory, who has to go on with what root wrote.
func (d *Folder) Create(name string) (*os.File, error) {
	f, err := d.openat(name, unix.O_RDWR|unix.O_APPEND|unix.O_CREAT|unix.O_EXCL)
	if err == nil && os.Geteuid() == 0 && d.uid != 0 {
		if err = f.Chown(d.uid, d.gid); err != nil {
			f.Close()
			err = errors.Join(err, unix.Unlinkat(d.fd(), name, 0))
		}
	}
	return f, err
}

// ReadFile returns what is in a file of at most limit bytes.
func (d *Folder) ReadFile(name string, limit int64) ([]byte, error) {
	f, err := d.Open(name, unix.O_RDONLY)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(data)) > limit {
		err = &RefusedError{f.Name() + " is too large", "find out who made it, and remove it"}
	}
	return data, err
}

// ReadSecret returns what is in a file of a folder or, if there is none, in that
// of the folder where systemd hands secrets over.
func ReadSecret(dir, name string, limit int64) (data []byte, err error) {
	for _, from := range []string{dir, os.Getenv("CREDENTIALS_DIRECTORY")} {
		if from == "" {
			continue
		}
		var d *Folder
		if d, err = Open(from); err != nil {
			return nil, err
		}
		data, err = d.ReadFile(name, limit)
		if d.Close(); !errors.Is(err, fs.ErrNotExist) {
			return data, err
		}
	}
	return nil, err
}

// WriteFile puts a file in the place of any that [Folder.Open] would not
// refuse, at once and on the disk. Only one process may do so at a time.
func (d *Folder) WriteFile(name string, data []byte) error {
	return d.writeFile(name, name+".tmp", data)
}

// WriteShared is [Folder.WriteFile] for a file that several processes may write
// at a time. One that is killed leaves a file behind.
func (d *Folder) WriteShared(name string, data []byte) error {
	return d.writeFile(name, fmt.Sprintf("%s.%d.tmp", name, os.Getpid()), data)
}

func (d *Folder) writeFile(name, temp string, data []byte) error {
	if held, err := d.holdGood(name, 0); err == nil {
		held.Close()
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := d.Remove(temp); err != nil {
		return err
	}
	f, err := d.Create(temp)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = d.Rename(temp, name)
	}
	if err != nil {
		return errors.Join(err, d.Remove(temp))
	}
	return nil
}

// Remove removes a file, if there is one and [Folder.Open] would not refuse it.
func (d *Folder) Remove(name string) error {
	info, err := d.Stat(name)
	if err == nil {
		err = d.judge(name, info, 0)
	}
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

// Rename renames a file, in the place of any that has that name, and has it so
// on the disk.
func (d *Folder) Rename(from, to string) error {
	return errors.Join(unix.Renameat(d.fd(), from, d.fd(), to), d.dir.Sync())
}

// Replace is [Folder.Rename], and renames what was in that place to kept. It
// takes no room.
func (d *Folder) Replace(from, to, kept string) error {
	err := unix.Renameat2(d.fd(), from, d.fd(), to, unix.RENAME_EXCHANGE)
	switch {
	case err == nil:
		err = unix.Renameat(d.fd(), from, d.fd(), kept)
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOSYS): // as on NFS: for a moment there is none
		if err = unix.Renameat(d.fd(), to, d.fd(), kept); err == nil {
			err = unix.Renameat(d.fd(), from, d.fd(), to)
		}
	}
	return errors.Join(err, d.dir.Sync())
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
// that of something else, and a *RefusedError if a user made it who has no
// business in this directory. It is [ErrNoProc] without /proc if there is a
// socket.
func (d *Folder) Connect(ctx context.Context, name string) (net.Conn, error) {
	held, err := d.holdGood(name, fs.ModeSocket)
	if err != nil {
		return nil, err
	}
	defer held.Close()
	path, err := procPath(held)
	if err != nil {
		return nil, err
	}
	var dialer net.Dialer
	return dialer.DialContext(ctx, "unix", path)
}
