package judge

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/portmon/portmon/internal/fleet/wire"
)

var start = time.Date(2026, 11, 28, 0, 0, 0, 0, time.UTC)

// fleet is a judge, and the bans of the hosts that do what it says.
type fleet struct {
	*Judge
	seq         uint64
	now         time.Time
	bans        map[netip.Prefix]wire.Ban
	quarantined map[string]string
}

func newFleet(hosts int) *fleet {
	f := &fleet{Judge: New(Default()), now: start, bans: make(map[netip.Prefix]wire.Ban), quarantined: make(map[string]string)}
	for i := range hosts {
		f.SetHost(name(i), &wire.Host{Standing: wire.Member, From: start.Add(-time.Hour)})
	}
	return f
}

func name(i int) string { return fmt.Sprintf("h%d", i) }

func addr(i int) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{45, byte(i >> 16), byte(i >> 8), byte(i)}), 32)
}

// see has a host report a source that it saw some time ago.
func (f *fleet) see(host string, source netip.Prefix, ago time.Duration) Outcome {
	f.seq++
	o := f.Sighting(host, &wire.Sighting{Source: source, Step: 1, Cause: wire.Trap, Proto: 6, Port: 23, At: f.now.Add(-ago), Sent: f.now}, f.now, f.seq)
	if o.Quarantine != "" {
		f.quarantined[host] = o.Quarantine
	}
	f.do(o.Decisions)
	return o
}

func (f *fleet) do(decisions []Decision) {
	for _, d := range decisions {
		if _, err := wire.Encode(&d.Ban); err != nil {
			panic(err)
		}
		if f.bans[d.Ban.Source] = d.Ban; d.Ban.Lifted {
			delete(f.bans, d.Ban.Source)
		}
	}
}

func TestQuorum(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		size    int
		reports []int // from which on there are bans of step 1, 2 and 3
	}{
		{1, []int{1}}, {3, []int{1, 2}}, {4, []int{2, 4}}, {49, []int{2, 4, 8}}, {50, []int{3, 6, 12}}, {500, []int{3, 6, 12}},
	} {
		f := newFleet(test.size)
		for n := range test.size {
			f.see(name(n), addr(1), 0)
			want := 0
			for want < len(test.reports) && n+1 >= test.reports[want] {
				want++
			}
			if got := f.bans[addr(1)]; got.Step != want {
				t.Fatalf("of %d, %d saw it: step %d, want %d", test.size, n+1, got.Step, want)
			} else if want > 0 && got.Length != int64(f.Lengths[want-1]/time.Second) {
				t.Errorf("step %d lasts %d s", want, got.Length)
			}
		}
	}
}

func TestSameHost(t *testing.T) {
	t.Parallel()
	f := newFleet(4)
	for range 100 {
		f.now = f.now.Add(time.Minute)
		f.see("h0", addr(1), 0)
	}
	if len(f.bans) != 0 {
		t.Error("a host is a quorum of four, alone:", f.bans)
	}
}

func TestTimes(t *testing.T) {
	t.Parallel()
	f := newFleet(2)
	f.see("h0", addr(1), 10*time.Minute)
	first := f.bans[addr(1)]
	if got := first.Left(f.now); got != 50*time.Minute {
		t.Errorf("ten minutes after the sighting, %s are left", got)
	}
	if o := f.see("h0", addr(1), 9*time.Minute); len(o.Decisions) != 0 {
		t.Error("a ban that is a minute longer is told:", o.Decisions)
	}
	f.now = f.now.Add(30 * time.Minute)
	f.see("h0", addr(1), 0)
	if got := f.bans[addr(1)]; got.Left(f.now) != time.Hour || !got.First.Equal(first.First) || len(got.By) != 1 {
		t.Errorf("an offence while banned begins the ban anew: %+v", got)
	}
	if f.see("h1", addr(2), 2*time.Hour); f.bans[addr(2)].Step != 0 {
		t.Error("banned by a sighting that came too late")
	}
	if f.see("h0", addr(2), time.Minute); f.bans[addr(2)].Step != 2 {
		t.Error("the sighting that came too late does not count:", f.bans[addr(2)])
	}
	// A host that has no more than one to say says when it was.
	f.now = f.now.Add(8 * 24 * time.Hour)
	if f.see("h0", addr(2), time.Minute); f.bans[addr(2)].Hosts != 1 {
		t.Error("a report of eight days ago counts:", f.bans[addr(2)])
	}
	if o := f.see("h0", addr(3), wire.MaxAge+time.Hour); o.Ignored == "" {
		t.Error("a sighting that is older than all counts")
	}
}

func TestNever(t *testing.T) {
	t.Parallel()
	f := newFleet(1)
	f.Never = []netip.Prefix{netip.MustParsePrefix("45.0.1.0/24"), netip.MustParsePrefix("2001:db8::7/128")}
	for _, p := range []netip.Prefix{addr(256), addr(511), netip.MustParsePrefix("2001:db8::/64")} {
		if o := f.see("h0", p, 0); o.Ignored == "" || len(o.Decisions) != 0 {
			t.Error(p, o)
		}
	}
	if f.see("h0", addr(512), 0); len(f.bans) != 1 {
		t.Error("its neighbour is not banned")
	}
}

func TestStandings(t *testing.T) {
	t.Parallel()
	f := newFleet(4)
	f.see("h0", addr(1), 0)
	f.see("h1", addr(1), 0)
	f.see("h2", addr(1), 0)
	f.see("h0", addr(2), 0)
	f.see("h1", addr(2), 0)
	f.now = f.now.Add(time.Minute)
	f.do(f.SetHost("h0", &wire.Host{Standing: wire.Revoked}).Decisions)
	if _, ok := f.bans[addr(2)]; !ok { // it is three now, of which one is enough
		t.Error("withdrawn, although one of three said so")
	}
	f.do(f.SetHost("h1", &wire.Host{Standing: wire.Revoked}).Decisions)
	if _, ok := f.bans[addr(2)]; ok {
		t.Error("in force, although nobody said so")
	}
	if _, ok := f.bans[addr(1)]; !ok {
		t.Error("withdrawn, although h2 said so")
	}
	for _, b := range f.bans {
		if slices.ContainsFunc(b.By, func(r wire.Report) bool { return r.Host != "h2" }) || b.Hosts != 1 {
			t.Errorf("%+v", b)
		}
	}
	for _, host := range []string{"h0", "stranger"} {
		if o := f.see(host, addr(3), 0); o.Ignored == "" || len(f.bans) != 1 {
			t.Error("counts:", host)
		}
	}
	// One who comes back counts for what it says from then on.
	f.now = f.now.Add(time.Minute)
	f.SetHost("h0", &wire.Host{Standing: wire.Member, From: f.now})
	back := f.now
	f.now = back.Add(-time.Second)
	if o := f.see("h0", addr(4), 0); o.Ignored == "" {
		t.Error("counts, although it was said before")
	}
	f.now = back.Add(time.Second)
	if f.see("h0", addr(4), 0); f.bans[addr(4)].Step != 1 {
		t.Error("does not count, although it is back")
	}
}

// What a host has added to the length of a ban goes with it, also when the ban
// would be over without that.
func TestLengthWithdrawn(t *testing.T) {
	t.Parallel()
	for _, after := range []time.Duration{time.Minute, 2 * time.Hour} {
		f := newFleet(2)
		f.see("h0", addr(1), 0)
		f.see("h1", addr(1), 0)
		if got := f.bans[addr(1)]; got.Step != 2 {
			t.Fatalf("%+v", got)
		}
		f.now = f.now.Add(after)
		f.do(f.SetHost("h1", &wire.Host{Standing: wire.Revoked, Since: f.now}).Decisions)
		if got, ok := f.bans[addr(1)]; ok != (after < time.Hour) || got.Step > 1 {
			t.Errorf("%s after the offence: %+v", after, got)
		}
		f.see("h0", addr(1), 0)
		if got := f.bans[addr(1)]; after > time.Hour && (got.Step != 1 || got.Left(f.now) != time.Hour) {
			t.Errorf("seen again: %+v", got)
		}
	}
}

// A host is judged by how large the fleet was when it spoke, so that those who
// join later take back nothing.
func TestJoining(t *testing.T) {
	t.Parallel()
	f := newFleet(3)
	f.see("h0", addr(1), 0)
	f.now = f.now.Add(time.Minute)
	f.SetHost("h3", &wire.Host{Standing: wire.Member, From: f.now})
	if got := f.Bans(f.now); len(got) != 1 {
		t.Error("the fourth has taken it back:", got)
	}
	if f.see("h1", addr(2), 0); len(f.Bans(f.now)) != 1 {
		t.Error("one of four is enough")
	}
}

func TestQuota(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		what         string
		others, each int // what they report, together with their neighbour, so that it is banned
		more         int // than the quota, which the last host reports
		quota        int
	}{
		{"alone", 0, 0, 1, 1000},
		{"quiet fleet", 10, 50, 1, 1000},
		{"most are quiet", 3, 100, 1, 1000},
		{"all are busy", 5, 2000, 1, 4000},
		{"at the quota", 5, 2000, 0, 4000},
	} {
		f := newFleet(test.others + 1)
		bad := name(test.others)
		for n := range test.each {
			for i := range test.others {
				f.see(name(i), addr(i/2*test.each+n), 0)
			}
		}
		before := maps.Clone(f.bans)
		for n := range test.quota + test.more {
			f.see(bad, addr(1<<20+n), 0)
		}
		if got := f.quarantined[bad] != ""; got != (test.more > 0) {
			t.Errorf("%s: quarantined %v: %v", test.what, got, f.quarantined)
		}
		if test.more > 0 && !reflect.DeepEqual(f.bans, before) {
			t.Errorf("%s: it left %d bans, where there were %d", test.what, len(f.bans), len(before))
		}
		if len(f.quarantined) > 1 {
			t.Errorf("%s: %v", test.what, f.quarantined)
		}
	}
}

// A host that floods the hub is quarantined, also if it names one source alone.
func TestFlood(t *testing.T) {
	t.Parallel()
	f := newFleet(2)
	for range 3 {
		for range maxPerMinute {
			f.see("h0", addr(1), 0)
		}
		f.now = f.now.Add(time.Minute)
	}
	if len(f.quarantined) != 0 {
		t.Fatal(f.quarantined)
	}
	for range maxPerMinute + 1 {
		f.see("h0", addr(1), 0)
	}
	if !strings.Contains(f.quarantined["h0"], "in a minute") || len(f.bans) != 0 {
		t.Error(f.quarantined, f.bans)
	}
}

// What a host says in days is no more than it may say in one.
func TestQuotaOfDays(t *testing.T) {
	t.Parallel()
	f := newFleet(1)
	for day := range 3 {
		for n := range 1000 {
			f.see("h0", addr(day*1000+n), 0)
			f.see("h0", addr(day*1000+n), 0)
		}
		f.now = f.now.Add(25 * time.Hour)
	}
	if len(f.quarantined) != 0 {
		t.Error(f.quarantined)
	}
}

// A large list allows more to one host, but never a twentieth of it.
func TestQuotaOfList(t *testing.T) {
	t.Parallel()
	f := newFleet(3)
	f.Quota = 20
	f.Quorum = []Tier{{0, 1}}
	for n := range 100 { // beyond what they may; the two are let in by hand
		for _, host := range []string{"h0", "h1"} {
			f.hosts[host].sources = recent[netip.Prefix, struct{}]{}
			f.see(host, addr(n), 0)
			f.see(host, addr(1000+n), 0)
			f.see(host, addr(2000+n), 0)
			f.see(host, addr(3000+n), 0)
			f.see(host, addr(4000+n), 0)
		}
	}
	f.now = f.now.Add(2 * time.Minute) // when they are counted
	before := len(f.bans)              // 500; with the 20 that it may report anyway, a twentieth is 26
	for n := range 27 {
		if f.quarantined["h2"] != "" {
			t.Fatalf("quarantined after %d", n)
		}
		f.see("h2", addr(1<<20+n), 0)
	}
	if before != 500 || f.quarantined["h2"] == "" || len(f.bans) != before {
		t.Error(before, f.quarantined, len(f.bans))
	}
}

// Whatever the order in which the reports of hosts arrive, the same is banned;
// and two judges who see the same order do the same.
func TestOrder(t *testing.T) {
	t.Parallel()
	type said struct {
		host   string
		source netip.Prefix
		ago    time.Duration
	}
	for seed := range uint64(40) {
		r := rand.New(rand.NewPCG(seed, 1))
		size := 1 + r.IntN(60)
		var all []said
		for range 200 {
			all = append(all, said{name(r.IntN(size + 1)), addr(r.IntN(20)), time.Duration(r.IntN(3600)) * time.Second})
		}
		var want map[netip.Prefix]wire.Ban
		for range 3 {
			r.Shuffle(len(all), func(i, k int) { all[i], all[k] = all[k], all[i] })
			a, b := newFleet(size), newFleet(size)
			for _, s := range all {
				x, y := a.see(s.host, s.source, s.ago), b.see(s.host, s.source, s.ago)
				if !reflect.DeepEqual(x, y) {
					t.Fatalf("seed %d: one says %+v, the other %+v", seed, x, y)
				}
			}
			got := a.Bans(a.now)
			for p, ban := range a.bans { // what hosts do is what it is, or a little shorter
				if now := got[p]; now.Step != ban.Step || ban.Until().After(now.Until()) || now.Until().Sub(ban.Until()) > time.Duration(now.Length)*time.Second/8 {
					t.Fatalf("seed %d: hosts have %+v, and it is %+v", seed, ban, now)
				}
			}
			if want == nil {
				want = got
			} else if !reflect.DeepEqual(got, want) {
				t.Fatalf("seed %d: in another order, %+v\nis %+v", seed, want, got)
			}
			gone := name(r.IntN(size))
			if x, y := a.SetHost(gone, nil), b.SetHost(gone, nil); !reflect.DeepEqual(x, y) {
				t.Fatalf("seed %d: without %s, one says %+v, the other %+v", seed, gone, x, y)
			}
		}
	}
}

// A judge who begins late, with what hosts were said to be, agrees with the one
// who saw how they became it.
func TestRebuild(t *testing.T) {
	t.Parallel()
	first, second := newFleet(6), newFleet(6)
	second.SetHost("h5", &wire.Host{Standing: wire.Quarantined})
	for n := range 3000 {
		for _, f := range []*fleet{first, second} {
			f.now = f.now.Add(time.Second)
			f.see("h5", addr(n), 0)
			if n%3 == 0 {
				f.see(name(n%5), addr(n), 0)
			}
			if n%7 == 0 {
				f.see(name((n+1)%5), addr(n), 0)
			}
		}
	}
	if first.quarantined["h5"] == "" || len(second.quarantined) != 0 {
		t.Fatal(first.quarantined, second.quarantined)
	}
	got, want := second.Bans(second.now), first.Bans(first.now)
	if len(want) == 0 || !reflect.DeepEqual(got, want) {
		t.Errorf("%d bans after a rebuild, %d before", len(got), len(want))
	}
	if !strings.Contains(first.quarantined["h5"], "1000 sources") {
		t.Error(first.quarantined)
	}
}

func BenchmarkSighting(b *testing.B) {
	f := newFleet(500)
	n := 0
	for b.Loop() {
		n++
		f.now = f.now.Add(time.Millisecond)
		f.see(name(n%500), addr(n/100), 0)
	}
}
