// Package metrics tells Prometheus what the watcher and the table do.
//
// A scrape asks the watcher for what it has counted and the kernel for its named counters. It never reads the elements of a set, of
// which there may be a million.
package metrics

import (
	"context"
	"net/netip"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/portmon/portmon/internal/ledger"
	"github.com/portmon/portmon/internal/watch"
	"github.com/portmon/portmon/ruleset"
)

// Sources are where the numbers come from.
type Sources struct {
	// Stats asks the watcher.
	Stats func(context.Context) (watch.Stats, error)
	// Table asks the kernel.
	Table func() (*ruleset.State, error)
	// Notices returns how many notices were sent and how many failed, by channel; nil if there are none.
	Notices func() (sent, failed map[string]uint64)
	// Version is that of portmon.
	Version string
}

// Collector is what is registered with Prometheus.
type Collector struct{ from Sources }

// New returns a collector.
func New(from Sources) *Collector { return &Collector{from} }

// Name is a metric, and what it tells.
type Name struct{ Name, Help string }

var names []Name

// Names returns all metrics, in the order in which they are described.
func Names() []Name { return names }

func desc(name, help string, labels ...string) *prometheus.Desc {
	names = append(names, Name{"portmon_" + name, help})
	return prometheus.NewDesc("portmon_"+name, help, labels, nil)
}

var (
	buildInfo    = desc("build_info", "Always 1; the label tells the version.", "version")
	tableUp      = desc("table_present", "Whether the table inet portmon is there.")
	bans         = desc("bans", "Bans in force, by address family and tier of the ladder; tier 0 is prefixes.", "family", "tier")
	capacity     = desc("set_capacity_bans", "How many bans the set of a family and tier can hold.", "family", "tier")
	packets      = desc("packets_total", "Packets by what became of them: trapped, banned their source, dropped, or trapped with the set full.", "outcome")
	bytes        = desc("bytes_total", "Bytes of the packets in portmon_packets_total.", "outcome")
	offences     = desc("offences_total", "Offences by protocol and port; port 0 is one that is not known, or one of too many to tell apart.", "protocol", "port")
	escalations  = desc("escalations_total", "Repeat offenders that went up the ladder, by the tier they came to.", "tier")
	offenders    = desc("offenders", "Sources whose offences count.")
	edits        = desc("foreign_edits_total", "Bans that others made or lifted.", "edit")
	restored     = desc("restored_bans_total", "Bans that were put back after the table was gone.")
	tableGone    = desc("table_gone_total", "How often the table was deleted.")
	lost         = desc("lost_messages_total", "Log messages of bans for which the kernel had no room. The bans are found by a resync.")
	overruns     = desc("overruns_total", "How often the buffer of a socket was full.", "socket")
	resyncs      = desc("resyncs_total", "How often the watcher has read all sets.")
	lag          = desc("lag_seconds", "How old the last ban was when the watcher heard of it.")
	saves        = desc("state_saves_total", "Savings of the state file, by result.", "result")
	notices      = desc("notices_total", "Notices by channel and result.", "channel", "result")
	scrapeErrors = desc("scrape_errors", "What this scrape could not ask: 1 each for the watcher and the kernel.")
)

// Describe implements [prometheus.Collector].
func (c *Collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		buildInfo, tableUp, bans, capacity, packets, bytes, offences, escalations, offenders, edits, restored, tableGone, lost, overruns,
		resyncs, lag, saves, notices, scrapeErrors,
	} {
		ch <- d
	}
}

// patience bounds a scrape.
const patience = 5 * time.Second

// Collect implements [prometheus.Collector].
func (c *Collector) Collect(ch chan<- prometheus.Metric) {
	out := sink(ch)
	out.gauge(buildInfo, 1, c.from.Version)
	failed := 0
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	stats, err := c.from.Stats(ctx)
	if err != nil {
		failed++
	} else {
		out.watcher(&stats)
	}
	table, err := c.from.Table()
	if err != nil {
		failed++
	} else {
		out.table(table)
	}
	if c.from.Notices != nil {
		sent, lost := c.from.Notices()
		for channel, n := range sent {
			out.counter(notices, n, channel, "sent")
		}
		for channel, n := range lost {
			out.counter(notices, n, channel, "failed")
		}
	}
	out.gauge(scrapeErrors, float64(failed))
}

type sink chan<- prometheus.Metric

func (s sink) gauge(d *prometheus.Desc, v float64, labels ...string) {
	s <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
}

func (s sink) counter(d *prometheus.Desc, n uint64, labels ...string) {
	s <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n), labels...)
}

func (s sink) watcher(st *watch.Stats) {
	for set, n := range st.Bans {
		family, tier := labels(set)
		s.gauge(bans, float64(n), family, tier)
	}
	for p, n := range st.Offences {
		protocol := ledger.ProtocolName(p.Proto)
		if protocol == "" {
			protocol = "unknown"
		}
		s.counter(offences, n, protocol, strconv.Itoa(int(p.Port)))
	}
	for i, n := range st.Escalations {
		if tier := i + 2; tier <= st.Tiers {
			s.counter(escalations, n, strconv.Itoa(tier))
		}
	}
	s.gauge(offenders, float64(st.Offenders))
	s.counter(edits, st.ByHand, "ban")
	s.counter(edits, st.Lifted, "unban")
	s.counter(restored, st.Restored)
	s.counter(tableGone, st.TableGone)
	s.counter(lost, st.LostMessages)
	s.counter(overruns, st.LogOverruns, "log")
	s.counter(overruns, st.EventOverruns, "events")
	s.counter(resyncs, st.Resyncs)
	s.gauge(lag, st.Lag.Seconds())
	s.counter(saves, st.Saves, "done")
	s.counter(saves, st.SaveFailures, "failed")
}

func (s sink) table(t *ruleset.State) {
	s.gauge(tableUp, boolean(t.Exists))
	if !t.Exists {
		return
	}
	for _, set := range t.Sets {
		if _, ok := ruleset.Tier(set.Name); ok && set.Size > 0 {
			family, tier := labels(set.Name)
			s.gauge(capacity, float64(set.Size), family, tier)
		}
	}
	for _, name := range outcomes {
		if n, ok := t.Counters[name]; ok {
			s.counter(packets, n.Packets, name)
			s.counter(bytes, n.Bytes, name)
		}
	}
}

// outcomes are the table's own counters. Others may have added some, of any name.
var outcomes = [...]string{"trapped", "banned", "dropped", "full"}

func boolean(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// labels returns the family and the tier of a set of bans, "ip" or "ip6" as nft says.
func labels(set string) (family, tier string) {
	n, _ := ruleset.Tier(set)
	if set == ruleset.BanSet(netip.IPv6Unspecified(), n) {
		return "ip6", strconv.Itoa(n)
	}
	return "ip", strconv.Itoa(n)
}
