package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/portmon/portmon/internal/config"
)

// metricsServer serves metrics at an address, as soon as and as often as that
// is possible: the address may come up later than we do, or another program may
// have it.
type metricsServer struct {
	daemon  *daemon
	addr    string
	handler http.Handler
	cancel  context.CancelFunc
	ended   chan struct{}

	mu  sync.Mutex
	err error // why nothing is served now
}

// It is tried again after a second, then after two, and so on.
const firstPause, longestPause = time.Second, time.Minute

// startMetrics serves metrics as a configuration says, in place of those served
// before.
func (d *daemon) startMetrics(parts context.Context, conf *config.Config) {
	d.mu.Lock()
	old := d.metrics
	d.mu.Unlock()
	if old != nil {
		old.cancel()
		<-old.ended
	}
	var m *metricsServer
	if addr := conf.Watch.Metrics; addr != "" {
		m = &metricsServer{daemon: d, addr: addr, handler: metricsHandler(&collector{daemon: d}), ended: make(chan struct{})}
		var ctx context.Context
		ctx, m.cancel = context.WithCancel(parts)
		l := m.listen()
		d.parts.Go(func() { m.run(ctx, l) })
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.metrics = m
}

func metricsHandler(c prometheus.Collector) http.Handler {
	registry := prometheus.NewRegistry()
	registry.MustRegister(c, collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), collectors.NewGoCollector())
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{EnableOpenMetrics: true}))
	return mux
}

// listen returns a listener, or nil.
func (m *metricsServer) listen() net.Listener {
	network := "tcp"
	if a, err := netip.ParseAddrPort(m.addr); err == nil && a.Addr().Is4() {
		network = "tcp4" // 0.0.0.0 is not, as otherwise in Go, both families
	}
	l, err := net.Listen(network, m.addr)
	if err != nil {
		m.fail(err)
		return nil
	}
	m.fail(nil)
	m.daemon.journal.Info("metrics", "address", l.Addr().String())
	return l
}

// fail notes why nothing is served, and reports it unless it did so already.
func (m *metricsServer) fail(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err != nil && (m.err == nil || m.err.Error() != err.Error()) {
		m.daemon.journal.Warn(fmt.Sprintf("no metrics for now: %v", err))
	}
	m.err = err
}

// failure returns why nothing is served now; nil if metrics are, or are not
// wanted.
func (m *metricsServer) failure() error {
	if m == nil {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.err
}

func (m *metricsServer) run(ctx context.Context, l net.Listener) {
	defer close(m.ended)
	for pause := firstPause; ; pause = min(2*pause, longestPause) {
		if l != nil {
			m.serve(ctx, l)
			pause = firstPause
		}
		if sleep(ctx, pause); ctx.Err() != nil {
			return
		}
		l = m.listen()
	}
}

// serve serves until the context ends, or there is no way to go on.
func (m *metricsServer) serve(ctx context.Context, l net.Listener) {
	server := m.daemon.newServer(m.handler, 10*time.Second)
	defer server.Close()
	defer context.AfterFunc(ctx, func() { server.Close() })()
	if err := server.Serve(&bounded{Listener: l}); !errors.Is(err, http.ErrServerClosed) {
		m.fail(err)
	}
}
