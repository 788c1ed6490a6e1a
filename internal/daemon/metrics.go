package daemon

import (
	"cmp"
	"context"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/portmon/portmon/internal/config"
	"github.com/portmon/portmon/internal/text"
	"github.com/portmon/portmon/internal/watch"
	"github.com/portmon/portmon/ruleset"
)

// Metric is one that the watcher serves.
type Metric struct {
	Name, Help string

	desc    *prometheus.Desc
	kind    prometheus.ValueType
	collect func(s *scrape, out emit)
}

// emit sends one value of a metric.
type emit func(v float64, labels ...string)

// scrape is what is asked once for all metrics: the watcher, and the kernel.
// What could not be asked is nil.
type scrape struct {
	*collector
	stats *watch.Stats
	table *ruleset.State
	// Of a table that there is.
	counters map[string]ruleset.Counter
	fill     []ruleset.Fill
}

var served = []Metric{
	gauge("build_info", "Always 1; the label has the version.", func(s *scrape, out emit) { out(1, s.config.Version) }, "version"),
	gauge("table_present", "Whether the table inet portmon is there.", func(s *scrape, out emit) {
		if s.table != nil {
			out(boolean(s.table.Exists))
		}
	}),
	gauge("table_current", "Whether the table is there and is what the configuration says: sets, chains and rules.",
		value(func(s *watch.Stats) float64 { return boolean(s.TableCurrent) })),
	counter("table_repairs_total", "How often the table was not what the configuration says, and was put right.", countOf(watch.Repaired)),
	counter("table_gone_total", "How often the table was deleted.", value(func(s *watch.Stats) uint64 { return s.News[watch.TableGone] + s.News[watch.Removed] })),
	gauge("bans", "Bans in force, by address family and tier of the ladder; tier 0 is those that the ladder did not make.",
		ofWatcher(func(s *watch.Stats, out emit) {
			for step := 0; s.Table && step <= s.Steps; step++ {
				out(float64(s.Bans[watch.Place{Family: 4, Step: step}]), "ip", strconv.Itoa(step))
				out(float64(s.Bans[watch.Place{Family: 6, Step: step}]), "ip6", strconv.Itoa(step))
			}
		}), "family", "tier"),
	counter("bans_made_total", "Bans that were made, by cause and tier of the ladder; tier 0 is those that the ladder did not make.",
		ofWatcher(func(s *watch.Stats, out emit) {
			for m, n := range s.Made {
				out(float64(n), m.Cause.String(), strconv.Itoa(m.Step))
			}
		}), "cause", "tier"),
	gauge("set_elements", "Elements of a set of the table.", func(s *scrape, out emit) {
		for _, f := range s.fill {
			out(float64(f.Count), f.Set)
		}
	}, "set"),
	gauge("set_capacity", "How many elements a set of the table can hold.", func(s *scrape, out emit) {
		for _, f := range s.fill {
			if f.Size > 0 {
				out(float64(f.Size), f.Set)
			}
		}
	}, "set"),
	counter("packets_total", "Packets by what became of them, which is what the table's counter of that name counts.",
		ofCounters(func(c ruleset.Counter) uint64 { return c.Packets }), "outcome"),
	counter("bytes_total", "Bytes of the packets in portmon_packets_total.",
		ofCounters(func(c ruleset.Counter) uint64 { return c.Bytes }), "outcome"),
	counter("offences_total", "Offences by protocol and port; port 0 is one that is not known, or one of too many to count apart.",
		ofWatcher(func(s *watch.Stats, out emit) {
			for p, n := range s.Offences {
				out(float64(n), cmp.Or(text.Protocol(p.Proto), "unknown"), strconv.Itoa(int(p.Port)))
			}
		}), "protocol", "port"),
	counter("escalations_total", "Repeat offenders that went up the ladder, by the tier they came to.",
		ofWatcher(func(s *watch.Stats, out emit) {
			for step := 2; step <= s.Steps; step++ {
				out(float64(s.Escalations(step)), strconv.Itoa(step))
			}
		}), "tier"),
	gauge("offenders", "Sources whose offences count.", value(func(s *watch.Stats) int { return s.Offenders })),
	gauge("book_rows", "Sources that are remembered.", value(func(s *watch.Stats) int { return s.Rows })),
	counter("foreign_edits_total", "Bans that others made or lifted, and bans of whitelisted sources by others, which are lifted at once.",
		ofWatcher(func(s *watch.Stats, out emit) {
			out(float64(s.News[watch.ByHand]), "ban")
			out(float64(s.News[watch.Lifted]), "unban")
			out(float64(s.News[watch.Whitelisted]), "whitelisted")
		}), "edit"),
	counter("restored_bans_total", "Bans that were put back after the table was gone.", countOf(watch.Restored)),
	counter("lost_messages_total", "Log messages of bans for which the kernel had no room. The bans are found by a resync.",
		value(func(s *watch.Stats) uint64 { return s.LostMessages })),
	counter("overruns_total", "How often the buffer of a socket was full.", ofWatcher(func(s *watch.Stats, out emit) {
		out(float64(s.LogOverruns), "log")
		out(float64(s.EventOverruns), "events")
	}), "socket"),
	counter("resyncs_total", "How often the watcher has read all sets.", value(func(s *watch.Stats) uint64 { return s.Resyncs })),
	gauge("lag_seconds", "How old the last ban was when the watcher heard of it.", value(func(s *watch.Stats) float64 { return s.Lag.Seconds() })),
	counter("state_saves_total", "Writes of the state file, by result.", ofWatcher(func(s *watch.Stats, out emit) {
		out(float64(s.Saves), "done")
		out(float64(s.SaveFailures), "failed")
	}), "result"),
	counter("notices_total", "Notices by channel and result.", func(s *scrape, out emit) {
		for channel, n := range s.noticeStats() {
			out(float64(n.Sent), channel, "sent")
			out(float64(n.Failed), channel, "failed")
		}
	}, "channel", "result"),
	counter("journal_dropped_lines_total", "Lines of the journal that were dropped because standard error stalled or was closed.",
		func(s *scrape, out emit) { out(float64(s.stderr.dropped.Load())) }),
	gauge("scrape_errors", "What this scrape could not ask: 1 each for the watcher and the kernel.",
		func(s *scrape, out emit) { out(boolean(s.stats == nil) + boolean(s.table == nil)) }),
}

// Metrics returns all of them, but for those of every Go program.
func Metrics() []Metric { return served }

func gauge(name, help string, collect func(*scrape, emit), labels ...string) Metric {
	return Metric{"portmon_" + name, help, prometheus.NewDesc("portmon_"+name, help, labels, nil), prometheus.GaugeValue, collect}
}

func counter(name, help string, collect func(*scrape, emit), labels ...string) Metric {
	m := gauge(name, help, collect, labels...)
	m.kind = prometheus.CounterValue
	return m
}

// ofWatcher makes a metric of what the watcher says, if it does.
func ofWatcher(f func(*watch.Stats, emit)) func(*scrape, emit) {
	return func(s *scrape, out emit) {
		if s.stats != nil {
			f(s.stats, out)
		}
	}
}

// value makes a metric of one number that the watcher knows.
func value[N int | uint64 | float64](f func(*watch.Stats) N) func(*scrape, emit) {
	return ofWatcher(func(s *watch.Stats, out emit) { out(float64(f(s))) })
}

// countOf makes a metric of how often there was such news.
func countOf(kind watch.Kind) func(*scrape, emit) {
	return value(func(s *watch.Stats) uint64 { return s.News[kind] })
}

// ofCounters makes a metric of the table's own counters. Others may have added
// some, of any name.
func ofCounters(value func(ruleset.Counter) uint64) func(*scrape, emit) {
	return func(s *scrape, out emit) {
		for _, name := range ruleset.Counters() {
			if c, ok := s.counters[name]; ok {
				out(float64(value(c)), name)
			}
		}
	}
}

func boolean(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// collector asks the watcher and the kernel for their numbers.
type collector struct {
	*daemon

	mu   sync.Mutex // held while it does
	fill []ruleset.Fill
	at   time.Time // of the fill
	took time.Duration
}

// Describe implements [prometheus.Collector].
func (*collector) Describe(ch chan<- *prometheus.Desc) {
	for _, m := range served {
		ch <- m.desc
	}
}

// Collect implements [prometheus.Collector].
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := &scrape{collector: c}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if stats, err := c.watcher.Stats(ctx); err == nil {
		s.stats = &stats
	}
	s.askKernel()
	for _, m := range served {
		m.collect(s, func(v float64, labels ...string) {
			ch <- prometheus.MustNewConstMetric(m.desc, m.kind, v, labels...)
		})
	}
}

func (s *scrape) askKernel() {
	conn, err := s.config.Dial()
	if err != nil {
		return
	}
	defer conn.Close()
	h, err := ruleset.Open(conn, s.tableName())
	if err != nil {
		return
	}
	// Kernels before 6.16 do not say how full a set is. Then its elements are
	// read, of which there may be a million; but for a fiftieth of the time at
	// most.
	if start := time.Now(); h.Exists && start.Sub(s.at) >= 50*s.took {
		if s.collector.fill, err = h.Fill(); err != nil {
			return
		}
		s.at, s.took = time.Now(), time.Since(start)
	}
	if s.table = h.State; h.Exists {
		s.counters, s.fill = h.Counters, s.collector.fill
	}
}

// startMetrics serves metrics as a configuration says, in place of those served
// before.
func (d *daemon) startMetrics(parts context.Context, conf *config.Config) {
	d.mu.Lock()
	stop := d.stopMetrics
	d.mu.Unlock()
	if stop != nil {
		stop()
	}
	var s *server
	if addr := conf.Watch.Metrics; addr != "" {
		s = d.newServer(d.metricsHandler(), 10*time.Second, "metrics", "no metrics for now", func() (net.Listener, error) {
			network := "tcp"
			if a, err := netip.ParseAddrPort(addr); err == nil && a.Addr().Is4() {
				network = "tcp4" // in Go, 0.0.0.0 means both families otherwise
			}
			return net.Listen(network, addr)
		})
		ctx, cancel := context.WithCancel(parts)
		ended := make(chan struct{})
		stop = func() { cancel(); <-ended }
		l := s.tryListen()
		d.parts.Go(func() { s.run(ctx, l); close(ended) })
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.metrics, d.stopMetrics = s, stop
}

func (d *daemon) metricsHandler() http.Handler {
	registry := prometheus.NewRegistry()
	registry.MustRegister(&collector{daemon: d},
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), collectors.NewGoCollector())
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{EnableOpenMetrics: true}))
	return mux
}
