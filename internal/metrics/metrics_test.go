package metrics

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"github.com/portmon/portmon/internal/watch"
	"github.com/portmon/portmon/netnstest"
	"github.com/portmon/portmon/nftset"
	"github.com/portmon/portmon/ruleset"
)

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

var first, second, first6 = addr("198.51.100.1"), addr("198.51.100.2"), addr("2001:db8:1:1::bad")

// TestValues has a bit of everything happen, and compares all of the values.
func TestValues(t *testing.T) {
	t.Parallel()
	spec := ruleset.Default()
	spec.BanTime = []time.Duration{time.Second, time.Hour, 2 * time.Hour}
	spec.TrapUDP = []ruleset.Ports{{From: 5060, To: 5060}}
	spec.Size = 1234
	l := newLab(t, spec)
	l.notices = func() (sent, failed map[string]uint64) {
		return map[string]uint64{"ntfy": 7, "command": 0}, map[string]uint64{"ntfy": 2, "command": 1}
	}
	var trapped, dropped []netnstest.Packet
	offend := func(p netnstest.Packet) { l.send(p); trapped = append(trapped, p) }
	knock := func(p netnstest.Packet) { l.send(p); dropped = append(dropped, p) }

	offend(l.syn(first, 23))
	offend(l.syn(first6, 5901))
	offend(netnstest.Datagram(second, l.to(second, 5060), "INVITE"))
	s, err := l.read()
	if err != nil {
		t.Fatal(err)
	}
	for _, src := range []netip.Addr{first, first6} {
		l.awaitFree(s, src)
		offend(l.syn(src, 23)) // takes it up the ladder
	}
	l.await(map[string]float64{`portmon_escalations_total{tier="2"}`: 2})
	knock(l.syn(first, 80))
	knock(netnstest.Datagram(first, l.to(first, 53), strings.Repeat("x", 500)))
	knock(l.syn(first6, 23))

	prefix := netip.MustParsePrefix("203.0.113.0/24")
	for _, p := range []netip.Prefix{prefix, netip.MustParsePrefix("2001:db8:ff::/48")} {
		if _, err := s.Ban(l.conn, p, time.Hour, ""); err != nil {
			t.Fatal(err)
		}
	}
	// Sets of prefixes are read after they were edited, and what was there for a moment is never seen.
	l.await(map[string]float64{`portmon_foreign_edits_total{edit="ban"}`: 2})
	if lifted, _, err := s.Unban(l.conn, prefix); err != nil || len(lifted) != 1 {
		t.Fatalf("lifted %v, error %v", lifted, err)
	}
	l.awaitFree(s, second) // and so the first tier is empty
	want := map[string]float64{
		`portmon_build_info{version="1.2.3"}`: 1,
		`portmon_table_present`:               1,
		`portmon_scrape_errors`:               0,

		`portmon_bans{family="ip",tier="0"}`: 0, `portmon_bans{family="ip6",tier="0"}`: 1,
		`portmon_bans{family="ip",tier="1"}`: 0, `portmon_bans{family="ip6",tier="1"}`: 0,
		`portmon_bans{family="ip",tier="2"}`: 1, `portmon_bans{family="ip6",tier="2"}`: 1,
		`portmon_bans{family="ip",tier="3"}`: 0, `portmon_bans{family="ip6",tier="3"}`: 0,

		`portmon_set_capacity_bans{family="ip",tier="1"}`: 1234, `portmon_set_capacity_bans{family="ip6",tier="1"}`: 1234,
		`portmon_set_capacity_bans{family="ip",tier="2"}`: 1234, `portmon_set_capacity_bans{family="ip6",tier="2"}`: 1234,
		`portmon_set_capacity_bans{family="ip",tier="3"}`: 1234, `portmon_set_capacity_bans{family="ip6",tier="3"}`: 1234,

		`portmon_packets_total{outcome="trapped"}`: 5, `portmon_bytes_total{outcome="trapped"}`: length(t, trapped),
		`portmon_packets_total{outcome="banned"}`: 5, `portmon_bytes_total{outcome="banned"}`: length(t, trapped),
		`portmon_packets_total{outcome="dropped"}`: 3, `portmon_bytes_total{outcome="dropped"}`: length(t, dropped),
		`portmon_packets_total{outcome="full"}`: 0, `portmon_bytes_total{outcome="full"}`: 0,

		`portmon_offences_total{port="23",protocol="tcp"}`:   3,
		`portmon_offences_total{port="5901",protocol="tcp"}`: 1,
		`portmon_offences_total{port="5060",protocol="udp"}`: 1,
		`portmon_escalations_total{tier="2"}`:                2,
		`portmon_escalations_total{tier="3"}`:                0,
		`portmon_offenders`:                                  3,

		`portmon_foreign_edits_total{edit="ban"}`: 2, `portmon_foreign_edits_total{edit="unban"}`: 1,
		`portmon_restored_bans_total`: 0, `portmon_table_gone_total`: 0, `portmon_lost_messages_total`: 0,
		`portmon_overruns_total{socket="log"}`: 0, `portmon_overruns_total{socket="events"}`: 0, `portmon_resyncs_total`: 1,
		`portmon_state_saves_total{result="done"}`: 1, `portmon_state_saves_total{result="failed"}`: 0,

		`portmon_notices_total{channel="ntfy",result="sent"}`: 7, `portmon_notices_total{channel="ntfy",result="failed"}`: 2,
		`portmon_notices_total{channel="command",result="sent"}`: 0, `portmon_notices_total{channel="command",result="failed"}`: 1,
	}
	got := l.await(want)
	if lag := got["portmon_lag_seconds"]; lag < 0 || lag > deadline.Seconds() {
		t.Errorf("the watcher heard of a ban after %v s", lag)
	}
	delete(got, "portmon_lag_seconds")
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("values (-want +got):\n%s", diff)
	}
	families, err := registry(t, l.collector()).Gather()
	if err != nil {
		t.Fatal(err)
	}
	problems, err := promlint.NewWithMetricFamilies(families).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
	l.wantDescribed(got)
}

// length returns how many bytes the IP packets have.
func length(t testing.TB, packets []netnstest.Packet) (n float64) {
	t.Helper()
	for _, p := range packets {
		b, err := p.AppendBinary(nil)
		if err != nil {
			t.Fatal(err)
		}
		n += float64(len(b))
	}
	return n
}

// awaitFree returns when the source is in the first tier no more. The kernel tells nobody.
func (l *lab) awaitFree(s *ruleset.State, src netip.Addr) {
	l.t.Helper()
	for end := time.Now().Add(deadline); ; time.Sleep(5 * time.Millisecond) {
		st, err := s.Lookup(l.conn, src)
		if err != nil {
			l.t.Fatal(err)
		}
		if len(st.Bans) == 0 {
			return
		}
		if time.Now().After(end) {
			l.t.Fatalf("%v is still banned", src)
		}
	}
}

// wantDescribed fails the test unless every metric that is described is among the values. The pedantic registry sees to the converse.
func (l *lab) wantDescribed(got map[string]float64) {
	l.t.Helper()
	described := make(chan *prometheus.Desc, 1000)
	l.collector().Describe(described)
	close(described)
	n := 0
	for d := range described {
		n++
		_, after, _ := strings.Cut(d.String(), `fqName: "`)
		name, _, ok := strings.Cut(after, `"`)
		if !ok {
			l.t.Fatalf("no name in %s", d)
		}
		if strings.Contains(d.String(), `help: ""`) {
			l.t.Errorf("%s is not explained", name)
		}
		there := name == "portmon_lag_seconds"
		for series := range got {
			base, _, _ := strings.Cut(series, "{")
			there = there || base == name
		}
		if !there {
			l.t.Errorf("%s is described and not there", name)
		}
	}
	if n < 19 {
		l.t.Errorf("%d metrics are described", n)
	}
}

// TestFull has no room for a second ban.
func TestFull(t *testing.T) {
	t.Parallel()
	spec := ruleset.Default()
	spec.Size = 1
	l := newLab(t, spec)
	packets := []netnstest.Packet{l.syn(first, 23), l.syn(second, 23), l.syn(second, 23)}
	l.send(packets...)
	l.await(map[string]float64{
		`portmon_packets_total{outcome="trapped"}`: 3, `portmon_bytes_total{outcome="trapped"}`: length(t, packets),
		`portmon_packets_total{outcome="banned"}`: 1, `portmon_bytes_total{outcome="banned"}`: length(t, packets[:1]),
		`portmon_packets_total{outcome="full"}`: 2, `portmon_bytes_total{outcome="full"}`: length(t, packets[1:]),
		`portmon_packets_total{outcome="dropped"}`:        0,
		`portmon_set_capacity_bans{family="ip",tier="1"}`: 1,
		`portmon_bans{family="ip",tier="1"}`:              1, `portmon_bans{family="ip6",tier="1"}`: 0,
		`portmon_offences_total{port="23",protocol="tcp"}`: 1,
	})
}

func TestNoTable(t *testing.T) {
	t.Parallel()
	l := newBareLab(t, ruleset.Default())
	l.watch()
	of := func(got map[string]float64) (n int) {
		for series := range got {
			for _, name := range []string{"portmon_bans", "portmon_set_capacity", "portmon_packets", "portmon_bytes"} {
				if strings.HasPrefix(series, name) {
					n++
				}
			}
		}
		return n
	}
	got := l.await(map[string]float64{`portmon_table_present`: 0, `portmon_scrape_errors`: 0, `portmon_offenders`: 0})
	if n := of(got); n != 0 {
		t.Errorf("%d values are of a table that is not there", n)
	}
	l.apply()
	got = l.await(map[string]float64{`portmon_table_present`: 1, `portmon_scrape_errors`: 0, `portmon_bans{family="ip",tier="1"}`: 0})
	if n, want := of(got), 8+6+4+4; n != want {
		t.Errorf("%d values are of the table, want %d", n, want)
	}
	if _, err := ruleset.Remove(l.conn, l.spec.Table); err != nil {
		t.Fatal(err)
	}
	// The watcher puts the table back in a while. So this is asked as long as it takes to ask once.
	got = values(t, l.collector())
	if got["portmon_table_present"] == 0 && got["portmon_scrape_errors"] != 0 {
		t.Error("that the table is gone is an error")
	}
	l.await(map[string]float64{`portmon_table_gone_total`: 1, `portmon_table_present`: 1})
}

func TestSourceFails(t *testing.T) {
	fails := errors.New("on purpose")
	for name, tt := range map[string]struct {
		stats, table error
		errors       float64
	}{
		"neither":     {nil, nil, 0},
		"the watcher": {fails, nil, 1},
		"the kernel":  {nil, fails, 1},
		"both":        {fails, fails, 2},
	} {
		t.Run(name, func(t *testing.T) {
			got := values(t, New(Sources{
				Stats: func(context.Context) (watch.Stats, error) { return watch.Stats{}, tt.stats },
				Table: func() (*ruleset.State, error) { return &ruleset.State{}, tt.table },
			}))
			if v, ok := got["portmon_scrape_errors"]; !ok || v != tt.errors {
				t.Errorf("%v errors, want %v", v, tt.errors)
			}
			if _, there := got["portmon_offenders"]; there != (tt.stats == nil) {
				t.Error("what the watcher tells is there: ", there)
			}
			if _, there := got["portmon_table_present"]; there != (tt.table == nil) {
				t.Error("what the kernel tells is there: ", there)
			}
		})
	}
}

// TestScrapeHasAnEnd has a scrape go on without a watcher that gives no answer.
func TestScrapeHasAnEnd(t *testing.T) {
	var end time.Time
	c := New(Sources{
		Stats: func(ctx context.Context) (s watch.Stats, err error) {
			var ok bool
			if end, ok = ctx.Deadline(); !ok {
				t.Error("a watcher may take as long as it likes")
			}
			return s, context.DeadlineExceeded
		},
		Table: func() (*ruleset.State, error) { return &ruleset.State{Exists: true}, nil },
	})
	got := values(t, c)
	if left := time.Until(end); left > patience {
		t.Errorf("a watcher has %v, want %v", left, patience)
	}
	if got["portmon_table_present"] != 1 || got["portmon_scrape_errors"] != 1 {
		t.Errorf("got %v", got)
	}
}

// TestManyPorts has more ports hit than are told apart.
func TestManyPorts(t *testing.T) {
	t.Parallel()
	const hit, apart = 5000, 100
	spec := ruleset.Default()
	spec.TrapTCP = []ruleset.Ports{{From: 10_000, To: 10_000 + hit}}
	l := newLab(t, spec)
	l.outside.Sender(l.link.A.Dev).Burst(hit, func(i int) netnstest.Packet {
		return l.syn(netip.AddrFrom4([4]byte{198, 18, byte(i >> 8), byte(i)}), 10_000+uint16(i))
	})
	got := l.await(map[string]float64{
		`portmon_packets_total{outcome="trapped"}`: hit, `portmon_offenders`: hit,
		`portmon_offences_total{port="0",protocol="tcp"}`: hit - apart,
	})
	ports := 0
	for series, v := range got {
		if strings.HasPrefix(series, "portmon_offences_total{") {
			ports++
			if v != 1 && v != hit-apart {
				t.Errorf("%s is %v", series, v)
			}
		}
	}
	if ports != apart+1 {
		t.Errorf("%d ports are told apart, want %d", ports, apart+1)
	}
	if len(got) > 2*apart {
		t.Errorf("there are %d values", len(got))
	}
}

// TestForeignCounter has somebody put an object into the table whose name no label can have.
func TestForeignCounter(t *testing.T) {
	got := values(t, New(Sources{
		Stats: func(context.Context) (watch.Stats, error) { return watch.Stats{}, nil },
		Table: func() (*ruleset.State, error) {
			return &ruleset.State{
				Exists:   true,
				Counters: map[string]ruleset.Counter{"\xff": {Packets: 1}, "mine": {Packets: 2}, "trapped": {Packets: 3, Bytes: 4}},
				Sets:     []nftset.Set{{Name: "mine", Size: 5}, {Name: "ban4", Size: 6}},
			}, nil
		},
	}))
	for series, want := range map[string]float64{
		`portmon_packets_total{outcome="trapped"}`: 3, `portmon_bytes_total{outcome="trapped"}`: 4,
		`portmon_set_capacity_bans{family="ip",tier="1"}`: 6,
	} {
		if got[series] != want {
			t.Errorf("%s is %v, want %v", series, got[series], want)
		}
		delete(got, series)
	}
	for series := range got {
		if strings.Contains(series, "outcome") || strings.Contains(series, "capacity") {
			t.Errorf("%s is there", series)
		}
	}
}

// TestNoDump counts the bytes that a scrape receives from the kernel, by the account that it keeps of what a thread reads: they are as
// many with no bans as with 20,000. What the watcher tells comes from its memory, in a goroutine of its own.
func TestNoDump(t *testing.T) {
	t.Parallel()
	const n = 20_000
	l := newLab(t, ruleset.Default())
	s, err := l.read()
	if err != nil {
		t.Fatal(err)
	}
	set := s.Set("ban4")
	collector := l.collector()
	scrape := func() {
		ch := make(chan prometheus.Metric, 1000)
		collector.Collect(ch)
	}
	empty := received(t, scrape)
	if empty == 0 {
		t.Fatal("the kernel keeps no account of what a thread reads: the test says nothing")
	}
	err = l.conn.Add(set, func(yield func(nftset.Element) bool) {
		for i := range n {
			a := netip.AddrFrom4([4]byte{198, 18 + byte(i>>16), byte(i >> 8), byte(i)})
			if !yield(nftset.Element{Interval: nftset.Single(nftset.AddrKey(a)), Timeout: time.Hour}) {
				return
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	l.await(map[string]float64{`portmon_bans{family="ip",tier="1"}`: n})
	full := received(t, scrape)
	dump := received(t, func() {
		for _, err := range l.conn.Elements(set) {
			if err != nil {
				t.Error(err)
				return
			}
		}
	})
	if dump < n*4 {
		t.Fatalf("a dump of %d elements is %d bytes: the account is wrong", n, dump)
	}
	// Somewhat more, for numbers that have more digits in the account itself.
	if full > empty+1000 {
		t.Errorf("a scrape receives %d bytes with %d bans, and %d with none; a dump is %d", full, n, empty, dump)
	}
}

// received returns how many bytes a function reads in its own thread, and some.
func received(t testing.TB, f func()) int {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	before := readBytes(t)
	f()
	return readBytes(t) - before
}

// readBytes returns what the calling thread has got from read(2) until now.
func readBytes(t testing.TB) int {
	t.Helper()
	text, err := os.ReadFile("/proc/thread-self/io")
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(string(text), "rchar: ")
	line, _, _ := strings.Cut(after, "\n")
	n, err := strconv.Atoi(line)
	if err != nil {
		t.Fatal(err)
	}
	return n
}
