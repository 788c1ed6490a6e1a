package main

import (
	"errors"
	"io/fs"
	"net/netip"

	"github.com/portmon/portmon/internal/book"
	"github.com/portmon/portmon/internal/control"
)

// watcher is what commands ask of a watcher: a [control.Client], or what a test
// has in its place.
type watcher interface {
	Status() (control.Status, error)
	Book(maxRows int, sources ...netip.Prefix) (*book.Book, error)
	Save() error
	Applying() error
	Reload() error
	Removing() error
	Unbanned(alone bool, prefixes ...netip.Prefix) (had []netip.Prefix, err error)
	Close()
}

// dialWatcher connects to the watcher that listens on a socket.
func dialWatcher(socket string) (watcher, error) { return control.Dial(socket) }

// findWatcher connects to the watcher that keeps its state in a file, once that
// has answered. The error is [control.ErrNone] if there is none, and also if it
// watches another network namespace or if we may not ask it.
func (p *cli) findWatcher(statePath string) (w watcher, s control.Status, err error) {
	if w, err = p.env.watcher(control.Path(statePath)); err == nil {
		if s, err = w.Status(); err == nil && s.NetNS != book.Here(0).NetNS {
			err = control.ErrNone
		}
		if err == nil {
			return w, s, nil
		}
		w.Close()
	}
	if errors.Is(err, fs.ErrPermission) {
		err = control.ErrNone // who may edit the table may do without
	}
	return nil, s, err
}

// runningWatcher returns the watcher, nil if none answers, and warns of one that
// is there and does not.
func (p *cli) runningWatcher(statePath string) watcher {
	w, _, err := p.findWatcher(statePath)
	if err != nil {
		p.withoutWatcher(err)
		return nil
	}
	return w
}

// withoutWatcher warns if there is a watcher that does not answer.
func (p *cli) withoutWatcher(err error) {
	if !errors.Is(err, control.ErrNone) && !errors.Is(err, fs.ErrPermission) {
		p.warn("going on without the watcher: %v", err)
	}
}
