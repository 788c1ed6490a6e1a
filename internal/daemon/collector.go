package daemon

import (
	"cmp"
	"context"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/portmon/portmon/internal/text"
	"github.com/portmon/portmon/internal/watch"
	"github.com/portmon/portmon/ruleset"
)

// Metric is one that the watcher serves, and what it says.
type Metric struct{ Name, Help string }

var metrics []Metric

// Metrics returns all of them, but for those of every Go program, in the order
// in which they are described.
func Metrics() []Metric { return metrics }

var descs []*prometheus.Desc

func desc(name, help string, labels ...string) *prometheus.Desc {
	d := prometheus.NewDesc("portmon_"+name, help, labels, nil)
	metrics, descs = append(metrics, Metric{"portmon_" + name, help}), append(descs, d)
	return d
}

var (
	buildInfo    = desc("build_info", "Always 1; the label has the version.", "version")
	tablePresent = desc("table_present", "Whether the table inet portmon is there.")
	tableCurrent = desc("table_current", "Whether the table is there and is what the configuration says: sets, chains and rules.")
	repairs      = desc("table_repairs_total", "How often the table was not what the configuration says, and was put right.")
	tableGone    = desc("table_gone_total", "How often the table was deleted.")
	bans         = desc("bans", "Bans in force, by address family and tier of the ladder; tier 0 is those that the ladder did not make.", "family", "tier")
	_            = desc(madeName, madeHelp, "cause", "tier")
	elements     = desc("set_elements", "Elements of a set of the table.", "set")
	capacity     = desc("set_capacity", "How many elements a set of the table can hold.", "set")
	packets      = desc("packets_total", "Packets by what became of them, which is what the table's counter of that name counts.", "outcome")
	packetBytes  = desc("bytes_total", "Bytes of the packets in portmon_packets_total.", "outcome")
	offences     = desc("offences_total", "Offences by protocol and port; port 0 is one that is not known, or one of too many to count apart.", "protocol", "port")
	escalations  = desc("escalations_total", "Repeat offenders that went up the ladder, by the tier they came to.", "tier")
	offenders    = desc("offenders", "Sources whose offences count.")
	bookRows     = desc("book_rows", "Sources that are remembered.")
	edits        = desc("foreign_edits_total", "Bans that others made or lifted, and bans of whitelisted sources by others, which are lifted at once.", "edit")
	restored     = desc("restored_bans_total", "Bans that were put back after the table was gone.")
	lost         = desc("lost_messages_total", "Log messages of bans for which the kernel had no room. The bans are found by a resync.")
	overruns     = desc("overruns_total", "How often the buffer of a socket was full.", "socket")
	resyncs      = desc("resyncs_total", "How often the watcher has read all sets.")
	lag          = desc("lag_seconds", "How old the last ban was when the watcher heard of it.")
	saves        = desc("state_saves_total", "Writes of the state file, by result.", "result")
	notified     = desc("notices_total", "Notices by channel and result.", "channel", "result")
	dropped      = desc("journal_dropped_lines_total", "Lines of the journal that were dropped because standard error stalled or was closed.")
	scrapeErrors = desc("scrape_errors", "What this scrape could not ask: 1 each for the watcher and the kernel.")
)

const (
	madeName = "bans_made_total"
	madeHelp = "Bans that were made, by cause and tier of the ladder; tier 0 is those that the ladder did not make."
)

// outcomes are the table's own counters. Others may have added some, of any
// name.
var outcomes = [...]string{
	ruleset.CounterTrapped, ruleset.CounterScanned, ruleset.CounterBanned, ruleset.CounterFull, ruleset.CounterHeldBack,
	ruleset.CounterUncounted, ruleset.CounterUnroutable, ruleset.CounterDropped,
}

// newMade returns what counts the bans of which there was news.
func newMade() *prometheus.CounterVec {
	return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "portmon_" + madeName, Help: madeHelp}, []string{"cause", "tier"})
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
	for _, d := range descs {
		ch <- d
	}
}

// Collect implements [prometheus.Collector].
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := sink(ch)
	out.gauge(buildInfo, 1, c.config.Version)
	out.gauge(scrapeErrors, boolean(!c.collectWatcher(out))+boolean(!c.collectTable(out)))
	c.made.Collect(ch)
	for channel, n := range c.noticeStats() {
		out.counter(notified, n.Sent, channel, "sent")
		out.counter(notified, n.Failed, channel, "failed")
	}
	out.counter(dropped, c.stderr.dropped.Load())
}

func (c *collector) collectWatcher(out sink) (ok bool) {
	const patience = 5 * time.Second
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	st, err := c.watcher.Stats(ctx)
	if err != nil {
		return false
	}
	out.gauge(tableCurrent, boolean(st.TableCurrent))
	for i, family := range []string{"ip", "ip6"} {
		for step := 0; st.Table && step <= st.Steps; step++ {
			n := st.Bans[watch.Place{Family: 4 + 2*i, Step: step}]
			out.gauge(bans, float64(n), family, strconv.Itoa(step))
		}
	}
	for p, n := range st.Offences {
		protocol := cmp.Or(text.Protocol(p.Proto), "unknown")
		out.counter(offences, n, protocol, strconv.Itoa(int(p.Port)))
	}
	for step := 2; step <= st.Steps; step++ {
		out.counter(escalations, st.Escalations[step], strconv.Itoa(step))
	}
	out.gauge(offenders, float64(st.Offenders))
	out.gauge(bookRows, float64(st.Rows))
	out.counter(edits, st.ByHand, "ban")
	out.counter(edits, st.Lifted, "unban")
	out.counter(edits, st.Whitelisted, "whitelisted")
	out.counter(restored, st.Restored)
	out.counter(tableGone, st.TableGone)
	out.counter(repairs, st.Repaired)
	out.counter(lost, st.LostMessages)
	out.counter(overruns, st.LogOverruns, "log")
	out.counter(overruns, st.EventOverruns, "events")
	out.counter(resyncs, st.Resyncs)
	out.gauge(lag, st.Lag.Seconds())
	out.counter(saves, st.Saves, "done")
	out.counter(saves, st.SaveFailures, "failed")
	return true
}

func (c *collector) collectTable(out sink) (ok bool) {
	conn, err := c.config.Dial()
	if err != nil {
		return false
	}
	defer conn.Close()
	h, err := ruleset.Open(conn, c.tableName())
	if err != nil {
		return false
	}
	if out.gauge(tablePresent, boolean(h.Exists)); !h.Exists {
		return true
	}
	// Kernels before 6.16 do not say how full a set is. Then its elements are
	// read, of which there may be a million; but for a fiftieth of the time at
	// most.
	if start := time.Now(); start.Sub(c.at) >= 50*c.took {
		if c.fill, err = h.Fill(); err != nil {
			return false
		}
		c.at, c.took = time.Now(), time.Since(start)
	}
	for _, f := range c.fill {
		out.gauge(elements, float64(f.Count), f.Set)
		if f.Size > 0 {
			out.gauge(capacity, float64(f.Size), f.Set)
		}
	}
	for _, name := range outcomes {
		if n, ok := h.Counters[name]; ok {
			out.counter(packets, n.Packets, name)
			out.counter(packetBytes, n.Bytes, name)
		}
	}
	return true
}

type sink chan<- prometheus.Metric

func (s sink) gauge(d *prometheus.Desc, v float64, labels ...string) {
	s <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
}

func (s sink) counter(d *prometheus.Desc, n uint64, labels ...string) {
	s <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n), labels...)
}

func boolean(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
