package companion

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/portmon/portmon/internal/config"
	"github.com/portmon/portmon/internal/metrics"
)

// startMetrics serves metrics until the context ends, as a configuration says, in place of those served before. Without them, all else
// goes on.
func (c *companion) startMetrics(ctx context.Context, conf *config.Config) {
	c.stopMetrics()
	if conf.Watch.Metrics == "" {
		return
	}
	l, err := net.Listen(network(conf.Watch.Metrics), conf.Watch.Metrics)
	if err != nil {
		c.config.Log.Warn(fmt.Sprintf("no metrics: %v", err))
		return
	}
	if a := l.Addr().(*net.TCPAddr); !a.IP.IsLoopback() {
		c.config.Log.Warn(fmt.Sprintf("metrics at %s: not a loopback address, whoever can reach it can read them", a))
	} else {
		c.config.Log.Info("metrics", "address", a.String())
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(
		metrics.New(metrics.Sources{Stats: c.watcher.Stats, Table: c.table, Notices: c.noticeStats, Version: c.config.Version}),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), collectors.NewGoCollector(),
	)
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{MaxRequestsInFlight: 4, EnableOpenMetrics: true}))
	server := &http.Server{Handler: mux, ReadTimeout: 10 * time.Second, WriteTimeout: 30 * time.Second, IdleTimeout: time.Minute}
	c.parts.Go(func() {
		defer context.AfterFunc(ctx, func() { server.Close() })()
		if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			c.config.Log.Warn(fmt.Sprintf("serve metrics: %v", err))
		}
	})
	c.mu.Lock()
	defer c.mu.Unlock()
	c.metrics = server
}

// network returns how to listen at an address: 0.0.0.0 is IPv4 and not, as otherwise in Go, both families.
func network(addr string) string {
	if a, err := netip.ParseAddrPort(addr); err == nil && a.Addr().Is4() {
		return "tcp4"
	}
	return "tcp"
}

func (c *companion) stopMetrics() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.metrics != nil {
		c.metrics.Close()
		c.metrics = nil
	}
}

func (c *companion) hasMetrics() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.metrics != nil
}
