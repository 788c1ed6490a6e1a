package main

import (
	"context"
	"errors"
	"io/fs"
	"net/netip"

	"github.com/portmon/portmon/internal/book"
	"github.com/portmon/portmon/internal/control"
	"github.com/portmon/portmon/ruleset"
)

// watcher is what commands ask of a watcher: a [control.Client], or what a test
// has in its place.
type watcher interface {
	Status() (control.Status, error)
	Book(maxRows int, sources ...netip.Prefix) (*book.Book, error)
	Events(ctx context.Context, last int, follow bool, receive func(line []byte) error) error
	Save() error
	Applying() error
	Reload(applied *ruleset.Spec) error
	Removing() error
	Swapping() error
	Swapped(table uint64, rows *book.Book) error
	Drilling(sources ...netip.Prefix) error
	Unbanned(alone bool, prefixes ...netip.Prefix) (had []netip.Prefix, err error)
	Disallowed(prefixes ...netip.Prefix) (had []netip.Prefix, err error)
	Share(sources ...netip.Prefix) (shared []netip.Prefix, err error)
	ReadFleet() error
	Close()
}

// dialWatcher connects to the watcher that listens on a socket.
func dialWatcher(socket string) (watcher, error) { return control.Dial(socket) }

// runningWatcher connects to the watcher that keeps the state file, once that
// has answered. It returns nil if there is none, if it watches another network
// namespace, or if we may not ask it: who may edit the table may do without. It
// warns of one that is there and does not answer.
func (p *cli) runningWatcher() (watcher, control.Status) {
	if p.state == "" || p.hangs {
		return nil, control.Status{}
	}
	w, err := p.env.watcher(control.Path(p.state))
	if err == nil {
		var s control.Status
		if s, err = w.Status(); err == nil && s.NetNS == book.Here(0).NetNS {
			return w, s
		}
		w.Close()
	}
	p.withoutWatcher(err)
	return nil, control.Status{}
}

// withoutWatcher warns if there is a watcher that does not answer, which is not
// asked again.
func (p *cli) withoutWatcher(err error) {
	if err != nil && !errors.Is(err, control.ErrNone) && !errors.Is(err, fs.ErrPermission) {
		p.hangs = true
		p.warn("going on without the watcher: %v", err)
	}
}
