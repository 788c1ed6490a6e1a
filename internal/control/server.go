package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/portmon/portmon/internal/state"
	"github.com/portmon/portmon/internal/watch"
)

// Status is what a watcher tells of itself.
type Status struct {
	PID int `json:"pid"`
	// NetNS is the kernel's number for the network namespace that is watched.
	NetNS uint64    `json:"netns"`
	Since time.Time `json:"since"`
	// Config is the file that the watcher has read; empty if it is the built-in default.
	Config string `json:"config"`
	// Offenders are the sources whose offences count.
	Offenders int `json:"offenders"`
	// Overruns is how often messages or events were lost, and Resyncs how often the sets were read to make up for it.
	Overruns     uint64 `json:"overruns"`
	Resyncs      uint64 `json:"resyncs"`
	SaveFailures uint64 `json:"save_failures"`
}

// Server answers commands on behalf of a watcher.
type Server struct {
	Watcher *watch.Watcher
	// Config names the configuration file in use, and Reload re-reads it.
	Config func() string
	Reload func() error

	since time.Time
	// gate is held by those who answer, and in the end for good.
	gate sync.RWMutex
}

// maxBody is more than a request has to say, in bytes.
const maxBody = 16 << 20

// Serve answers until the context ends, and returns when nobody is being answered any more. It closes the listener. It can be called once.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	s.since = time.Now()
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+statusPath, s.status)
	mux.HandleFunc("GET "+recordsPath, s.records)
	mux.HandleFunc("POST "+savePath, func(w http.ResponseWriter, r *http.Request) { reply(w, nil, s.Watcher.Save(r.Context())) })
	mux.HandleFunc("POST "+forgivePath, s.forgive)
	mux.HandleFunc("POST "+reloadPath, func(w http.ResponseWriter, _ *http.Request) { reply(w, nil, s.Reload()) })
	server := &http.Server{
		Handler:     http.MaxBytesHandler(s.gated(mux), maxBody),
		ReadTimeout: 10 * time.Second, WriteTimeout: time.Minute, IdleTimeout: time.Minute,
		BaseContext: func(net.Listener) context.Context { return ctx },
	}
	defer s.gate.Lock() // without an end: whoever is late finds it closed
	defer server.Close()
	defer context.AfterFunc(ctx, func() { server.Close() })()
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// gated lets requests in until the gate is closed. Closing the connections, as the server does in the end, ends no handler.
func (s *Server) gated(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !s.gate.TryRLock() {
			http.Error(w, "the watcher is ending", http.StatusServiceUnavailable)
			return
		}
		defer s.gate.RUnlock()
		h.ServeHTTP(w, r)
	})
}

// reply sends v, or the error.
func reply(w http.ResponseWriter, v any, err error) {
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(v) // whoever asked has gone if this fails
}

func (s *Server) status(w http.ResponseWriter, r *http.Request) {
	stats, err := s.Watcher.Stats(r.Context())
	reply(w, Status{
		PID: os.Getpid(), NetNS: state.Here(0).NetNS, Since: s.since, Config: s.Config(), Offenders: stats.Offenders,
		Overruns: stats.LogOverruns + stats.EventOverruns, Resyncs: stats.Resyncs, SaveFailures: stats.SaveFailures,
	}, err)
}

func (s *Server) records(w http.ResponseWriter, r *http.Request) {
	var of []netip.Prefix
	for _, text := range r.URL.Query()["source"] {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			http.Error(w, fmt.Sprintf("source: %v", err), http.StatusBadRequest)
			return
		}
		of = append(of, p)
	}
	h, recs, err := s.Watcher.Records(r.Context(), of...)
	if err != nil {
		reply(w, nil, err)
		return
	}
	w.Header().Set("Content-Type", "application/jsonl")
	state.Send(w, h, recs) // if it fails then the end is missing, which whoever reads it sees
}

func (s *Server) forgive(w http.ResponseWriter, r *http.Request) {
	var sources []netip.Prefix
	if err := json.NewDecoder(r.Body).Decode(&sources); err != nil {
		http.Error(w, fmt.Sprintf("read the request: %v", err), http.StatusBadRequest)
		return
	}
	had, err := s.Watcher.Forgive(r.Context(), sources...)
	reply(w, had, err)
}
