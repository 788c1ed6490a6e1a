package daemon

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/portmon/portmon/internal/control"
)

const (
	// maxConns is how many connections a server has at a time.
	maxConns = 64
	// retryEvery is how often a server that cannot listen tries again, and one
	// that listens looks whether its socket is still in place.
	retryEvery = 2 * time.Second
)

// server answers HTTP requests whenever it can listen. The address of the
// metrics may come up later than we do, or another program may have it; the
// folder of the socket may be deleted, or something mounted over it.
type server struct {
	*http.Server
	journal  *journal
	up, down string // what the journal says
	listen   func() (net.Listener, error)

	// gate is held by requests that are being answered, and in the end for
	// good.
	gate sync.RWMutex

	mu  sync.Mutex
	err error // why it does not listen now
}

// newServer returns a server with bounds. A request has exchange to come in,
// and as much again for its answer. What Go reports about connections goes to
// the journal like any other fault.
func (d *daemon) newServer(h http.Handler, exchange time.Duration, up, down string, listen func() (net.Listener, error)) *server {
	s := &server{journal: d.journal, up: up, down: down, listen: listen}
	s.Server = &http.Server{
		ReadHeaderTimeout: 5 * time.Second, ReadTimeout: exchange, WriteTimeout: exchange, IdleTimeout: time.Minute,
		MaxHeaderBytes: 1 << 20, ErrorLog: log.New(d.journal, "", 0), ConnState: closeOldest(),
		// Closing a connection does not end the handler that answers it.
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if !s.gate.TryRLock() {
				http.Error(w, "the watcher is ending", http.StatusServiceUnavailable)
				return
			}
			defer s.gate.RUnlock()
			h.ServeHTTP(w, r)
		}),
	}
	return s
}

// closeOldest returns what closes the oldest connection for each one beyond
// maxConns. So a client that opens many and sends nothing does not keep others
// out.
func closeOldest() func(net.Conn, http.ConnState) {
	var mu sync.Mutex
	var conns []net.Conn // the oldest first
	return func(c net.Conn, state http.ConnState) {
		mu.Lock()
		defer mu.Unlock()
		switch state {
		case http.StateNew:
			if conns = append(conns, c); len(conns) > maxConns {
				conns[0].Close()
				conns = slices.Delete(conns, 0, 1)
			}
		case http.StateClosed:
			conns = slices.DeleteFunc(conns, func(other net.Conn) bool { return other == c })
		}
	}
}

// tryListen returns a listener, or nil, and reports why once.
func (s *server) tryListen() net.Listener {
	l, err := s.listen()
	s.mu.Lock()
	defer s.mu.Unlock()
	before := s.err
	if s.err = err; err == nil {
		s.journal.Info(s.up, "address", l.Addr().String())
		return l
	}
	if before == nil || before.Error() != err.Error() {
		s.journal.Warn(fmt.Sprintf("%s: %v", s.down, err))
	}
	return nil // l may be a nil pointer
}

// failure returns why the server does not listen now; nil if it does, or there
// is none.
func (s *server) failure() error {
	if s == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// run serves until the context ends, and returns when all requests are
// answered. l may be nil.
func (s *server) run(ctx context.Context, l net.Listener) {
	stop := context.AfterFunc(ctx, func() { s.Close() })
	defer stop()
	for ctx.Err() == nil {
		if l == nil {
			sleep(ctx, retryEvery)
		} else if err := s.serve(l); !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
			s.journal.fault(fmt.Errorf("%s: %w", s.down, err))
			sleep(ctx, retryEvery)
		}
		if ctx.Err() == nil {
			l = s.tryListen()
		}
	}
	s.Close()
	if l != nil {
		l.Close() // if the context ended before it served
	}
	s.gate.Lock() // for good
}

// serve serves until the server is closed, the listener fails, or its socket is
// not in place any more.
func (s *server) serve(l net.Listener) error {
	ended := make(chan struct{})
	defer close(ended)
	if socket, ok := l.(*control.Listener); ok {
		go func() {
			for socket.InPlace() {
				select {
				case <-ended:
					return
				case <-time.After(retryEvery):
				}
			}
			l.Close()
		}()
	}
	return s.Serve(l)
}
