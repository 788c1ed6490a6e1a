package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"github.com/portmon/portmon/internal/book"
	"github.com/portmon/portmon/internal/control"
)

const (
	// maxBody is more than a request has to say, in bytes: half a million
	// prefixes.
	maxBody = 16 << 20
	// answerTime bounds how long an answer may take, that with a million rows
	// included.
	answerTime = time.Minute
	// lookAfterSocket is how often it is checked that commands find the socket.
	lookAfterSocket = 2 * time.Second
)

// commands answers those that others run.
type commands struct {
	*daemon
	parts context.Context

	// gate is held by those who answer, and in the end for good.
	gate sync.RWMutex
}

// startCommands answers commands until the context ends. If that is not
// possible now, all else goes on, and it is tried again. An error is that
// another watcher answers.
func (d *daemon) startCommands(parts context.Context) error {
	socket := control.Path(d.current.Watch.State)
	l, err := control.Listen(socket)
	switch {
	case errors.Is(err, control.ErrBusy):
		return err
	case err != nil:
		d.journal.Warn(fmt.Sprintf("commands cannot ask this watcher: %v", err))
	}
	c := &commands{daemon: d, parts: parts}
	d.parts.Go(func() { c.run(socket, l) })
	return nil
}

// run serves, and makes the socket again when it is gone: somebody may delete
// the folder of the state, or mount something over it.
func (c *commands) run(socket string, l *control.Listener) {
	server := c.newServer(http.MaxBytesHandler(c.gated(c.handler()), maxBody), answerTime)
	server.BaseContext = func(net.Listener) context.Context { return c.parts }
	var serving sync.WaitGroup
	serve := func(l *control.Listener) {
		serving.Go(func() {
			if err := server.Serve(&bounded{Listener: l}); !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
				c.journal.fault(fmt.Errorf("answer commands: %w", err))
			}
		})
	}
	if l != nil {
		serve(l)
	}
	for {
		if sleep(c.parts, lookAfterSocket); c.parts.Err() != nil {
			break
		}
		if l != nil && l.InPlace() {
			continue
		}
		again, err := control.Listen(socket)
		if err != nil {
			c.journal.fault(fmt.Errorf("commands cannot ask this watcher: %w", err))
			continue
		}
		if l != nil {
			l.Close()
		}
		l = again
		serve(l)
		c.journal.Info("commands can ask this watcher again", "socket", socket)
	}
	server.Close()
	serving.Wait()
	c.gate.Lock() // for good: late requests find it closed
}

// gated lets requests in until the gate is closed. Closing the connections, as
// the server does in the end, ends no handler.
func (c *commands) gated(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !c.gate.TryRLock() {
			http.Error(w, "the watcher is ending", http.StatusServiceUnavailable)
			return
		}
		defer c.gate.RUnlock()
		h.ServeHTTP(w, r)
	})
}

func (c *commands) handler() http.Handler {
	mux := http.NewServeMux()
	order := func(path string, f func(context.Context) error) {
		mux.HandleFunc("POST "+path, func(w http.ResponseWriter, r *http.Request) { reply(w, nil, f(r.Context())) })
	}
	order(control.SavePath, c.watcher.Save)
	order(control.ApplyingPath, c.watcher.Applying)
	order(control.RemovingPath, c.watcher.Removing)
	order(control.ReloadPath, func(ask context.Context) error { return c.reloadNow(ask, c.parts) })
	mux.HandleFunc("POST "+control.UnbannedPath, c.unbanned)
	mux.HandleFunc("GET "+control.BookPath, c.book)
	mux.HandleFunc("GET "+control.StatusPath, func(w http.ResponseWriter, r *http.Request) {
		s, err := c.status(r.Context())
		reply(w, s, err)
	})
	return mux
}

// reply sends v, or the error.
func reply(w http.ResponseWriter, v any, err error) {
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(v) // the client has gone if this fails
}

func (c *commands) unbanned(w http.ResponseWriter, r *http.Request) {
	var prefixes []netip.Prefix
	if err := json.NewDecoder(r.Body).Decode(&prefixes); err != nil {
		http.Error(w, fmt.Sprintf("read the request: %v", err), http.StatusBadRequest)
		return
	}
	had, err := c.watcher.Unbanned(r.Context(), prefixes...)
	reply(w, had, err)
}

func (c *commands) book(w http.ResponseWriter, r *http.Request) {
	var sources []netip.Prefix
	for _, s := range r.URL.Query()["source"] {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			http.Error(w, fmt.Sprintf("source: %v", err), http.StatusBadRequest)
			return
		}
		sources = append(sources, p)
	}
	origin, err := c.watcher.Origin(r.Context())
	if err != nil {
		reply(w, nil, err)
		return
	}
	w.Header().Set("Content-Type", "application/jsonl")
	var failed error
	err = book.Encode(w, origin, book.ReadClock(), func(yield func(book.Row) bool) {
		for row, err := range c.watcher.Rows(r.Context(), sources...) {
			if failed = err; err != nil || !yield(row) {
				return
			}
		}
	})
	if errors.Join(err, failed) != nil {
		panic(http.ErrAbortHandler) // so that the client sees that the rest is missing
	}
}
