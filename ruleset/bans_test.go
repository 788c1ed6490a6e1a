package ruleset

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/portmon/portmon/netnstest"
	"github.com/portmon/portmon/nftset"
)

// lookup returns what Lookup says of an address, and its bans in short: their sets, and what is banned.
func (l *lab) lookup(a string) (sets []string, st Standing) {
	l.t.Helper()
	st, err := l.read().Lookup(l.conn, addr(a))
	if err != nil {
		l.t.Fatal(err)
	}
	for _, b := range st.Bans {
		sets = append(sets, b.Set+" "+b.Interval.String())
		if !b.Contains(nftset.AddrKey(addr(a))) {
			l.t.Errorf("Lookup(%s) gives the ban of %v", a, b.Interval)
		}
	}
	return sets, st
}

// TestLookupSaysWhatThePacketPathDoes asks about addresses, and sends packets from them.
func TestLookupSaysWhatThePacketPathDoes(t *testing.T) {
	spec := trapSpec()
	spec.Whitelist = []netip.Prefix{prefix("203.0.113.64/26"), prefix("2001:db8:7:7::9/128")}
	l := newTrap(t, spec)
	l.nft(`
add element inet portmon ban4 { 198.51.100.1, 198.51.100.3, 203.0.113.77 }
add element inet portmon ban4_2 { 198.51.100.2 timeout 1h, 198.51.100.3 }
add element inet portmon ban4_3 { 198.51.100.3 comment "three times" }
add element inet portmon net4 { 203.0.113.0/24, 198.51.100.3 timeout 5m }
add element inet portmon ban6 { 2001:db8:1:1::, 2001:db8:7:7:: }
add element inet portmon net6 { 2001:db8:2::/48, 2001:db8:1:1::/65 }`)
	for _, tt := range []struct {
		addr        string
		sets        []string
		whitelisted string
	}{
		{"198.51.100.1", []string{"ban4 198.51.100.1"}, ""},
		{"198.51.100.2", []string{"ban4_2 198.51.100.2"}, ""},
		{"198.51.100.3", []string{"ban4_3 198.51.100.3", "ban4_2 198.51.100.3", "ban4 198.51.100.3", "net4 198.51.100.3"}, ""},
		{"198.51.100.4", nil, ""},
		{"203.0.113.0", []string{"net4 203.0.113.0/24"}, ""},
		{"203.0.113.255", []string{"net4 203.0.113.0/24"}, ""},
		{"203.0.114.0", nil, ""},
		{"203.0.113.77", []string{"ban4 203.0.113.77", "net4 203.0.113.0/24"}, "203.0.113.64/26"},
		{"2001:db8:1:1::1", []string{"ban6 2001:db8:1:1::/64", "net6 2001:db8:1:1::/65"}, ""},
		{"2001:db8:1:1:8000::1", []string{"ban6 2001:db8:1:1::/64"}, ""},
		{"2001:db8:1:2::1", nil, ""},
		{"2001:db8:2:ffff::1", []string{"net6 2001:db8:2::/48"}, ""},
		{"2001:db8:7:7::8", []string{"ban6 2001:db8:7:7::/64"}, ""},
		{"2001:db8:7:7::9", []string{"ban6 2001:db8:7:7::/64"}, "2001:db8:7:7::9"},
	} {
		sets, st := l.lookup(tt.addr)
		if !slices.Equal(sets, tt.sets) {
			t.Errorf("%s is banned by %q, want %q", tt.addr, sets, tt.sets)
		}
		whitelisted := ""
		if st.Whitelisted != nil {
			whitelisted = st.Whitelisted.String()
		}
		if whitelisted != tt.whitelisted {
			t.Errorf("%s is whitelisted by %q, want %q", tt.addr, whitelisted, tt.whitelisted)
		}
		if st.Banned() {
			l.cut(addr(tt.addr))
		} else {
			l.served(addr(tt.addr))
		}
		if want := len(tt.sets) > 0 && tt.whitelisted == ""; st.Banned() != want {
			t.Errorf("%s: Banned() = %v", tt.addr, !want)
		}
	}
	// Other ways to write them.
	if sets, _ := l.lookup("::ffff:198.51.100.2"); !slices.Equal(sets, []string{"ban4_2 198.51.100.2"}) {
		t.Errorf("mapped, it is banned by %q", sets)
	}
	if _, st := l.lookup("fe80::1%eth0"); st.Whitelisted == nil || st.Whitelisted.String() != "fe80::/10" {
		t.Errorf("with a zone, it is whitelisted by %v", st.Whitelisted)
	}
	_, st := l.lookup("198.51.100.3")
	for i, want := range []struct {
		tier    int
		timeout time.Duration
		comment string
	}{{3, 30 * 24 * time.Hour, "three times"}, {2, 3 * 24 * time.Hour, ""}, {1, 8 * time.Hour, ""}, {0, 5 * time.Minute, ""}} {
		if b := st.Bans[i]; b.Tier != want.tier || b.Timeout != want.timeout || b.Comment != want.comment || b.Expires > b.Timeout || b.Expires < b.Timeout-patience {
			t.Errorf("ban %d is of tier %d for %v with %v left, %q, want %+v", i, b.Tier, b.Timeout, b.Expires, b.Comment, want)
		}
	}
}

func TestBanByHand(t *testing.T) {
	spec := trapSpec()
	spec.Whitelist = []netip.Prefix{prefix("198.51.100.0/25"), prefix("2001:db8:5::/48")}
	for _, tt := range []struct {
		name   string
		before string // elements of the family's set of prefixes
		ban    string
		d      time.Duration
		want   string // the set and what is banned; or the error
		expiry time.Duration
		in     string
		out    string
	}{
		{"address", "", "203.0.113.7/32", time.Hour, "ban4 203.0.113.7", time.Hour, "203.0.113.7", "203.0.113.8"},
		{"network of IPv6", "", "2001:db8:1:1::/64", time.Hour, "ban6 2001:db8:1:1::/64", time.Hour, "2001:db8:1:1:f::1", "2001:db8:1:2::1"},
		{"address of IPv6", "", "2001:db8:1:1::7/128", time.Hour, "net6 2001:db8:1:1::7", time.Hour, "2001:db8:1:1::7", "2001:db8:1:1::8"},
		{"host bits", "", "203.0.113.7/24", time.Hour, "net4 203.0.113.0/24", time.Hour, "203.0.113.255", "203.0.112.255"},
		{"prefix", "", "2001:db8:1::/48", time.Minute, "net6 2001:db8:1::/48", time.Minute, "2001:db8:1:ffff::", "2001:db8:2::"},
		{"for ever", "", "203.0.113.7/32", Forever, "net4 203.0.113.7", 0, "203.0.113.7", "203.0.113.6"},
		{"network of IPv6 for ever", "", "2001:db8:1:1::/64", Forever, "net6 2001:db8:1:1::/64", 0, "2001:db8:1:1::", "2001:db8:1:2::"},
		{"longer than any tier", "", "203.0.113.7/32", 300 * 24 * time.Hour, "ban4 203.0.113.7", 300 * 24 * time.Hour, "203.0.113.7", "203.0.113.6"},
		{"around smaller ones", "203.0.113.0/26 timeout 2h, 203.0.113.64/26, 203.0.114.0/24 timeout 1h", "203.0.113.0/24", time.Hour,
			"net4 203.0.113.0/24", 0, "203.0.113.200", "203.0.112.1"},
		{"around one that lasts longer", "203.0.113.0/26 timeout 2h", "203.0.113.0/24", time.Hour, "net4 203.0.113.0/24", 2 * time.Hour, "203.0.113.200", "203.0.114.1"},
		{"around one that ends earlier", "203.0.113.0/26 timeout 1m", "203.0.113.0/24", time.Hour, "net4 203.0.113.0/24", time.Hour, "203.0.113.1", "203.0.114.1"},
		{"again, shorter", "203.0.113.0/24 timeout 2h", "203.0.113.0/24", time.Hour, "net4 203.0.113.0/24", time.Hour, "203.0.113.1", "203.0.114.1"},
		{"again, not for ever", "203.0.113.0/24", "203.0.113.0/24", time.Hour, "net4 203.0.113.0/24", time.Hour, "203.0.113.1", "203.0.114.1"},
		{"inside a larger one", "203.0.112.0/23 timeout 2h", "203.0.113.0/24", 3 * time.Hour, "203.0.113.0/24 is inside 203.0.112.0/23, which is banned", 2 * time.Hour, "203.0.113.1", "203.0.114.1"},
		{"whitelisted", "", "198.51.100.7/32", time.Hour, "198.51.100.7 is whitelisted by 198.51.100.0/25", -1, "", "198.51.100.7"},
		{"whitelisted network", "", "2001:db8:5:5::/64", Forever, "2001:db8:5:5::/64 is whitelisted by 2001:db8:5::/48", -1, "", "2001:db8:5:5::1"},
		{"whitelisted in part", "", "198.51.100.0/24", time.Hour, "net4 198.51.100.0/24", time.Hour, "198.51.100.128", "198.51.100.127"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			l := newTrap(t, spec)
			p := netip.MustParsePrefix(tt.ban)
			if tt.before != "" {
				l.nft(fmt.Sprintf("add element inet portmon %s { %s }", ofAddr(p.Addr()).net(), tt.before))
			}
			var whitelisted *WhitelistedError
			var covered *CoveredError
			b, err := l.read().Ban(l.conn, p, tt.d, "by hand")
			switch {
			case errors.As(err, &whitelisted):
				if got := err.Error(); got != tt.want || whitelisted.Prefix != p.Masked() {
					t.Errorf("got %q for %v, want %q", got, whitelisted.Prefix, tt.want)
				}
			case errors.As(err, &covered):
				if got := err.Error(); got != tt.want || covered.Prefix != p.Masked() {
					t.Errorf("got %q for %v, want %q", got, covered.Prefix, tt.want)
				}
			case err != nil:
				t.Fatal(err)
			default:
				if got := b.Set + " " + b.Interval.String(); got != tt.want || b.Comment != "by hand" || (b.Expires-tt.expiry).Abs() > patience {
					t.Errorf("got %s with %v left, %q, want %s with %v left", got, b.Expires, b.Comment, tt.want, tt.expiry)
				}
				have := l.bans()[b.Interval.String()]
				if have.Set != b.Set || have.Tier != b.Tier || (have.Expires-b.Expires).Abs() > patience || (have.Expires == 0) != (b.Expires == 0) || have.Comment != "by hand" {
					t.Errorf("the kernel has %v in %s with %v left, %q; Ban said in %s with %v left", have.Interval, have.Set, have.Expires, have.Comment, b.Set, b.Expires)
				}
			}
			if tt.in != "" {
				l.cut(addr(tt.in))
			}
			l.served(addr(tt.out))
		})
	}
}

// TestBanByHandAgain renews a ban of the packet path, and one of its own.
func TestBanByHandAgain(t *testing.T) {
	l := newTrap(t, trapSpec())
	l.families(func(l *lab, f family) {
		src := l.source(f)
		l.offend(src)
		for i, d := range []time.Duration{time.Minute, 30 * 24 * time.Hour, time.Hour} {
			if _, err := l.read().Ban(l.conn, l.read().Source(src), d, fmt.Sprint(i)); err != nil {
				l.t.Fatal(err)
			}
			b := l.bans()[banOf(src)]
			if b.Timeout != d || b.Expires > d || b.Expires < d-patience || b.Tier != 1 || b.Comment != fmt.Sprint(i) {
				l.t.Errorf("banned again for %v, it is for %v with %v left, in tier %d, %q", d, b.Timeout, b.Expires, b.Tier, b.Comment)
			}
			l.cut(src)
		}
	})
}

// TestUnban lifts bans of all kinds, and forgets what was collected towards one.
func TestUnban(t *testing.T) {
	l := newTrap(t, retrySpec(time.Hour))
	l.nft(`
add element inet portmon ban4 { 198.51.100.1, 198.51.100.2, 198.51.101.1 }
add element inet portmon ban4_3 { 198.51.100.1 }
add element inet portmon net4 { 198.51.100.128/26, 203.0.112.0/23 }
add element inet portmon ban6 { 2001:db8:1:1::, 2001:db8:1:2::, 2001:db8:2:1:: }
add element inet portmon ban6_2 { 2001:db8:1:1:: }
add element inet portmon net6 { 2001:db8:1:8000::/49, 2001:db8:8000::/33 }`)
	l.offend(addr("198.51.100.9"), addr("198.51.100.9"), addr("2001:db8:1:9::9"), addr("2001:db8:1:9::9")) // once more, and they are banned
	for _, tt := range []struct {
		unban  string
		lifted []string
		inside string
		free   []string
	}{
		{"203.0.115.7/32", nil, "", []string{"203.0.115.7"}},
		{"198.51.100.1/32", []string{"ban4_3 198.51.100.1", "ban4 198.51.100.1"}, "", []string{"198.51.100.1"}},
		{"198.51.100.129/32", nil, "198.51.100.128/26", nil},
		{"203.0.113.0/24", nil, "203.0.112.0/23", nil},
		{"198.51.100.0/24", []string{"ban4 198.51.100.2", "net4 198.51.100.128/26"}, "", []string{"198.51.100.2", "198.51.100.129", "198.51.100.9"}},
		{"2001:db8:1:1::/64", []string{"ban6_2 2001:db8:1:1::/64", "ban6 2001:db8:1:1::/64"}, "", []string{"2001:db8:1:1::1"}},
		{"2001:db8:1:2::5/128", nil, "2001:db8:1:2::/64", nil},
		{"2001:db8:1::/48", []string{"ban6 2001:db8:1:2::/64", "net6 2001:db8:1:8000::/49"}, "", []string{"2001:db8:1:2::1", "2001:db8:1:8000::1", "2001:db8:1:9::9"}},
	} {
		lifted, inside, err := l.read().Unban(l.conn, netip.MustParsePrefix(tt.unban))
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, b := range lifted {
			got = append(got, b.Set+" "+b.Interval.String())
		}
		if !slices.Equal(got, tt.lifted) {
			t.Errorf("unban %s lifted %q, want %q", tt.unban, got, tt.lifted)
		}
		if (inside == nil) != (tt.inside == "") || inside != nil && inside.Interval.String() != tt.inside {
			t.Errorf("%s is inside %v, want %q", tt.unban, inside, tt.inside)
		}
		for _, a := range tt.free {
			l.served(addr(a))
		}
	}
	l.wantBans("198.51.101.1", "203.0.112.0/23", "2001:db8:2:1::/64", "2001:db8:8000::/33")
	l.cut(addr("198.51.101.1"), addr("203.0.113.1"), addr("2001:db8:2:1::1"), addr("2001:db8:8001::1"))
	for _, a := range []string{"198.51.100.9", "2001:db8:1:9::9"} {
		l.offend(addr(a), addr(a))
		l.served(addr(a)) // they began anew
	}

	if err := l.read().UnbanAll(l.conn); err != nil {
		t.Fatal(err)
	}
	l.wantBans()
	for _, a := range []string{"198.51.101.1", "203.0.113.1", "2001:db8:2:1::1", "2001:db8:8001::1"} {
		l.served(addr(a))
	}
	for _, a := range []string{"198.51.100.9", "2001:db8:1:9::9"} {
		l.offend(addr(a))
		l.served(addr(a))
		l.offend(addr(a))
		l.offend(addr(a))
		l.cut(addr(a))
	}
	l.want(l.syn(addr("172.17.0.9"), trapTCP), netnstest.AnswerRST) // the whitelist is no set of bans
}

// TestUnbanOfWhatExpired deletes bans of which some are gone by then.
func TestUnbanOfWhatExpired(t *testing.T) {
	l := newTrap(t, trapSpec())
	l.nft(`
add element inet portmon ban4 { 198.51.100.1, 198.51.100.3, 198.51.100.5 }
add element inet portmon net6 { 2001:db8:1::/48, 2001:db8:3::/48 }`)
	s := l.read()
	for set, n := range map[string]int{"ban4": 5, "net6": 4} {
		var keys []nftset.Element
		for i := range n {
			p := prefix(fmt.Sprintf("198.51.100.%d/32", i+1))
			if set == "net6" {
				p = prefix(fmt.Sprintf("2001:db8:%d::/48", i))
			}
			keys = append(keys, nftset.Element{Interval: nftset.FromPrefix(p)})
		}
		if err := remove(l.conn, s.Set(set), keys); err != nil {
			t.Errorf("%s: %v", set, err)
		}
	}
	l.wantBans()
}

func TestBansWithoutTable(t *testing.T) {
	l := newBareLab(t)
	s := l.read()
	l.wantBans()
	if st, err := s.Lookup(l.conn, addr("198.51.100.1")); err != nil || st.Banned() || st.Whitelisted != nil {
		t.Errorf("Lookup: got %+v, %v", st, err)
	}
	if lifted, inside, err := s.Unban(l.conn, prefix("198.51.100.0/24")); err != nil || lifted != nil || inside != nil {
		t.Errorf("Unban: got %v, %v, %v", lifted, inside, err)
	}
	if err := s.UnbanAll(l.conn); err != nil {
		t.Errorf("UnbanAll: %v", err)
	}
	for _, d := range []time.Duration{time.Hour, Forever} {
		if _, err := s.Ban(l.conn, prefix("198.51.100.1/32"), d, ""); err == nil {
			t.Error("Ban found a set where there is no table")
		}
	}
	// The table that State knows is gone.
	l.apply(trapSpec())
	s = l.read()
	if _, err := Remove(l.conn, "portmon"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Ban(l.conn, prefix("198.51.100.1/32"), time.Hour, ""); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Ban in a table that is gone: got %v, want os.ErrNotExist", err)
	}
}

// TestPrefixesExpire has bans of prefixes end, side by side with others that go on, and new ones come: each bans what it says and no more,
// all the time. An interval that lost its end would ban everybody above.
func TestPrefixesExpire(t *testing.T) {
	for _, wait := range []bool{false, true} { // for the kernel to take out what has expired, which it does once a second
		l := newTrap(t, trapSpec())
		s := l.read()
		long := []string{"198.51.100.0/24", "198.51.102.0/24", "203.0.113.0/24", "2001:db8:5::/48", "2001:db8:7::/48"}
		short := []string{"198.51.99.0/24", "198.51.101.0/24", "198.51.103.0/24", "203.0.112.0/24", "2001:db8:6::/48", "2001:db8:8::/48", "2001:db8:4::/48"}
		ban := func(p string, d time.Duration) {
			t.Helper()
			if _, err := s.Ban(l.conn, prefix(p), d, "test"); err != nil {
				t.Fatal(err)
			}
		}
		for i := range short {
			if i < len(long) {
				ban(long[i], time.Hour)
			}
			ban(short[i], time.Second)
		}
		check := func(alive ...string) {
			t.Helper()
			var want []string
			for _, p := range alive {
				want = append(want, p)
				l.cut(prefix(p).Addr().Next())
			}
			l.wantBans(want...)
			l.served(addr("198.51.98.1"), addr("198.51.105.1"), addr("203.0.111.1"), addr("203.0.114.1"), addr("2001:db8:3::1"), addr("2001:db8:9::1"))
		}
		await(t, "the short ones end", func() bool { return len(l.bans()) == len(long) })
		if wait {
			time.Sleep(3 * time.Second)
		}
		check(long...)
		for _, p := range short {
			l.served(prefix(p).Addr().Next())
		}
		ban(short[1], time.Hour)
		ban("198.51.104.0/24", time.Hour)
		ban("2001:db8:6::/48", time.Hour)
		check(append(slices.Clone(long), short[1], "198.51.104.0/24", "2001:db8:6::/48")...)
		time.Sleep(2 * time.Second) // again, until the kernel has taken out what expired: it tells nobody
		check(append(slices.Clone(long), short[1], "198.51.104.0/24", "2001:db8:6::/48")...)
	}
}
