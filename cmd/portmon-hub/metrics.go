package main

import (
	"net/http"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/portmon/portmon/internal/fleet/wire"
)

func describe(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("portmon_hub_"+name, help, labels, nil)
}

// What is served. Names of hosts are the only foreign text, and were checked.
var (
	descBuild     = describe("build_info", "Always 1; the label has the version.", "version")
	descHosts     = describe("hosts", "Hosts by standing.", "standing")
	descHeard     = describe("host_heard_timestamp_seconds", "When a host was heard last.", "host")
	descQueued    = describe("host_queued_sightings", "Sightings that wait at a host.", "host")
	descSightings = describe("sightings_total", "Sightings by what became of them.", "result")
	descBans      = describe("bans", "Bans in force.")
	descLifted    = describe("withdrawals", "Withdrawals in the stream of bans.")
	descSkew      = describe("clock_skew_seconds", "How far the clock of the NATS server is ahead of this one.")
	descConnected = describe("connected", "Whether there is a connection to the NATS server.")
)

// metrics returns the handler of /metrics.
func (h *hub) metrics() http.Handler {
	r := prometheus.NewRegistry()
	r.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), h)
	return promhttp.HandlerFor(r, promhttp.HandlerOpts{MaxRequestsInFlight: 4})
}

// Describe implements [prometheus.Collector].
func (h *hub) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		descBuild, descHosts, descHeard, descQueued, descSightings, descBans, descLifted, descSkew, descConnected,
	} {
		ch <- d
	}
}

// Collect implements [prometheus.Collector].
func (h *hub) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	gauge(descBuild, 1, version())
	standings := map[wire.Standing]int{wire.Invited: 0, wire.Member: 0, wire.Quarantined: 0, wire.Revoked: 0}
	for name, k := range h.hosts {
		standings[k.Standing]++
		if !k.heard.IsZero() && k.Standing != wire.Revoked { // who is expected to be heard
			gauge(descHeard, float64(k.heard.Unix()), name)
			gauge(descQueued, float64(k.hello.Queued), name)
		}
	}
	for s, n := range standings {
		gauge(descHosts, float64(n), string(s))
	}
	for result, n := range h.counts {
		ch <- prometheus.MustNewConstMetric(descSightings, prometheus.CounterValue, float64(n), strings.ReplaceAll(result, " ", "_"))
	}
	bans, lifted := h.countBans()
	gauge(descBans, float64(bans))
	gauge(descLifted, float64(lifted))
	gauge(descSkew, float64(h.fleet.skew.Load())/1e9)
	connected := 0.0
	if h.fleet.nc.IsConnected() {
		connected = 1
	}
	gauge(descConnected, connected)
}

// countBans returns how many bans are in force, and how many were withdrawn.
func (h *hub) countBans() (bans, lifted int) {
	now := h.fleet.now()
	for _, b := range h.bans {
		switch {
		case b.Lifted:
			lifted++
		case b.Left(now) > 0:
			bans++
		}
	}
	return bans, lifted
}
