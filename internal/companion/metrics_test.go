package companion

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/internal/config"
	"github.com/portmon/portmon/internal/watch"
)

const metricsAddr = "127.0.0.1:9713"

func TestMetrics(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.metrics = metricsAddr
	dir := l.notices(roleNote)
	p := l.start()
	p.awaitJournal("level=INFO", "msg=metrics", "address="+metricsAddr)
	l.offend(offender, offender6)
	for series, want := range map[string]string{
		`portmon_packets_total{outcome="banned"}`:                "2",
		`portmon_offences_total{port="23",protocol="tcp"}`:       "2",
		`portmon_bans{family="ip6",tier="1"}`:                    "1",
		`portmon_build_info{version="1.2.3"}`:                    "1",
		`portmon_scrape_errors`:                                  "0",
		`portmon_notices_total{channel="command",result="sent"}`: "1",
	} {
		await(t, series+" "+want, func() bool { v, _ := l.value(metricsAddr, series); return v == want })
	}
	if n := len(notes(t, dir)); n != 1 {
		t.Errorf("%d notices were sent", n)
	}
	for _, other := range []string{"process_resident_memory_bytes", "go_goroutines"} {
		if _, ok := l.value(metricsAddr, other); !ok {
			t.Errorf("%s is missing", other)
		}
	}
	if lines := p.journal("level=WARN"); len(lines) > 0 {
		t.Errorf("warnings: %q", lines)
	}
	p.stop()
	if _, err := l.get(metricsAddr); err == nil {
		t.Error("metrics are served after the end")
	}
}

// TestMetricsPortInUse has the port free again later, and a reload use it.
func TestMetricsPortInUse(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	other := l.host.ListenTCP(metricsAddr)
	l.metrics = metricsAddr
	p := l.start()
	p.awaitJournal("level=WARN", "no metrics", metricsAddr, "in use")
	l.offend(offender)
	p.awaitOffenders(1)
	other.Close()
	if err := p.ask().Reload(); err != nil {
		t.Fatal(err)
	}
	if v, _ := l.value(metricsAddr, "portmon_offenders"); v != "1" {
		t.Errorf("after a reload there are %q offenders, want 1", v)
	}
	p.stop()
}

func TestMetricsForAll(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.metrics = "0.0.0.0:9713"
	p := l.start()
	p.awaitJournal("level=WARN", "0.0.0.0:9713", "not a loopback address")
	if _, ok := l.value(l.link.B.IPv4.String()+":9713", "portmon_offenders"); !ok {
		t.Error("they are not served")
	}
	if _, err := l.get("[" + l.link.B.IPv6.String() + "]:9713"); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("they are served by IPv6 too: error %v", err)
	}
	p.stop()
}

// TestMetricsAfterTheEnd is a reload that comes so late that all else ends already.
func TestMetricsAfterTheEnd(t *testing.T) {
	var log bytes.Buffer
	conf := config.Default()
	conf.Watch.Metrics = "127.0.0.1:0"
	c := &companion{watcher: new(watch.Watcher), config: Config{Log: slog.New(slog.NewTextHandler(&log, nil))}, current: conf}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	c.startMetrics(ctx, conf)
	c.parts.Wait()
	if !strings.Contains(log.String(), "msg=metrics") || strings.Contains(log.String(), "WARN") {
		t.Errorf("the journal is %q", log.String())
	}
}
