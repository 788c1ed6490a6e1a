package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"time"

	"github.com/portmon/portmon/internal/book"
	"github.com/portmon/portmon/internal/control"
)

// watcher is what commands ask of a watcher that runs.
type watcher interface {
	Status() (control.Status, error)
	// Book returns what it remembers: of these sources, or of all if none is
	// named.
	Book(maxRows int, sources ...netip.Prefix) (*book.Book, error)
	// Save has everything that happened until now written to the disk.
	Save() error
	// Applying and Removing announce what is about to be done to the table, so
	// that it is not undone. Reload ends what Applying began.
	Applying() error
	Reload() error
	Removing() error
	// Unbanned has these prefixes, and all within, forgotten. It returns the
	// sources of which something was remembered.
	Unbanned(prefixes ...netip.Prefix) (had []netip.Prefix, err error)
	Close()
}

// dialWatcher connects to the watcher that listens on a socket.
func dialWatcher(socket string) (watcher, error) { return control.Dial(socket) }

// watcherPatience is how long a command waits for a watcher before it does
// without. One that is alive answers within milliseconds.
const watcherPatience = 2 * time.Second

// errHangs is what findWatcher returns for a watcher that does not answer.
var errHangs = fmt.Errorf("the watcher has not answered within %v", watcherPatience)

// findWatcher connects to the watcher that keeps its state in a file, once that
// has answered. The error is [control.ErrNone] if there is none, and also if it
// watches another network namespace or if we may not ask it.
func (p *cli) findWatcher(statePath string) (watcher, control.Status, error) {
	type answer struct {
		watcher
		status control.Status
		err    error
	}
	answers := make(chan answer, 1) // for the goroutine to end after the wait is given up
	here := book.Here(0).NetNS      // of this thread
	go func() {
		var a answer
		if a.watcher, a.err = p.env.watcher(control.Path(statePath)); a.err == nil {
			if a.status, a.err = a.watcher.Status(); a.err == nil && a.status.NetNS != here {
				a.err = control.ErrNone
			}
			if a.err != nil {
				a.watcher.Close()
			}
		}
		answers <- a
	}()
	select {
	case a := <-answers:
		if errors.Is(a.err, fs.ErrPermission) {
			a.err = control.ErrNone // who may edit the table may do without
		}
		return a.watcher, a.status, a.err
	case <-time.After(watcherPatience):
		return nil, control.Status{}, errHangs
	}
}

// runningWatcher returns the watcher, or nil if there is none that answers;
// that one is there which does not is a warning.
func (p *cli) runningWatcher(statePath string) watcher {
	w, _, err := p.findWatcher(statePath)
	switch {
	case err == nil:
		return w
	case !errors.Is(err, control.ErrNone):
		p.warn("going on without the watcher: %v", err)
	}
	return nil
}
