package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"time"

	"github.com/portmon/portmon/internal/book"
	"github.com/portmon/portmon/internal/control"
	"github.com/portmon/portmon/internal/watch"
)

const (
	// maxBody is more than a request has to say, in bytes: half a million
	// prefixes.
	maxBody = 16 << 20
	// answerTime bounds how long a request may take to come in, and how long its
	// answer, those with a million rows included.
	answerTime = time.Minute
	// diskPatience is how long a disk may take before that is the answer; the
	// client waits for longer.
	diskPatience = 5 * time.Second
)

// commands answers those that others run.
type commands struct {
	*daemon
	parts context.Context
}

// startCommands answers commands until the context ends. If that is not
// possible now, all else goes on, and it is tried again. An error is that
// another watcher answers.
func (d *daemon) startCommands(parts context.Context) error {
	c := &commands{d, parts}
	const down = "commands cannot ask this watcher"
	if d.current.Watch.State == "" {
		d.journal.Warn(down + ": where its state is to be is not known, and so nothing is remembered")
		return nil
	}
	socket := control.Path(d.current.Watch.State)
	s := d.newServer(c.handler(), answerTime, "commands can ask this watcher", down,
		func() (net.Listener, error) { return control.Listen(socket) })
	s.BaseContext = func(net.Listener) context.Context { return parts }
	l, err := s.listen()
	switch {
	case errors.Is(err, control.ErrBusy):
		return err
	case err != nil:
		d.journal.Warn(fmt.Sprintf("%s: %v", down, err))
		l, s.err = nil, err
	}
	d.parts.Go(func() { s.run(parts, l) })
	return nil
}

func (c *commands) handler() http.Handler {
	mux := http.NewServeMux()
	order := func(path string, f func(context.Context) error) {
		mux.HandleFunc("POST "+path, func(w http.ResponseWriter, r *http.Request) { reply(w, nil, f(r.Context())) })
	}
	order(control.SavePath, c.watcher.Save)
	order(control.RemovingPath, c.watcher.Removing)
	order(control.SwappingPath, c.watcher.Swapping)
	order(control.ApplyingPath, c.watcher.Applying)
	order(control.FleetPath, func(context.Context) error { return c.readFleet(c.parts) })
	mux.HandleFunc("POST "+control.ReloadPath, func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		var applied *watch.Applied
		if q.Has("observe") {
			applied = &watch.Applied{Observe: q.Get("observe") == "true", Keep: q.Get("keep") == "true"}
		}
		err := c.reloadNow(r.Context(), c.parts, applied)
		if err == nil && applied != nil {
			// In which mode it was applied, nothing else tells a watcher that is
			// started without a table. A disk that fails is reported on its own.
			ctx, cancel := context.WithTimeout(r.Context(), diskPatience)
			defer cancel()
			_ = c.watcher.Written(ctx)
		}
		reply(w, nil, err)
	})
	mux.HandleFunc("POST "+control.UnbannedPath, forget(func(ctx context.Context, r *http.Request, ps []netip.Prefix) ([]netip.Prefix, error) {
		return c.watcher.Unbanned(ctx, r.URL.Query().Has("alone"), ps...)
	}))
	mux.HandleFunc("POST "+control.DrillingPath, forget(func(ctx context.Context, _ *http.Request, ps []netip.Prefix) ([]netip.Prefix, error) {
		return nil, c.watcher.Drilling(ctx, ps...)
	}))
	mux.HandleFunc("POST "+control.DisallowedPath, forget(func(ctx context.Context, _ *http.Request, ps []netip.Prefix) ([]netip.Prefix, error) {
		c.recheckFleet()
		return c.watcher.Disallowed(ctx, ps...)
	}))
	mux.HandleFunc("POST "+control.SharePath, forget(func(_ context.Context, _ *http.Request, ps []netip.Prefix) ([]netip.Prefix, error) {
		return c.shareByHand(ps)
	}))
	mux.HandleFunc("GET "+control.BookPath, c.book)
	mux.HandleFunc("GET "+control.EventsPath, c.sendEvents)
	mux.HandleFunc("GET "+control.StatusPath, func(w http.ResponseWriter, r *http.Request) {
		s, err := c.status(r.Context())
		reply(w, s, err)
	})
	all := http.NewServeMux()
	all.Handle("/", http.MaxBytesHandler(mux, maxBody))
	all.HandleFunc("POST "+control.SwappedPath, c.swapped) // has a bound of its own
	return all
}

// swapped takes what is to be remembered from now on.
func (c *commands) swapped(w http.ResponseWriter, r *http.Request) {
	table, err := strconv.ParseUint(r.URL.Query().Get("table"), 10, 64)
	if err != nil {
		http.Error(w, fmt.Sprintf("table: %v", err), http.StatusBadRequest)
		return
	}
	c.mu.Lock()
	conf := c.watchConfig(c.current)
	c.mu.Unlock()
	rows, report, err := book.Decode(r.Body, book.Config{Here: book.Here(table), Now: book.ReadClock(), MaxRows: conf.MaxRows()})
	if err == nil {
		err = report.Origin
	}
	if err == nil && (report.Missing || report.Torn || report.BadLines > 0) {
		err = errors.New("the rows are damaged")
	}
	if err == nil {
		err = c.watcher.Swapped(r.Context(), table, rows)
	}
	reply(w, nil, err)
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

// forget handles requests to forget prefixes, now or for a while, as f does.
func forget(f func(context.Context, *http.Request, []netip.Prefix) (had []netip.Prefix, err error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var prefixes []netip.Prefix
		body, err := io.ReadAll(r.Body) // of it all before it is decoded, which may take longer than a client may
		if err == nil {
			err = json.Unmarshal(body, &prefixes)
		}
		if err != nil {
			http.Error(w, fmt.Sprintf("read the request: %v", err), http.StatusBadRequest)
			return
		}
		ctx, cancel := context.WithTimeout(r.Context(), diskPatience)
		defer cancel()
		had, err := f(ctx, r, prefixes)
		reply(w, had, err)
	}
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
	origin, rows, err := c.watcher.Rows(r.Context(), sources...)
	if err != nil {
		reply(w, nil, err)
		return
	}
	w.Header().Set("Content-Type", "application/jsonl")
	var failed error
	err = book.Encode(w, origin, book.ReadClock(), func(yield func(book.Row) bool) {
		for row, err := range rows {
			if failed = err; err != nil || !yield(row) {
				return
			}
		}
	})
	if errors.Join(err, failed) != nil {
		panic(http.ErrAbortHandler) // so that the client sees that the rest is missing
	}
}
