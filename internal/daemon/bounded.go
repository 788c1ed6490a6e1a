package daemon

import (
	"container/list"
	"net"
	"net/http"
	"sync"
	"time"
)

// maxConns is how many connections a server has at a time.
const maxConns = 64

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
	c.of.conns.Remove(c.place) // nothing happens if it is gone already
	return c.Conn.Close()
}

// newServer returns a server with bounds. What Go has to say about connections
// goes to the journal like any other fault.
func (d *daemon) newServer(h http.Handler, write time.Duration) *http.Server {
	return &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: write, IdleTimeout: time.Minute,
		MaxHeaderBytes: 1 << 20,
		ErrorLog:       d.journal.serverLog(),
	}
}
