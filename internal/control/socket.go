package control

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// ErrNone means that no watcher runs.
var ErrNone = errors.New("no watcher runs")

// ErrBusy means that another watcher listens on the socket: it keeps its state
// in the same folder.
var ErrBusy = errors.New("another watcher uses it")

var errNotSocket = errors.New("file exists and is not a socket")

// folder is the folder of a socket, held open. It may belong to another user,
// who puts links and what not into it while root works there. So names are
// looked up beneath it, and no link is followed.
type folder struct{ *os.File }

func openFolder(socket string) (folder, error) {
	f, err := os.OpenFile(filepath.Dir(socket), unix.O_PATH|unix.O_DIRECTORY, 0)
	return folder{f}, err
}

// path returns a path that leads to a name in this very folder. It is short,
// where that of a socket may have no more than 107 bytes.
func (d folder) path(name string) string { return procPath(int(d.Fd())) + "/" + name }

func procPath(fd int) string { return fmt.Sprintf("/proc/self/fd/%d", fd) }

// stat returns what is under a name.
func (d folder) stat(name string) (st unix.Stat_t, err error) {
	err = unix.Fstatat(int(d.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW)
	return st, err
}

// connect connects to a socket. The error is errNotSocket if it is something
// else.
func (d folder) connect(ctx context.Context, name string) (net.Conn, error) {
	fd, err := unix.Openat(int(d.Fd()), name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFSOCK {
		return nil, errNotSocket
	}
	var dialer net.Dialer
	return dialer.DialContext(ctx, "unix", procPath(fd))
}

// Listener is a listening socket.
type Listener struct {
	net.Listener
	socket string
	folder folder
	made   unix.Stat_t
	close  func() error
}

// Listen makes the socket, and its folder if that is missing. What a killed
// watcher left is replaced. The error wraps [ErrBusy] if the other one lives.
func Listen(socket string) (*Listener, error) {
	l, err := listen(socket)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", socket, err)
	}
	return l, nil
}

func listen(socket string) (*Listener, error) {
	if err := os.MkdirAll(filepath.Dir(socket), 0o700); err != nil {
		return nil, err
	}
	d, err := openFolder(socket)
	if err != nil {
		return nil, err
	}
	l := &Listener{socket: socket, folder: d}
	if err := l.listen(); err != nil {
		d.Close()
		return nil, err
	}
	l.close = sync.OnceValue(func() error {
		inPlace := l.InPlace() // while it is open, no other file has its number
		err := l.Listener.Close()
		if inPlace {
			err = errors.Join(err, unix.Unlinkat(int(d.Fd()), filepath.Base(socket), 0))
		}
		return errors.Join(err, d.Close())
	})
	return l, nil
}

func (l *Listener) listen() error {
	name := filepath.Base(l.socket)
	if err := l.clear(name); err != nil {
		return err
	}
	// A socket is made with the mode that it has before it gets a name. So
	// there is no moment at which others can open it, whatever the umask is.
	config := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) (err error) {
		if controlErr := c.Control(func(fd uintptr) { err = unix.Fchmod(int(fd), 0o600) }); controlErr != nil {
			return controlErr
		}
		return err
	}}
	listener, err := config.Listen(context.Background(), "unix", l.folder.path(name))
	if opErr, ok := errors.AsType[*net.OpError](err); ok {
		return opErr.Err // without our path, which means nothing to people
	}
	if err != nil {
		return err
	}
	listener.(*net.UnixListener).SetUnlinkOnClose(false) // it may be another one's by then
	if l.made, err = l.folder.stat(name); err != nil {
		listener.Close()
		return err
	}
	l.Listener = listener
	return nil
}

// clear removes a socket without a listener.
func (l *Listener) clear(name string) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	c, err := l.folder.connect(ctx, name)
	switch {
	case err == nil:
		c.Close()
		return ErrBusy
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case errors.Is(err, unix.ECONNREFUSED):
		return unix.Unlinkat(int(l.folder.Fd()), name, 0)
	}
	return err
}

// InPlace reports whether the path still leads to this socket.
func (l *Listener) InPlace() bool {
	var st unix.Stat_t
	return unix.Lstat(l.socket, &st) == nil && st.Ino == l.made.Ino && st.Dev == l.made.Dev
}

// Close stops listening and removes the socket, unless another one has taken
// its place.
func (l *Listener) Close() error { return l.close() }
