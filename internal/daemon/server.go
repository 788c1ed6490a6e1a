package daemon

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"
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

// newServer returns a server with bounds. What Go reports about connections
// goes to the journal like any other fault.
func (d *daemon) newServer(h http.Handler, write time.Duration, up, down string, listen func() (net.Listener, error)) *server {
	s := &server{journal: d.journal, up: up, down: down, listen: listen}
	s.Server = &http.Server{
		ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: write, IdleTimeout: time.Minute,
		MaxHeaderBytes: 1 << 20, ErrorLog: d.journal.serverLog(),
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
	for ctx.Err() == nil {
		if l != nil {
			s.serve(ctx, l)
		} else {
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

// serve serves until the context ends, the listener fails, or its socket is not
// in place any more.
func (s *server) serve(ctx context.Context, l net.Listener) {
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(&bounded{Listener: l}) }()
	for {
		select {
		case err := <-ended:
			if !errors.Is(err, http.ErrServerClosed) {
				s.journal.fault(fmt.Errorf("%s: %w", s.down, err))
				sleep(ctx, retryEvery)
			}
			return
		case <-ctx.Done():
			s.Close()
			<-ended
			return
		case <-time.After(retryEvery):
			if p, ok := l.(interface{ InPlace() bool }); ok && !p.InPlace() {
				l.Close()
				<-ended
				return
			}
		}
	}
}

// bounded is a listener that holds no more than maxConns connections: for a new
// one, the oldest is closed. So a client that opens many and sends nothing does
// not keep others out.
type bounded struct {
	net.Listener

	mu    sync.Mutex
	conns list.List // of *boundedConn, the oldest first
}

type boundedConn struct {
	net.Conn
	of    *bounded
	place *list.Element
}

// Accept implements [net.Listener].
func (b *bounded) Accept() (net.Conn, error) {
	conn, err := b.Listener.Accept()
	if err != nil {
		return nil, err
	}
	c := &boundedConn{Conn: conn, of: b}
	b.mu.Lock()
	defer b.mu.Unlock()
	c.place = b.conns.PushBack(c)
	if b.conns.Len() > maxConns {
		b.conns.Remove(b.conns.Front()).(*boundedConn).Conn.Close()
	}
	return c, nil
}

// Close implements [net.Conn].
func (c *boundedConn) Close() error {
	c.of.mu.Lock()
	defer c.of.mu.Unlock()
	c.of.conns.Remove(c.place) // does nothing if it was removed before
	return c.Conn.Close()
}
