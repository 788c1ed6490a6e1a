package notice

import (
	"context"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/portmon/portmon/internal/watch"
)

const day = 24 * time.Hour

// noon is when things happen in tests of what is pure.
var noon = time.Date(2026, 1, 18, 12, 0, 0, 0, time.UTC)

func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

func host(n int) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{198, 51, byte(n >> 8), byte(n)}), 32)
}

func diff(want, got any) string {
	return cmp.Diff(want, got, cmpopts.EquateComparable(netip.Prefix{}), cmp.AllowUnexported(notice{}), cmpopts.EquateEmpty())
}

// banned is a ban as the packet path makes it.
func banned(source netip.Prefix, port uint16) Event {
	return Event{Kind: watch.Banned, Prefix: source, Cause: "trap", Tier: 1, Proto: 6, Port: port, Offences: 1, Time: noon, Until: noon.Add(8 * time.Hour)}
}

func escalated(source netip.Prefix, tier int) Event {
	return Event{
		Kind: watch.Escalated, Prefix: source, Cause: "trap", Tier: tier, Last: tier == 3, Proto: 6, Port: 23, Offences: tier,
		Time: noon, Until: noon.Add(3 * day),
	}
}

func composed(events ...Event) notice {
	var d digest
	for _, e := range events {
		d.add(e)
	}
	return d.compose("web1")
}

// run lets a Sender run until the function that is returned, or the test, ends
// it. What it reports goes to the channel.
func run(t *testing.T, config Config) (s *Sender, reports chan error, end func()) {
	t.Helper()
	reports = make(chan error, 100)
	config.Report = func(err error) { reports <- err }
	s, err := New(config)
	if err != nil {
		t.Fatal(err)
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
