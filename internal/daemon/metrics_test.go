package daemon

import (
	"errors"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/internal/lab"
	"github.com/portmon/portmon/nftset"
)

const metricsAddr = "127.0.0.1:9713"

func TestMetrics(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.metrics = metricsAddr
	dir := l.notices(roleNote)
	p := l.start()
	p.awaitJournal("level=INFO", "msg=metrics", "address="+metricsAddr)
	l.Offend(offender, offender6)
	for series, want := range map[string]string{
		`portmon_packets_total{outcome="banned"}`:                "2",
		`portmon_offences_total{port="23",protocol="tcp"}`:       "2",
		`portmon_bans{family="ip6",tier="1"}`:                    "1",
		`portmon_build_info{version="1.2.3"}`:                    "1",
		`portmon_scrape_errors`:                                  "0",
		`portmon_notices_total{channel="command",result="sent"}`: "1",
	} {
		lab.Await(t, series+" "+want, func() bool { v, _ := l.value(metricsAddr, series); return v == want })
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

// TestMetricsPortInUse has the port free again later.
func TestMetricsPortInUse(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	other := l.Host.Listen("tcp", metricsAddr)
	l.metrics = metricsAddr
	p := l.start()
	p.awaitJournal("level=WARN", "no metrics", metricsAddr, "in use")
	if s := p.status(); s.Metrics != metricsAddr || !strings.Contains(s.MetricsError, "in use") {
		t.Errorf("the status is %+v", s)
	}
	l.Offend(offender)
	p.awaitOffenders(1)
	other.Close()
	lab.Await(t, "they are served", func() bool { v, _ := l.value(metricsAddr, "portmon_offenders"); return v == "1" })
	if s := p.status(); s.MetricsError != "" {
		t.Errorf("the status is %+v", s)
	}
	if n := len(p.journal("no metrics")); n != 1 {
		t.Errorf("the journal says it %d times", n)
	}
	p.stop()
}

// TestMetricsAddressComesLate has the address be there later than the daemon,
// as at boot.
func TestMetricsAddressComesLate(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	const late = "10.99.0.1"
	l.metrics = late + ":9713"
	p := l.start()
	p.awaitJournal("level=WARN", "no metrics", "assign")
	l.Host.AddAddr("lo", late+"/32")
	lab.Await(t, "they are served", func() bool { v, _ := l.value(l.metrics, "portmon_offenders"); return v == "0" })
	p.stop()
}

func TestMetricsForAll(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.metrics = "0.0.0.0:9713"
	p := l.start()
	if _, ok := l.value(l.Link.B.IPv4.String()+":9713", "portmon_offenders"); !ok {
		t.Error("they are not served")
	}
	if _, err := l.get("[" + l.Link.B.IPv6.String() + "]:9713"); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("they are served by IPv6 too: error %v", err)
	}
	p.stop()
}

// TestRepairedInTime has the table spoiled, and repaired within two seconds by
// the moments that the watcher logs. A busy machine delays some repairs, but not
// the quickest of a few beyond that.
func TestRepairedInTime(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.metrics = metricsAddr
	p := l.start()
	current := func(want string) {
		t.Helper()
		lab.Await(t, "portmon_table_current is "+want, func() bool { v, _ := l.value(metricsAddr, "portmon_table_current"); return v == want })
	}
	spoil := func() (at time.Time) {
		t.Helper()
		tx := new(nftset.Tx)
		tx.FlushSet(l.Open().Set("trap_tcp"))
		at = time.Now()
		if err := l.Conn.Commit(tx); err != nil {
			t.Fatal(err)
		}
		return at
	}
	quickest := time.Hour
	for n := 1; n <= 5; n++ {
		current("1")
		at := spoil()
		lab.Await(t, "the table is repaired", func() bool { return len(p.journal("msg=repaired", "wrong=trap_tcp")) == n })
		lines := p.journal("msg=repaired")
		text, _, _ := strings.Cut(strings.TrimPrefix(lines[n-1], "time="), " ")
		repaired, err := time.Parse(time.RFC3339Nano, text)
		if err != nil {
			t.Fatal(err)
		}
		quickest = min(quickest, repaired.Sub(at))
	}
	if quickest > 2*time.Second {
		t.Errorf("the quickest repair took %v", quickest)
	}
	l.Offend(offender)
	p.awaitOffenders(1)
	// While it is not repaired, the metric says so.
	current("1")
	if err := p.ask().Applying(); err != nil {
		t.Fatal(err)
	}
	spoil()
	current("0")
	if err := p.ask().Reload(nil); err != nil {
		t.Fatal(err)
	}
	current("1")
	p.stop()
}
