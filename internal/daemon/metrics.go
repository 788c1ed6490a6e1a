package daemon

import (
	"cmp"
	"context"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
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

// Metric is one that the watcher serves, with the names of its labels. It is a
// counter if its name ends in "_total".
type Metric struct {
	Name, Help string
	labels     []string
}

// Metrics returns all of them, but for those of every Go program.
func Metrics() []Metric { return served }

var served = []Metric{
	{"portmon_build_info", "Always 1; the label has the version.", []string{"version"}},
	{"portmon_table_present", "Whether the table inet portmon is there.", nil},
	{"portmon_table_current", "Whether the table is there and is what the configuration says, but for the mode: sets, chains and rules.", nil},
	{"portmon_observing", "Whether the table drops nothing and only observes.", nil},
	{"portmon_table_repairs_total", "How often the table was not what the configuration says, and was put right.", nil},
	{"portmon_table_gone_total", "How often the table was deleted.", nil},
	{"portmon_bans", "Bans in force, or that would be, by address family and tier of the ladder; tier 0 is those that the ladder did not make.",
		[]string{"family", "tier"}},
	{"portmon_bans_made_total", "Bans that were made, by cause and tier of the ladder; tier 0 is those that the ladder did not make.",
		[]string{"cause", "tier"}},
	{"portmon_country_bans_made_total",
		"Bans that were made, by country, if there are databases of [geo]; but for the first 40 countries it is \"other\".", []string{"country"}},
	{"portmon_set_elements", "Elements of a set of the table.", []string{"set"}},
	{"portmon_set_capacity", "How many elements a set of the table can hold.", []string{"set"}},
	{"portmon_packets_total", "Packets by what became of them, which is what the table's counter of that name counts.",
		[]string{"outcome"}},
	{"portmon_bytes_total", "Bytes of the packets in portmon_packets_total.", []string{"outcome"}},
	{"portmon_offences_total", "Offences by protocol and port; port 0 is one that is not known, or one of too many to count apart.",
		[]string{"protocol", "port"}},
	{"portmon_escalations_total", "Repeat offenders that went up the ladder, by the tier they came to.", []string{"tier"}},
	{"portmon_offenders", "Sources whose offences count.", nil},
	{"portmon_book_rows", "Sources that are remembered.", nil},
	{"portmon_foreign_edits_total",
		"Bans that others made or lifted, and bans of whitelisted sources by others, which are lifted at once.", []string{"edit"}},
	{"portmon_restored_bans_total", "Bans that were put back after the table was gone.", nil},
	{"portmon_lost_messages_total",
		"Log messages of bans for which the kernel had no room. The bans are found by a resync.", nil},
	{"portmon_overruns_total", "How often the buffer of a socket was full.", []string{"socket"}},
	{"portmon_resyncs_total", "How often the watcher has read all sets.", nil},
	{"portmon_lag_seconds", "How old the last ban was when the watcher learned of it.", nil},
	{"portmon_state_saves_total", "Writes of the state file, by result.", []string{"result"}},
	{"portmon_name_failures_total", "Look-ups of a name in whitelist_names without a good answer.", []string{"name"}},
	{"portmon_fleet_connected", "Whether there is a connection to the hub of the fleet, if this host belongs to one.", nil},
	{"portmon_fleet_hosts", "Hosts of the fleet, as its hub says.", nil},
	{"portmon_fleet_sightings_total", "Offences that the fleet was told of, and those that found no room to wait.", []string{"result"}},
	{"portmon_fleet_queued", "Offences that wait for the fleet to be told of.", nil},
	{"portmon_fleet_refused", "Bans of the fleet that are not in force here, by reason.", []string{"reason"}},
	{"portmon_notices_total", "Notices by channel and result.", []string{"channel", "result"}},
	{"portmon_journal_dropped_lines_total",
		"Lines of the journal that were dropped because standard error stalled or was closed.", nil},
	{"portmon_scrape_errors", "What this scrape could not ask: 1 each for the watcher and the kernel.", nil},
}

// descs are the descriptions of what is served, by name.
var descs = make(map[string]*prometheus.Desc)

func init() {
	for _, m := range served {
		descs[m.Name] = prometheus.NewDesc(m.Name, m.Help, m.labels, nil)
	}
}

// sink receives the values of a scrape.
type sink chan<- prometheus.Metric

// number is what a metric is made of.
type number interface{ int | uint64 | float64 }

// send sends the value of a metric, whose name is given without "portmon_".
func send[N number](s sink, name string, v N, labels ...string) {
	kind := prometheus.GaugeValue
	if strings.HasSuffix(name, "_total") {
		kind = prometheus.CounterValue
	}
	s <- prometheus.MustNewConstMetric(descs["portmon_"+name], kind, float64(v), labels...)
}

// collector asks the watcher and the kernel for their numbers.
type collector struct {
	*daemon

	asking sync.Mutex // held while it does
	fill   []ruleset.Fill
	at     time.Time // of the fill
	took   time.Duration
}

// Describe implements [prometheus.Collector].
func (*collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range descs {
		ch <- d
	}
}

// Collect implements [prometheus.Collector].
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	c.asking.Lock()
	defer c.asking.Unlock()
	out := sink(ch)
	send(out, "build_info", 1, c.config.Version)
	send(out, "scrape_errors", boolean(c.collectWatcher(out) != nil)+boolean(c.collectTable(out) != nil))
	send(out, "journal_dropped_lines_total", c.stderr.dropped.Load())
	c.mu.Lock()
	notices, named := c.notices.Stats(), c.named
	c.mu.Unlock()
	c.collectCountries(out)
	c.collectFleet(out)
	for _, n := range named {
		send(out, "name_failures_total", n.Failures, n.Name)
	}
	for channel, n := range notices {
		send(out, "notices_total", n.Sent, channel, "sent")
		send(out, "notices_total", n.Failed, channel, "failed")
	}
}

func (c *collector) collectWatcher(out sink) error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	s, err := c.watcher.Stats(ctx)
	if err != nil {
		return err
	}
	for step := 0; s.Table && step <= s.Steps; step++ {
		send(out, "bans", s.Bans[watch.Place{Family: 4, Step: step}], "ip", strconv.Itoa(step))
		send(out, "bans", s.Bans[watch.Place{Family: 6, Step: step}], "ip6", strconv.Itoa(step))
	}
	for m, n := range s.Made {
		send(out, "bans_made_total", n, m.Cause.String(), strconv.Itoa(m.Step))
	}
	for p, n := range s.Offences {
		send(out, "offences_total", n, cmp.Or(text.Protocol(p.Proto), "unknown"), strconv.Itoa(int(p.Port)))
	}
	for step := 2; step <= s.Steps; step++ {
		send(out, "escalations_total", s.Escalations(step), strconv.Itoa(step))
	}
	send(out, "table_current", boolean(s.TableCurrent))
	send(out, "table_repairs_total", s.News[watch.Repaired])
	send(out, "table_gone_total", s.News[watch.TableGone]+s.News[watch.Removed])
	send(out, "offenders", s.Offenders)
	send(out, "book_rows", s.Rows)
	send(out, "foreign_edits_total", s.News[watch.ByHand], "ban")
	send(out, "foreign_edits_total", s.News[watch.Lifted], "unban")
	send(out, "foreign_edits_total", s.News[watch.Whitelisted], "whitelisted")
	send(out, "restored_bans_total", s.News[watch.Restored])
	send(out, "lost_messages_total", s.LostMessages)
	send(out, "overruns_total", s.LogOverruns, "log")
	send(out, "overruns_total", s.EventOverruns, "events")
	send(out, "resyncs_total", s.Resyncs)
	send(out, "lag_seconds", s.Lag.Seconds())
	send(out, "state_saves_total", s.Saves, "done")
	send(out, "state_saves_total", s.SaveFailures, "failed")
	return nil
}

func (c *collector) collectTable(out sink) error {
	conn, err := c.config.Dial()
	if err != nil {
		return err
	}
	defer conn.Close()
	h, err := ruleset.Open(conn, c.tableName())
	if err != nil {
		return err
	}
	send(out, "observing", boolean(h.Observe))
	if send(out, "table_present", boolean(h.Exists)); !h.Exists {
		return nil
	}
	// Kernels before 6.16 do not say how full a set is. Then its elements are
	// read, of which there may be a million; but for a fiftieth of the time at
	// most.
	if start := time.Now(); start.Sub(c.at) >= 50*c.took {
		if c.fill, err = h.Fill(); err != nil {
			return err
		}
		c.at, c.took = time.Now(), time.Since(start)
	}
	for _, f := range c.fill {
		send(out, "set_elements", f.Count, f.Set)
		if f.Size > 0 {
			send(out, "set_capacity", float64(f.Size), f.Set)
		}
	}
	for _, name := range ruleset.Counters() { // others may have added some, of any name
		if n, ok := h.Counters[name]; ok {
			send(out, "packets_total", n.Packets, name)
			send(out, "bytes_total", n.Bytes, name)
		}
	}
	return nil
}

func boolean(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// startMetrics serves metrics as a configuration says, in place of those served
// before.
func (d *daemon) startMetrics(parts context.Context, conf *config.Config) {
	d.mu.Lock()
	stop := d.stopMetrics
	d.mu.Unlock()
	stop()
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
