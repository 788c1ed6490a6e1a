package notice

import (
	"cmp"
	"context"
	"net/netip"
	"path/filepath"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/maxmind/mmdbwriter"

	"github.com/portmon/portmon/internal/book"
	"github.com/portmon/portmon/internal/config"
	"github.com/portmon/portmon/internal/geo"
	"github.com/portmon/portmon/internal/geo/geotest"
	"github.com/portmon/portmon/internal/lab"
	"github.com/portmon/portmon/internal/watch"
	"github.com/portmon/portmon/ruleset"
)

const day = 24 * time.Hour

// noon is when things happen in tests of what is pure.
var noon = time.Date(2026, 1, 18, 12, 0, 0, 0, time.UTC)

func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

func host(n int) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{198, 51, byte(n >> 8), byte(n)}), 32)
}

func diff(want, got any) string {
	return gocmp.Diff(want, got, cmpopts.EquateComparable(netip.Prefix{}), gocmp.AllowUnexported(notice{}, event{}, watch.News{}), cmpopts.EquateEmpty())
}

// clock is when things happen in tests of what is pure.
var clock = book.Clock{Wall: noon, Boot: book.Moment(time.Hour)}

// in returns the moment that is d after the clock.
func in(d time.Duration) book.Moment { return clock.Boot.Add(d) }

// banned is a ban as the packet path makes it.
func banned(source netip.Prefix, port uint16) watch.News {
	return watch.News{
		Kind: watch.Banned, Source: source, Cause: ruleset.CauseTrap, Step: 1, Proto: 6, Port: port, Offences: 1,
		Until: in(8 * time.Hour),
	}
}

func escalated(source netip.Prefix, step int) watch.News {
	return watch.News{
		Kind: watch.Escalated, Source: source, Cause: ruleset.CauseTrap, Step: step, Proto: 6, Port: 23, Offences: step,
		Until: in(3 * day),
	}
}

// observed returns news of a table that drops nothing.
func observed(n watch.News) watch.News {
	n.Observed = true
	return n
}

func composed(news ...watch.News) *notice { return composedAt(nil, news...) }

// composedAt is composed with databases of places.
func composedAt(places *geo.DB, news ...watch.News) *notice {
	var d digest
	for _, n := range news {
		d.add(event{News: n, at: clock}, steps)
	}
	return d.compose("web1", places)
}

// steps are those of the ladder.
const steps = 3

// tell queues news.
func tell(s *Sender, news ...watch.News) {
	s.Tell(news, []time.Duration{10 * time.Minute, 8 * time.Hour, 30 * day}[:steps], clock)
}

// awaitSent waits until one notice was sent. If the context ended before, there
// would be no more than five seconds for it.
func awaitSent(t *testing.T, s *Sender, channel string, reports chan error) {
	t.Helper()
	lab.Await(t, "a notice was sent", func() bool {
		if len(reports) > 0 {
			t.Fatal(<-reports)
		}
		return s.Stats()[channel].Sent == 1
	})
}

// setup says where notices go in a test.
type setup struct {
	ntfy, tokenFile string
	command         []string
	host            string
	window          time.Duration // 0 means a minute
}

// run lets a Sender run until the function that is returned, or the test, ends
// it. What it reports goes to the channel.
func run(t *testing.T, conf setup) (s *Sender, reports chan error, end func()) {
	t.Helper()
	reports = make(chan error, 100)
	w := config.Watch{Ntfy: conf.ntfy, NtfyTokenFile: conf.tokenFile, Command: conf.command}
	s = New(&config.Config{Watch: w}, Host{Name: conf.host}, func(err error) { reports <- err })
	for _, c := range s.channels {
		c.gathering, c.window = 20*time.Millisecond, cmp.Or(conf.window, c.window)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { s.Run(ctx); close(done) }()
	end = func() {
		cancel()
		<-done
	}
	t.Cleanup(end)
	return s, reports, end
}

// somewhere returns a database in which most sources of tests are.
func somewhere(t testing.TB) *geo.DB {
	t.Helper()
	path := filepath.Join(t.TempDir(), "places.mmdb")
	geotest.Replace(t, path, geotest.Build(t, mmdbwriter.Options{}, geotest.Records{
		"198.51.0.0/16": geotest.Place("DE", "AS64500", "Example\x1b[31m Ltd"),
	}))
	db, err := geo.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(db.Close)
	return db
}
