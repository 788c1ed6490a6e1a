package notice

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/portmon/portmon/internal/config"
	"github.com/portmon/portmon/internal/watch"
	"github.com/portmon/portmon/ruleset"
)

const abuseKey = "0123456789abcdef"

// office stands in for AbuseIPDB, as far as its documentation says, and has a
// sender that reports to it.
type office struct {
	*Sender
	reports chan url.Values // that were posted
	answer  http.HandlerFunc
	faults  chan error
}

func newOffice(t *testing.T, dir string) *office {
	t.Helper()
	o := &office{reports: make(chan url.Values, 100), faults: make(chan error, 100)}
	o.answer = func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, `{"data":{"ipAddress":%q,"abuseConfidenceScore":52}}`, r.PostForm.Get("ip"))
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := r.ParseForm(); err != nil || r.Method != http.MethodPost || r.Header.Get("Key") != abuseKey ||
			r.Header.Get("Accept") != "application/json" {
			t.Errorf("%s with %v, %v", r.Method, r.Header, err)
		}
		o.reports <- r.PostForm
		o.answer(w, r)
	}))
	t.Cleanup(server.Close)
	key := filepath.Join(dir, "key")
	if err := os.WriteFile(key, []byte(abuseKey+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	conf := &config.Config{AbuseIPDBKeyFile: key, Watch: config.Watch{State: filepath.Join(dir, "state.jsonl")}}
	proven := func(*watch.News) (bool, error) { return true, nil }
	o.Sender = New(conf, Host{Name: "web1.example.org", Proven: proven}, func(err error) { o.faults <- err })
	o.reporter.url, o.reporter.backoff = server.URL, []time.Duration{time.Millisecond, time.Millisecond}
	return o
}

// tell queues news, handles what is queued, and returns how many posts it made.
func (o *office) tell(t *testing.T, news ...watch.News) int {
	t.Helper()
	before := len(o.reports)
	tell(o.Sender, news...)
	for len(o.reporter.queue) > 0 {
		e := <-o.reporter.queue
		o.reporter.handle(t.Context(), &e)
	}
	return len(o.reports) - before
}

// again is a scanner that has come again.
func again(addr string) watch.News {
	n := escalated(netip.PrefixFrom(netip.MustParseAddr(addr), netip.MustParseAddr(addr).BitLen()), 2)
	n.Cause, n.Port = ruleset.CauseScan, 8291
	return n
}

// TestReport has a source reported once a day, whatever happens to the program.
func TestReport(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	o := newOffice(t, dir)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { o.Run(ctx); close(ended) }()
	tell(o.Sender, again("45.0.0.7"))
	want := url.Values{
		"ip": {"45.0.0.7"}, "categories": {"14"}, "timestamp": {"2026-01-18T12:00:00Z"},
		"comment": {"Port scan: packets to closed TCP ports, the last to port 8291; banned again after 2 offences"},
	}
	if d := diff(want, <-o.reports); d != "" {
		t.Errorf("(-want +got)\n%s", d)
	}
	cancel()
	<-ended

	o = newOffice(t, dir) // another program
	if n := o.tell(t, again("45.0.0.7"), again("45.0.0.7")); n != 0 {
		t.Errorf("it is reported again on the same day: %d times", n)
	}
	if n := o.tell(t, again("45.0.0.8"), again("2a00:1450:4001::7"), again("45.0.0.8")); n != 2 {
		t.Errorf("%d reports of two others", n)
	}
	if got := o.Stats()["abuseipdb"]; got != (Stats{Sent: 2}) {
		t.Errorf("counted %+v", got)
	}
	tomorrow := clock
	tomorrow.Wall = tomorrow.Wall.Add(24 * time.Hour)
	e := event{News: again("45.0.0.7"), at: tomorrow}
	if o.reporter.handle(t.Context(), &e); len(o.reports) != 3 {
		t.Error("it is not reported on the next day")
	}
	if len(o.faults) > 0 {
		t.Error(<-o.faults)
	}
}

// TestNotReported has sources whose packets may be forged, and others that are
// nobody's business.
func TestNotReported(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*watch.News){
		"the first offence":   func(n *watch.News) { n.Kind, n.Step = watch.Banned, 1 },
		"only observed":       func(n *watch.News) { n.Observed = true },
		"over UDP":            func(n *watch.News) { n.Proto = 17 },
		"by hand":             func(n *watch.News) { n.Kind, n.Cause = watch.ByHand, ruleset.CauseHand },
		"by another program":  func(n *watch.News) { n.Cause = ruleset.CauseOther },
		"a subnet":            func(n *watch.News) { n.Cause, n.Source = ruleset.CauseSubnet, prefix("45.0.0.0/24") },
		"a network":           func(n *watch.News) { n.Source = prefix("2a00:1450:4001:1::/64") },
		"lifted":              func(n *watch.News) { n.Kind = watch.Lifted },
		"private":             func(n *watch.News) { n.Source = prefix("192.168.1.7/32") },
		"unique local":        func(n *watch.News) { n.Source = prefix("fd00::7/128") },
		"carrier-grade":       func(n *watch.News) { n.Source = prefix("100.64.0.7/32") },
		"documentation":       func(n *watch.News) { n.Source = prefix("203.0.113.7/32") },
		"NAT64":               func(n *watch.News) { n.Source = prefix("64:ff9b::7/128") },
		"6to4":                func(n *watch.News) { n.Source = prefix("2002:2d00:7::7/128") },
		"loopback":            func(n *watch.News) { n.Source = prefix("127.0.0.7/32") },
		"of another ladder":   func(n *watch.News) { n.Step = 9 },
		"the table is gone":   func(n *watch.News) { *n = watch.News{Kind: watch.TableGone} },
		"multicast, reserved": func(n *watch.News) { n.Source = prefix("240.0.0.7/32") },
	} {
		n := again("45.0.0.7")
		change(&n)
		if isReportable(&n, []time.Duration{10 * time.Minute, 8 * time.Hour, 30 * day}) {
			t.Errorf("%s: it would be reported", name)
		}
	}
	n := again("45.0.0.7")
	if isReportable(&n, []time.Duration{time.Second, time.Hour}) {
		t.Error("it would be reported although it may have come again within seconds")
	}

	o := newOffice(t, t.TempDir())
	o.reporter.proven = func(*watch.News) (bool, error) { return false, nil }
	if posts := o.tell(t, n); posts != 0 || len(o.faults) > 0 {
		t.Errorf("%d reports although nothing is proven, %d faults", posts, len(o.faults))
	}
	o.reporter.proven = func(*watch.News) (bool, error) { return true, nil }
	l := ledger{Day: noon.Format(time.DateOnly)}
	for i := range maxReports {
		l.Sources = append(l.Sources, host(i).Addr())
	}
	if err := o.reporter.writeLedger(l); err != nil {
		t.Fatal(err)
	}
	if posts := o.tell(t, n); posts != 0 || len(o.faults) > 0 {
		t.Errorf("%d reports although there were %d today, %d faults", posts, maxReports, len(o.faults))
	}
}

// TestReportFails has the service refuse, and no key.
func TestReportFails(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		status int
		posts  int
		want   string
	}{
		"a wrong key": {401, 1, "status 401 Unauthorized: no such key: [hidden]"},
		"the quota":   {429, 3, "status 429 Too Many Requests: no such key: [hidden]"},
		"broken":      {503, 3, "status 503 Service Unavailable: no such key: [hidden]"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := newOffice(t, t.TempDir())
			o.answer = func(w http.ResponseWriter, r *http.Request) {
				http.Error(w, "no such key: "+r.Header.Get("Key"), tt.status)
			}
			if n := o.tell(t, again("45.0.0.7"), again("45.0.0.8"), again("45.0.0.7")); n != tt.posts {
				t.Errorf("%d posts, want %d: there is a pause after that", n, tt.posts)
			}
			if got := o.Stats()["abuseipdb"]; got != (Stats{Failed: 3}) {
				t.Errorf("counted %+v", got)
			}
			var last error
			for len(o.faults) > 0 {
				last = <-o.faults
			}
			want := "report 45.0.0.7 to AbuseIPDB: " + tt.want + " (nothing is reported for 1h)"
			if last == nil || last.Error() != want || strings.Contains(last.Error(), abuseKey) {
				t.Errorf("got  %v\nwant %s", last, want)
			}
		})
	}
	o := newOffice(t, t.TempDir())
	if err := os.WriteFile(o.reporter.keyFile, []byte("two words"), 0o600); err != nil {
		t.Fatal(err)
	}
	if n := o.tell(t, again("45.0.0.7")); n != 0 {
		t.Errorf("%d posts without a key", n)
	}
	if err := <-o.faults; !strings.HasPrefix(err.Error(), "report 45.0.0.7 to AbuseIPDB: read token") || strings.Contains(err.Error(), "two") {
		t.Error(err)
	}
	failure := errors.New("the kernel does not answer")
	o = newOffice(t, t.TempDir())
	o.reporter.proven = func(*watch.News) (bool, error) { return true, failure }
	if n := o.tell(t, again("45.0.0.7")); n != 0 {
		t.Errorf("%d posts although nothing could be asked", n)
	}
	if err := <-o.faults; !errors.Is(err, failure) {
		t.Error(err)
	}
}

// TestReportQueue has more come than there is room for, while the service hangs.
func TestReportQueue(t *testing.T) {
	t.Parallel()
	o := newOffice(t, t.TempDir())
	for i := range maxQueued + 50 {
		tell(o.Sender, again(netip.AddrFrom4([4]byte{45, 0, 0, byte(i)}).String()))
	}
	if got := o.Stats()["abuseipdb"]; len(o.reporter.queue) != maxQueued || got != (Stats{Failed: 50}) {
		t.Errorf("%d are queued, counted %+v", len(o.reporter.queue), got)
	}
}

// TestLedger has one that is damaged or of another kind, and one that is full.
func TestLedger(t *testing.T) {
	t.Parallel()
	o := newOffice(t, t.TempDir())
	full := ledger{Day: noon.Format(time.DateOnly)}
	for range maxReports {
		full.Sources = append(full.Sources, netip.MustParseAddr("2a00:1450:4001:1234:5678:9abc:def0:1234"))
	}
	if data, err := json.Marshal(full); err != nil || len(data) > maxLedger {
		t.Errorf("a full ledger has %d bytes, %v", len(data), err)
	}
	path := filepath.Join(o.reporter.folder, ledgerName)
	for text, ok := range map[string]bool{
		"": false, "{": false, `{"day":7}`: false, strings.Repeat(" ", maxLedger+1): false,
		`{"day":"2020-01-01","sources":["8.8.8.8"]}`: true, `{"day":"2106-02-07","sources":[]}`: false,
	} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if l, err := o.reporter.readLedger(noon); (err == nil) != ok || len(l.Sources) > 0 {
			t.Errorf("%.10q: %v, %v", text, l, err)
		}
	}
	// The clock was set back over midnight.
	l := ledger{noon.AddDate(0, 0, 1).Format(time.DateOnly), []netip.Addr{netip.MustParseAddr("45.0.0.7")}}
	if err := o.reporter.writeLedger(l); err != nil {
		t.Fatal(err)
	}
	if posts := o.tell(t, again("45.0.0.7"), again("45.0.0.8")); posts != 1 {
		t.Errorf("%d reports, want that of the other source", posts)
	}
	if got, err := o.reporter.readLedger(noon); err != nil || got.Day != l.Day || len(got.Sources) != 2 {
		t.Errorf("noted %v, %v", got, err)
	}
}
