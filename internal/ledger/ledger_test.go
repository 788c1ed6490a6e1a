package ledger

import (
	"net/netip"
	"slices"
	"testing"
	"time"
)

const day = 24 * time.Hour

var (
	home    = netip.MustParsePrefix("203.0.113.7/32")
	network = netip.MustParsePrefix("2001:db8:0:1::/64")
	usual   = Config{Ladder: []time.Duration{8 * time.Hour, 3 * day, 30 * day}, Forget: 30 * day}
)

// at returns the moment a time after boot.
func at(d time.Duration) Instant { return Instant(0).Add(d) }

// offend reports an offence as it happens.
func offend(l *Ledger, source netip.Prefix, when time.Duration) Verdict {
	return l.Offend(Offence{Source: source, At: at(when), Proto: 6, Port: 23}, at(when))
}

func TestLadder(t *testing.T) {
	l := New(usual)
	want := []Verdict{
		{Counted: true, Offences: 1, Tier: 1, Timeout: 8 * time.Hour, Left: 8 * time.Hour},
		{Counted: true, Offences: 2, Tier: 2, Edit: true, Timeout: 3 * day, Left: 3 * day},
		{Counted: true, Offences: 3, Tier: 3, Edit: true, Timeout: 30 * day, Left: 30 * day},
		{Counted: true, Offences: 4, Tier: 3, Edit: true, Timeout: 30 * day, Left: 30 * day},
		{Counted: true, Offences: 5, Tier: 3, Edit: true, Timeout: 30 * day, Left: 30 * day},
	}
	now := time.Hour
	for i, want := range want {
		got := offend(l, network, now)
		if got != want {
			t.Errorf("offence %d: %+v, want %+v", i+1, got, want)
		}
		if again := offend(l, network, now+time.Second); again.Counted || again.Edit || again.Offences != i+1 {
			t.Errorf("offence %d reported again: %+v", i+1, again)
		}
		now += got.Timeout // it offends the moment it is free
	}
	rec, ok := l.Lookup(network, at(now))
	wantRec := Record{Source: network, Offences: 5, Tier: 3, Last: at(now - 30*day), End: at(now), Proto: 6, Port: 23}
	if !ok || rec != wantRec {
		t.Errorf("the record is %+v, want %+v", rec, wantRec)
	}
}

// News that comes late is answered with what is left of the ban, and with nothing if that is nothing.
func TestLate(t *testing.T) {
	tests := []struct {
		late, left time.Duration
		edit       bool
	}{
		{0, 4 * time.Second, true},
		{1500 * time.Millisecond, 2500 * time.Millisecond, true},
		{3900 * time.Millisecond, 100 * time.Millisecond, true},
		{3901 * time.Millisecond, 99 * time.Millisecond, false}, // the kernel might take it for a ban for ever
		{time.Hour, 0, false},
	}
	for _, tt := range tests {
		l := New(Config{Ladder: []time.Duration{2 * time.Second, 4 * time.Second}, Forget: 2 * time.Hour})
		offend(l, home, 0)
		v := l.Offend(Offence{Source: home, At: at(3 * time.Second)}, at(3*time.Second+tt.late))
		if v.Tier != 2 || v.Timeout != 4*time.Second || v.Left != tt.left || v.Edit != tt.edit {
			t.Errorf("%v late: %+v, want %v left and Edit %v", tt.late, v, tt.left, tt.edit)
		}
	}
}

// Forget runs from the end of the last ban, and a source that offends before has all its offences.
func TestForgotten(t *testing.T) {
	const end = time.Hour + 8*time.Hour
	tests := []struct {
		free time.Duration
		want int
	}{
		{0, 2}, {29 * day, 2}, {30 * day, 2}, {30*day + 1, 1}, {90 * day, 1},
	}
	for _, tt := range tests {
		l := New(usual)
		offend(l, home, time.Hour)
		now := at(end + tt.free)
		rec, ok := l.Lookup(home, now)
		listed := len(slices.Collect(l.All(now)))
		if known := tt.want == 2; ok != known || (listed == 1) != known {
			t.Errorf("free for %v: record %+v, %v and %d listed", tt.free, rec, ok, listed)
		}
		if v := offend(l, home, end+tt.free); v.Offences != tt.want || l.Len() != 1 {
			t.Errorf("free for %v: %+v and %d records, want %d offences and 1 record", tt.free, v, l.Len(), tt.want)
		}
	}
}

// Whoever served the longest ban is not forgotten the moment it is over, even if it is as long as Forget.
func TestTopTierIsNotForgotten(t *testing.T) {
	l := New(usual)
	now := time.Duration(0)
	for range 3 {
		now += offend(l, home, now).Timeout
	}
	if v := offend(l, home, now); v.Tier != 3 || v.Offences != 4 {
		t.Errorf("after 30 days: %+v, want tier 3", v)
	}
}

func TestForget(t *testing.T) {
	l := New(usual)
	sources := []netip.Prefix{home, network, netip.MustParsePrefix("192.0.2.1/32")}
	for i, s := range sources {
		offend(l, s, time.Duration(i)*time.Hour)
	}
	offend(l, sources[0], 20*time.Hour) // stays longest
	for i, tt := range []struct {
		now   time.Duration
		drops int
	}{{0, 0}, {30*day + 9*time.Hour, 0}, {30*day + 9*time.Hour + 1, 1}, {30*day + 11*time.Hour, 1}, {33*day + 20*time.Hour, 0}, {34 * day, 1}} {
		if n := l.Forget(at(tt.now)); n != tt.drops {
			t.Errorf("step %d: %d forgotten, want %d", i, n, tt.drops)
		}
	}
	if l.Len() != 0 {
		t.Errorf("%d records are left", l.Len())
	}
}

// A ladder that changes does not change counts, nor the bans that run.
func TestReconfigure(t *testing.T) {
	l := New(usual)
	offend(l, home, 0)
	offend(l, home, 8*time.Hour)
	before, _ := l.Lookup(home, at(9*time.Hour))

	longer := usual
	longer.Ladder = []time.Duration{time.Hour, day, 2 * day, 4 * day}
	l.Reconfigure(longer)
	longer.Ladder[3] = time.Second // the ledger has a copy
	if after, ok := l.Lookup(home, at(9*time.Hour)); !ok || after != before {
		t.Errorf("the record became %+v, was %+v", after, before)
	}
	v := l.Seen(Ban{home, 2, at(8 * time.Hour), at(3*day + 8*time.Hour)}, at(9*time.Hour))
	if v.Edit || v.Offences != 2 || v.Tier != 2 {
		t.Errorf("the running ban: %+v", v)
	}
	offend(l, home, 4*day)
	if v := offend(l, home, 7*day); v.Tier != 4 || v.Timeout != 4*day {
		t.Errorf("the fourth offence: %+v, want tier 4 of 4 days", v)
	}
	l.Reconfigure(Config{Ladder: []time.Duration{time.Hour}, Forget: day})
	if rec, ok := l.Lookup(home, at(7*day)); !ok || rec.Tier != 1 || rec.Offences != 4 {
		t.Errorf("with one tier: %+v", rec)
	}
	if v := offend(l, home, 8*day); v.Tier != 1 || v.Edit || v.Offences != 5 {
		t.Errorf("with one tier: %+v", v)
	}
}

// After a change to a longer ladder, whoever was banned by the shorter one comes free early, and its offence is none known.
func TestReconfigureToLonger(t *testing.T) {
	l := New(Config{Ladder: []time.Duration{2 * time.Second}, Forget: day})
	offend(l, home, 0)
	l.Reconfigure(usual)
	if v := offend(l, home, 2*time.Second); !v.Counted || v.Offences != 2 {
		t.Errorf("the second offence: %+v", v)
	}
}

func TestNotASource(t *testing.T) {
	l := New(usual)
	bad := netip.Prefix{}
	if v := l.Offend(Offence{Source: bad}, 0); v != (Verdict{}) {
		t.Errorf("an offence of nobody: %+v", v)
	}
	if v := l.Seen(Ban{Source: bad, Tier: 1}, 0); v != (Verdict{}) {
		t.Errorf("a ban of nobody: %+v", v)
	}
	if v := l.Seen(Ban{Source: home}, 0); v != (Verdict{}) {
		t.Errorf("a ban in no tier: %+v", v)
	}
	l.BannedByHand(Ban{Source: bad, Tier: 1}, 0)
	l.Unbanned(bad, 0, 0)
	l.Put(Record{Source: bad, Offences: 1}, 0)
	l.Put(Record{Source: home}, 0)
	if _, ok := l.Lookup(bad, 0); ok || l.Len() != 0 {
		t.Errorf("%d records", l.Len())
	}
}

// Sources are told apart by address and length; host bits and the IPv6 way to write an IPv4 address do not matter.
func TestKeys(t *testing.T) {
	var keys []key
	for _, s := range []string{"0.0.0.0/0", "0.0.0.0/32", "203.0.113.7/32", "203.0.113.0/24", "::/0", "::/96", "::/128",
		"2001:db8::/32", "2001:db8::/64", "::ffff:0:0/95"} {
		p := netip.MustParsePrefix(s).Masked()
		k, ok := keyOf(p)
		if !ok || k.prefix() != p || slices.Contains(keys, k) {
			t.Errorf("%s: key %v, %v, stands for %s", s, k, ok, k.prefix())
		}
		keys = append(keys, k)
	}
	for _, same := range [][2]string{{"203.0.113.7/24", "203.0.113.0/24"}, {"2001:db8::7/64", "2001:db8::/64"}, {"::ffff:203.0.113.7/128", "203.0.113.7/32"}} {
		a, _ := keyOf(netip.MustParsePrefix(same[0]))
		b, _ := keyOf(netip.MustParsePrefix(same[1]))
		if a != b {
			t.Errorf("%s and %s differ", same[0], same[1])
		}
	}
}
