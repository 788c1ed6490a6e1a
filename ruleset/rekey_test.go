package ruleset

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/portmon/portmon/internal/lab"
	"github.com/portmon/portmon/nftset"
)

// lasts returns when the last of the bans of an address ends, as the time from
// now.
func (l *fixture) lasts(a string) time.Duration {
	l.T.Helper()
	st, err := l.open().Lookup(addr(a))
	if err != nil {
		l.T.Fatal(err)
	}
	var longest time.Duration
	for _, b := range st.Bans {
		longest = max(longest, b.Remaining)
		if b.Remaining == 0 {
			return MaxBanTime
		}
	}
	return longest
}

// TestReapplyPrefix6KeepsBans bans by one prefix length, and goes over to
// another.
func TestReapplyPrefix6KeepsBans(t *testing.T) {
	t.Parallel()
	for _, to := range []int{56, 128, 63, 65} {
		t.Run(fmt.Sprint(to), func(t *testing.T) {
			t.Parallel()
			spec := trapSpec()
			l := newTrap(t, spec)
			l.Offend(addr("2001:db8:1:10::bad"), addr("198.51.100.7"))
			l.put(
				Record{Source: prefix("2001:db8:1:21::/64"), Banned: true, Timeout: time.Hour, Remaining: time.Hour},
				Record{Source: prefix("2001:db8:1:30::/64"), Banned: true, Timeout: 720 * time.Hour, Remaining: 24 * time.Hour, Comment: "third"},
				Record{Source: prefix("2001:db8:1:40::4/128"), Banned: true, Timeout: time.Hour, Remaining: time.Hour},
				Record{Source: prefix("2001:db8:77::/48"), Banned: true, Timeout: time.Hour, Remaining: time.Hour, Cause: CauseSubnet},
			)
			l.ban(time.Hour, "2001:db8:f00::/40")
			want := map[string]time.Duration{
				"2001:db8:1:10::bad": 10 * time.Minute, "2001:db8:1:10:8000::1": 10 * time.Minute,
				"2001:db8:1:21::1": time.Hour, "2001:db8:1:30::": 24 * time.Hour, "2001:db8:1:40::4": time.Hour,
				"2001:db8:77:7::7": time.Hour, "2001:db8:f01::1": time.Hour, "198.51.100.7": 10 * time.Minute,
			}
			spec.Prefix6 = to
			l.apply(spec)
			l.wantBans("198.51.100.7", "2001:db8:1:10::/64", "2001:db8:1:21::/64", "2001:db8:1:30::/64", "2001:db8:1:40::4", "2001:db8:77::/48", "2001:db8:f00::/40")
			for a, d := range want {
				l.Cut(addr(a))
				if got := l.lasts(a); got > d || got < d-lab.Patience {
					t.Errorf("the ban of %s has %v left, want %v", a, got, d)
				}
			}
			if c := l.bans()["2001:db8:1:30::/64"].Comment; c != "third" {
				t.Errorf("comment %q, want %q", c, "third")
			}
			l.Served(addr("2001:db8:1:11::1"), addr("2001:db8:1:20::1"), addr("2001:db8:1:31::1"), addr("2001:db8:1:40::5"))
			if p := l.prepare(spec); !p.Empty() {
				t.Errorf("there is more to do:\n%s", p)
			}
			// New bans are by the new length.
			l.Offend(addr("2001:db8:2:10::bad"))
			if b := prefix(fmt.Sprintf("2001:db8:2:10::bad/%d", to)).Masked(); l.bans()[trimSingle(b.String())].Step != 1 {
				t.Errorf("%v is not banned", b)
			}
		})
	}
}

// TestReapplyPrefix6ForgetsSteps tells by the next offence what is remembered:
// the steps of IPv4 sources, and of no others.
func TestReapplyPrefix6ForgetsSteps(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ from, to int }{{64, 63}, {64, 56}, {64, 65}, {64, 128}, {128, 64}, {128, 48}} {
		t.Run(fmt.Sprintf("from %d to %d", tt.from, tt.to), func(t *testing.T) {
			t.Parallel()
			spec := trapSpec()
			spec.Prefix6, spec.Subnet6 = tt.from, 0
			l := newTrap(t, spec)
			// The network of the second has the same key whatever its length.
			want := map[string]int{"198.51.100.7": 3, "2001:db8:1:10::bad": 1, "2001:db8:2::": 1}
			for a := range want {
				p := netip.PrefixFrom(addr(a), map[bool]int{true: 32, false: tt.from}[addr(a).Is4()]).Masked()
				l.put(Record{Source: p, Step: 2, StepRemaining: time.Hour, Cause: CauseScan})
			}
			spec.Prefix6 = tt.to
			l.apply(spec)
			if p := l.prepare(spec); !p.Empty() {
				t.Errorf("there is more to do:\n%s", p)
			}
			for a, step := range want {
				l.Offend(addr(a))
				l.Cut(addr(a))
				if st := l.lookup(addr(a)); st.Step != step || len(st.Bans) != 1 || st.Bans[0].Step != step {
					t.Errorf("the next ban of %s is by step %d, want %d: %+v", a, st.Step, step, st)
				}
			}
			l.Served(addr("2001:db8:8::1"))
		})
	}
}

func trimSingle(s string) string { return mustReplace(`/128$`, s, "") }

// TestReapplyPrefix6Overlaps has bans of the old length overlap prefixes that
// are banned: nobody goes free, and nobody earlier.
func TestReapplyPrefix6Overlaps(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name     string
		net, ban string // what is in net6, and in ban6 by /56
		want     map[string]time.Duration
		free     string
	}{
		{"a prefix inside", "2001:db8:1:12::/64 timeout 1h", "2001:db8:1:: timeout 8h",
			map[string]time.Duration{"2001:db8:1:12::1": time.Hour, "2001:db8:1:13::1": 8 * time.Hour, "2001:db8:1:ff::1": 8 * time.Hour}, "2001:db8:1:100::1"},
		{"a prefix inside that lasts longer", "2001:db8:1:12::/64 timeout 2d", "2001:db8:1:: timeout 8h",
			map[string]time.Duration{"2001:db8:1:12::1": 48 * time.Hour, "2001:db8:1:13::1": 8 * time.Hour, "2001:db8:1:ff::1": 8 * time.Hour}, "2001:db8:1:100::1"},
		{"several inside", "2001:db8:1:12::/64 timeout 2d, 2001:db8:1:80::/64, 2001:db8:1:90::1-2001:db8:1:90::5 timeout 1m", "2001:db8:1:: timeout 8h",
			map[string]time.Duration{"2001:db8:1:12::1": 48 * time.Hour, "2001:db8:1:80::1": MaxBanTime, "2001:db8:1:ff::1": 8 * time.Hour}, "2001:db8:1:100::1"},
		{"the same", "2001:db8:1::/56 timeout 1h", "2001:db8:1:: timeout 8h",
			map[string]time.Duration{"2001:db8:1:12::1": 8 * time.Hour}, "2001:db8:1:100::1"},
		{"a prefix around", "2001:db8:1::/48 timeout 9h", "2001:db8:1:: timeout 8h",
			map[string]time.Duration{"2001:db8:1:12::1": 9 * time.Hour, "2001:db8:1:100::1": 9 * time.Hour}, "2001:db8:2::1"},
		{"a prefix around that ends earlier", "2001:db8:1::/48 timeout 1h", "2001:db8:1:: timeout 8h",
			map[string]time.Duration{"2001:db8:1:12::1": 8 * time.Hour, "2001:db8:1:100::1": time.Hour}, "2001:db8:2::1"},
		{"a range across", "2001:db8:1:80::-2001:db8:1:180:: timeout 1h", "2001:db8:1:: timeout 8h",
			map[string]time.Duration{"2001:db8:1:12::1": 8 * time.Hour, "2001:db8:1:81::1": 8 * time.Hour, "2001:db8:1:101::1": time.Hour}, "2001:db8:1:200::1"},
		{"beside each other", "2001:db8:1:100::/56 timeout 1h", "2001:db8:1:: timeout 8h",
			map[string]time.Duration{"2001:db8:1:12::1": 8 * time.Hour, "2001:db8:1:112::1": time.Hour}, "2001:db8:1:200::1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			spec := trapSpec()
			spec.Prefix6 = 56
			l := newTrap(t, spec)
			l.NFT(fmt.Sprintf("add element inet portmon ban6 { %s }\nadd element inet portmon net6 { %s }", tt.ban, tt.net))
			l.ban(time.Hour, "2001:db8:fff::/48") // the rule that asks the set comes with it
			check := func(when string) {
				t.Helper()
				for a, d := range tt.want {
					l.Cut(addr(a))
					if got := l.lasts(a); got < d-lab.Patience {
						t.Errorf("%s, %s is banned for %v, want %v", when, a, got, d)
					}
				}
				l.Served(addr(tt.free))
				if t.Failed() {
					t.FailNow()
				}
			}
			check("before")
			for _, bits := range []int{64, 128, 56} {
				spec.Prefix6 = bits
				l.apply(spec)
				check(fmt.Sprintf("with /%d", bits))
				if p := l.prepare(spec); !p.Empty() {
					t.Errorf("with /%d there is more to do:\n%s", bits, p)
				}
			}
		})
	}
}

// TestManyBansMoveAndGo has as many bans as a busy host: what is quadratic in
// the kernel takes minutes.
func TestManyBansMoveAndGo(t *testing.T) {
	t.Parallel()
	n := 20_000
	if !largeTransactions(t) {
		n = 1000
	}
	l := newBareLab(t)
	spec := Default()
	l.apply(spec)
	var bans []nftset.Element
	for i := range n {
		key := nftset.AddrKey(netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, byte(i >> 16), byte(i >> 8), byte(i)}))
		bans = append(bans, nftset.Single(key))
	}
	l.addMany("ban6", bans)
	d := work(t, func() {
		spec.Prefix6 = 128
		l.apply(spec)
		if bans := l.bans(); len(bans) != n || bans["2001:db8:0:300::/64"].Set != "net6" {
			t.Errorf("%d bans, want %d in net6", len(bans), n)
		}
		spec.Whitelist = append(spec.Whitelist, prefix("2001:db8::/32"))
		if r := l.apply(spec); len(r.Lifted) != n {
			t.Errorf("%d bans were lifted, want %d", len(r.Lifted), n)
		}
		l.wantBans()
	})
	if d > 3*lab.Patience {
		t.Errorf("it took %v", d)
	}
}
