package metrics

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/portmon/portmon/internal/watch"
	"github.com/portmon/portmon/netnstest"
	"github.com/portmon/portmon/nftset"
	"github.com/portmon/portmon/ruleset"
)

func TestMain(m *testing.M) { os.Exit(netnstest.Main(m)) }

const deadline = 20 * time.Second // ends a test that fails

// lab is a host with a watcher on it, and the outside, from where packets of any source come.
type lab struct {
	t             testing.TB
	host, outside *netnstest.Host
	link          *netnstest.Link // its end A is the outside's, B the host's
	conn          *nftset.Conn
	spec          ruleset.Spec
	watcher       *watch.Watcher
	notices       func() (sent, failed map[string]uint64)
}

// newLab returns a host with the table in force.
func newLab(t testing.TB, spec ruleset.Spec) *lab {
	t.Helper()
	l := newBareLab(t, spec)
	l.apply()
	l.watch()
	return l
}

// newBareLab returns a host without a table, and without a watcher.
func newBareLab(t testing.TB, spec ruleset.Spec) *lab {
	t.Helper()
	l := &lab{t: t, host: netnstest.NewHost(t, "host"), outside: netnstest.NewHost(t, "outside"), spec: spec}
	l.link = netnstest.Connect(t, l.outside, l.host, "192.0.2.0/24", "2001:db8::/64")
	l.host.DefaultVia(l.link.A.IPv4, l.link.A.IPv6)
	var err error
	if l.conn, err = nftset.Dial(&nftset.Config{NetNS: l.host.FD()}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.conn.Close() })
	return l
}

func (l *lab) apply() {
	l.t.Helper()
	if _, err := ruleset.Apply(l.conn, l.spec); err != nil {
		l.t.Fatal(err)
	}
}

// watch starts a watcher, and returns when it is ready.
func (l *lab) watch() {
	l.t.Helper()
	ready, ended := make(chan struct{}), make(chan error, 1)
	var err error
	l.watcher, err = watch.Open(watch.Config{
		NetNS: l.host.FD(), Spec: l.spec, Forget: time.Hour, State: filepath.Join(l.t.TempDir(), "state.jsonl"),
		Ready: func() { close(ready) },
		Fault: func(err error) { l.t.Error(err) },
	})
	if err != nil {
		l.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(l.t.Context())
	go func() { ended <- l.watcher.Run(ctx, nil) }()
	l.t.Cleanup(func() {
		cancel()
		<-ended
		l.watcher.Close()
	})
	select {
	case <-ready:
	case err := <-ended:
		ended <- nil
		l.t.Fatal("the watcher ended: ", err)
	case <-time.After(deadline):
		l.t.Fatal("the watcher is not ready")
	}
}

func (l *lab) read() (*ruleset.State, error) { return ruleset.Read(l.conn, l.spec.Table) }

// send sends packets and returns when the host has done with them.
func (l *lab) send(packets ...netnstest.Packet) {
	l.t.Helper()
	for _, p := range packets {
		l.outside.Send(p)
	}
}

// to returns a port of the host, at its address of the source's family.
func (l *lab) to(src netip.Addr, port uint16) netip.AddrPort {
	if src.Is4() {
		return netip.AddrPortFrom(l.link.B.IPv4, port)
	}
	return netip.AddrPortFrom(l.link.B.IPv6, port)
}

func (l *lab) syn(src netip.Addr, port uint16) netnstest.Packet {
	return netnstest.SYN(src, l.to(src, port))
}

func (l *lab) collector() *Collector {
	return New(Sources{Stats: l.watcher.Stats, Table: l.read, Notices: l.notices, Version: "1.2.3"})
}

// scrape returns the values by name and labels, as Prometheus writes them: `portmon_bans{family="ip",tier="1"}`.
func (l *lab) scrape() map[string]float64 { l.t.Helper(); return values(l.t, l.collector()) }

func registry(t testing.TB, c prometheus.Collector) *prometheus.Registry {
	t.Helper()
	r := prometheus.NewPedanticRegistry()
	if err := r.Register(c); err != nil {
		t.Fatal(err)
	}
	return r
}

func values(t testing.TB, c prometheus.Collector) map[string]float64 {
	t.Helper()
	families, err := registry(t, c).Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := make(map[string]float64)
	for _, f := range families {
		for _, m := range f.GetMetric() {
			v := m.GetGauge().GetValue()
			if f.GetType() == dto.MetricType_COUNTER {
				v = m.GetCounter().GetValue()
			}
			got[f.GetName()+labelled(m)] = v
		}
	}
	return got
}

func labelled(m *dto.Metric) string {
	var labels []string
	for _, l := range m.GetLabel() {
		labels = append(labels, fmt.Sprintf("%s=%q", l.GetName(), l.GetValue()))
	}
	if labels == nil {
		return ""
	}
	slices.Sort(labels)
	return "{" + strings.Join(labels, ",") + "}"
}

// await scrapes until these values are there, and fails the test if they do not come.
func (l *lab) await(want map[string]float64) (got map[string]float64) {
	l.t.Helper()
	for end := time.Now().Add(deadline); ; time.Sleep(5 * time.Millisecond) {
		got = l.scrape()
		missing := ""
		for name, v := range want {
			if have, ok := got[name]; !ok || have != v {
				missing += fmt.Sprintf("\n%s: got %v (there: %v), want %v", name, have, ok, v)
			}
		}
		if missing == "" {
			return got
		}
		if time.Now().After(end) {
			l.t.Fatal("not within ", deadline, ":", missing)
		}
	}
}
