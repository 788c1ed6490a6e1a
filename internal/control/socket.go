package control

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/internal/folder"
)

// ErrNone means that no watcher runs.
var ErrNone = errors.New("no watcher runs")

// ErrEnded means that the watcher that was followed has ended.
var ErrEnded = errors.New("the watcher has ended")

// ErrBusy means that another watcher listens on the socket: it keeps its state
// in the same folder.
var ErrBusy = errors.New("another watcher uses it")

// Listener is a listening socket.
type Listener struct {
	net.Listener
	name   string
	folder *folder.Folder
	made   fs.FileInfo
	close  func() error
	mu     sync.Mutex // held while the folder is asked or closed
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
	d, err := folder.Make(filepath.Dir(socket))
	if err != nil {
		return nil, err
	}
	l := &Listener{name: filepath.Base(socket), folder: d}
	if err := l.listen(); err != nil {
		d.Close()
		return nil, err
	}
	l.close = sync.OnceValue(func() error {
		l.mu.Lock()
		defer l.mu.Unlock()
		inPlace := d.InPlace(l.name, l.made) // while it is open, no other file has its number
		err := l.Listener.Close()
		if inPlace {
			err = errors.Join(err, d.RemoveSocket(l.name))
		}
		return errors.Join(err, d.Close())
	})
	return l, nil
}

func (l *Listener) listen() error {
	if err := l.removeStale(); err != nil {
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
	path, err := l.folder.Path(l.name)
	if err != nil {
		return err
	}
	listener, err := config.Listen(context.Background(), "unix", path)
	var opErr *net.OpError
	if errors.As(err, &opErr) {
		return opErr.Err // without our path, which means nothing to people
	}
	if err != nil {
		return err
	}
	listener.(*net.UnixListener).SetUnlinkOnClose(false) // it may be another one's by then
	if l.made, err = l.folder.Stat(l.name); err != nil {
		listener.Close()
		return err
	}
	l.Listener = listener
	return nil
}

// removeStale removes a socket without a listener.
func (l *Listener) removeStale() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	c, err := l.folder.Connect(ctx, l.name)
	switch {
	case err == nil:
		c.Close()
		return ErrBusy
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case errors.Is(err, unix.ECONNREFUSED):
		return l.folder.RemoveSocket(l.name)
	}
	return err
}

// InPlace reports whether the path still leads to this socket, and that it is
// open. It may be called while others close it.
func (l *Listener) InPlace() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.folder.InPlace(l.name, l.made)
}

// Close stops listening and removes the socket, unless another one has taken
// its place.
func (l *Listener) Close() error { return l.close() }
