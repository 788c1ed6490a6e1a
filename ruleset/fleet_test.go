package ruleset

import (
	"errors"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/portmon/portmon/internal/lab"
	"github.com/portmon/portmon/netnstest"
)

// fleetSpec is trapSpec for a host of a fleet.
func fleetSpec() Spec {
	s := trapSpec()
	s.Fleet = 1000
	return s
}

// fleetBans has the fleet ban sources for an hour.
func (l *fixture) fleetBans(sources ...netip.Addr) {
	l.T.Helper()
	var records []Record
	for _, a := range sources {
		records = append(records, Record{Source: FleetSource(a), Timeout: time.Hour, Remaining: time.Hour, Comment: "2 hosts"})
	}
	if full, err := l.open().PutFleet(records); err != nil || full > 0 {
		l.T.Fatalf("put bans of the fleet: %d have no room, error %v", full, err)
	}
}

// fleet returns what the fleet bans, sorted.
func (l *fixture) fleet() (out []string) {
	l.T.Helper()
	for e, err := range l.open().Fleet() {
		if err != nil {
			l.T.Fatal(err)
		}
		out = append(out, e.Interval.String())
	}
	slices.Sort(out)
	return out
}

// wantNoRecords fails the test if the table remembers anything of its own.
func (l *fixture) wantNoRecords() {
	l.T.Helper()
	for r, err := range l.open().Records() {
		l.T.Errorf("the table holds %+v (%v)", r, err)
	}
}

// TestFleetBansDrop has sources of which other hosts know, by whatever prefix this
// one bans by itself.
func TestFleetBansDrop(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*Spec){
		"default":         func(*Spec) {},
		"by address":      func(s *Spec) { s.Prefix6, s.Subnet4 = 128, 3 },
		"by more":         func(s *Spec) { s.Prefix6 = 56 },
		"strictly":        func(s *Spec) { s.Scan.Ports = 1 },
		"nothing offends": func(s *Spec) { s.TrapTCP, s.TrapUDP, s.Scan.Ports = nil, nil, 0 },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			spec := fleetSpec()
			change(&spec)
			l := newTrap(t, spec)
			l.newContainer()
			l.families(func(l *fixture, f family) {
				src, bystander := l.source(f), l.source(f)
				l.fleetBans(src)
				before := l.counters()
				l.Cut(src)
				for _, p := range []netnstest.Packet{
					l.SYN(src, lab.TrapTCP), l.UDP(src, trapUDP), l.SYN(src, lab.Closed), l.TCP(src, lab.Closed, fin),
					netnstest.SYN(src, at(container(src), lab.OpenTCP)), netnstest.Datagram(src, at(container(src), lab.OpenUDP), "hello"),
				} {
					l.Want(p, netnstest.NoAnswer)
				}
				l.wantCounts(before, map[string]uint64{CounterDropped: 10, CounterFleet: 10})
				l.traceOf(src, "eth0", AskBanned)
				st, err := l.open().Lookup(src)
				if err != nil || st.Fleet == nil || st.Fleet.Comment != "2 hosts" || st.Fleet.Cause != CauseFleet || !st.Banned() || len(st.Bans) > 0 {
					l.T.Errorf("of %v the table says %+v (%v)", src, st, err)
				}
				if f.is6() {
					l.Cut(src.Next())
				}
				l.Visit(bystander)
				if err := l.open().LiftFleet(FleetSource(src), FleetSource(bystander)); err != nil {
					l.T.Fatal(err)
				}
				l.Visit(src)
			})
			l.wantNoRecords()
		})
	}
}

// TestFleetBansDoNotCutOurOwnTraffic has the fleet ban a resolver.
func TestFleetBansDoNotCutOurOwnTraffic(t *testing.T) {
	t.Parallel()
	l := newTrap(t, fleetSpec())
	l.newResolver()
	container := l.newContainer()
	l.fleetBans(resolver[:]...)
	l.reach(l.Host)
	l.reach(container)
	l.Cut(resolver[:]...)
	l.wantNoRecords()
}

// TestFleetBansSpare has the fleet ban who is whitelisted, allowed, or comes in by
// an interface that is whitelisted.
func TestFleetBansSpare(t *testing.T) {
	t.Parallel()
	spec := fleetSpec()
	spec.Whitelist = []netip.Prefix{prefix("198.51.100.9/32"), prefix("2001:db8:9::/48")}
	l := newTrap(t, spec)
	l.families(func(l *fixture, f family) {
		listed, src, bystander := addr("198.51.100.9"), l.source(f), l.source(f)
		if f.is6() {
			listed = addr("2001:db8:9::9")
		}
		refused, err := l.open().CheckFleet(FleetSource(listed), FleetSource(src))
		if err != nil || len(refused) != 2 || refused[0] == nil || refused[1] != nil {
			l.T.Errorf("refused is %v (%v)", refused, err)
		}
		l.fleetBans(listed, src, bystander)
		l.Served(listed)
		l.Cut(src)
		l.allow(time.Hour, cidr(src.String()))
		l.Served(src)
		l.Cut(bystander)
	})
	spec.Interfaces = []string{"eth0"}
	l.apply(spec)
	l.families(func(l *fixture, f family) {
		src := l.source(f)
		l.fleetBans(src)
		l.Served(src)
	})
}

// TestNetworksOfStrangersAreNotBanned asks about networks that this host bans by
// address.
func TestNetworksOfStrangersAreNotBanned(t *testing.T) {
	t.Parallel()
	spec := fleetSpec()
	spec.Own6 = []netip.Prefix{prefix("2001:db8:5:5::/64")}
	l := newTrap(t, spec)
	refused, err := l.open().CheckFleet(prefix("64:ff9b::/64"), prefix("2001:db8:5:5::/64"), prefix("2001:db8:5:6::/64"), prefix("224.0.0.1/32"))
	if err != nil || len(refused) != 4 || refused[0] == nil || refused[1] == nil || refused[2] != nil || refused[3] == nil {
		t.Errorf("refused is %v (%v)", refused, err)
	}
}

// TestFleetBansObserved has a table that observes drop nothing, and not hold it
// against a source what would have been dropped; what the fleet bans stays when it
// enforces.
func TestFleetBansObserved(t *testing.T) {
	t.Parallel()
	l := newTrap(t, observing(fleetSpec()))
	for _, src := range l.Sources(1) {
		l.fleetBans(src)
		before := l.counters()
		l.Visit(src)
		l.Want(l.SYN(src, lab.TrapTCP), netnstest.AnswerRST)
		l.wantCounts(before, map[string]uint64{CounterDropped: 5, CounterFleet: 5})
		if tr := l.trace(src); !tr.WouldDrop || tr.Because != AskBanned {
			t.Errorf("the trace is %+v", tr)
		}
		l.apply(fleetSpec())
		l.Cut(src)
		l.apply(observing(fleetSpec()))
	}
	l.wantNoRecords()
}

// trace follows a SYN to a trap.
func (l *fixture) trace(src netip.Addr) Trace {
	l.T.Helper()
	tr, err := l.open().Trace(Packet{From: src, To: l.To(src, 0).Addr(), Port: lab.TrapTCP, Proto: 6, ToSelf: true, RouteBack: true})
	if err != nil {
		l.T.Fatal(err)
	}
	return tr
}

// TestFleetSetsAreApart keeps the bans of this host and those of the fleet apart,
// through an apply, a flush, and the end of the fleet.
func TestFleetSetsAreApart(t *testing.T) {
	t.Parallel()
	spec := trapSpec()
	l := newTrap(t, spec)
	digest := l.open().Digest
	if _, err := l.open().PutFleet([]Record{{Source: prefix("198.51.100.1/32")}}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("to put bans where there is no fleet: %v", err)
	}
	l.apply(fleetSpec())
	both := l.Sources(2)
	l.Offend(both[:2]...)
	l.fleetBans(both...)
	before, held := l.bans(), l.fleet()
	if len(before) != 2 || len(held) != 4 {
		t.Fatalf("%d bans, and %q of the fleet", len(before), held)
	}
	other := fleetSpec()
	other.BanTime, other.TrapTCP = other.BanTime[:2], []Ports{{4444, 4444}}
	l.apply(other)
	if got := l.fleet(); !slices.Equal(got, held) {
		t.Errorf("after an apply the fleet bans %q", got)
	}
	if _, _, err := l.open().Unban(FleetSource(both[0])); err != nil {
		t.Fatal(err)
	}
	l.Cut(both...)
	generation := l.generation()
	if err := l.open().FlushFleet(); err != nil {
		t.Fatal(err)
	}
	if n := l.generation() - generation; n != 1 || len(l.fleet()) > 0 {
		t.Errorf("flushed by %d transactions, %q are left", n, l.fleet())
	}
	l.Served(both[0], both[2], both[3])
	l.Cut(both[1])
	l.apply(spec)
	s := l.open()
	if _, counts := s.Counters[CounterFleet]; counts || s.Digest != digest || s.Set("fleet4") != nil {
		t.Errorf("without the fleet there is a counter (%v), or a set, or the digest is %s, not %s", counts, s.Digest, digest)
	}
	if p := l.prepare(spec); !p.Empty() {
		t.Errorf("there is more to do: %s", p)
	}
	l.Cut(both[1])
}

// TestFleetSetFull puts what fits, and renews what is there all the same.
func TestFleetSetFull(t *testing.T) {
	t.Parallel()
	const size, n = 20, 33
	spec := fleetSpec()
	spec.Fleet = size
	l := newTrap(t, spec)
	l.families(func(l *fixture, f family) {
		var all []Record
		for range n {
			src := l.source(f)
			all = append(all, Record{Source: FleetSource(src), Timeout: time.Hour, Remaining: time.Hour})
		}
		last := &all[n-1]
		if full, err := l.open().PutFleet(all[n-1:]); full != 0 || err != nil {
			l.T.Fatalf("%d have no room, error %v", full, err)
		}
		last.Timeout, last.Remaining, last.Comment = 2*time.Hour, 2*time.Hour, "3 hosts"
		if full, err := l.open().PutFleet(all); full != n-size || err != nil {
			l.T.Errorf("%d have no room, want %d, error %v", full, n-size, err)
		}
		if st, err := l.open().Lookup(last.Source.Addr()); err != nil || st.Fleet == nil || st.Fleet.Remaining < 119*time.Minute || st.Fleet.Comment != "3 hosts" {
			l.T.Errorf("what was renewed is %+v (%v)", st.Fleet, err)
		}
		fill, err := l.open().Fill()
		if i := slices.Index(fill, Fill{f.fleet(), size, size}); err != nil || i < 0 {
			l.T.Errorf("the sets are filled by %v (%v)", fill, err)
		}
		l.Served(l.source(f))
		if err := l.open().LiftFleet(all[0].Source, all[n-1].Source); err != nil { // which is not there, and full
			l.T.Error(err)
		}
		if l.has(f.fleet(), last.Source.Addr()) {
			l.T.Error("what was lifted is there")
		}
	})
}
