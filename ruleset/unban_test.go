package ruleset

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/internal/lab"
	"github.com/portmon/portmon/netnstest"
	"github.com/portmon/portmon/nftset"
)

// names returns the sets of entries and what they are about, in order.
func names(entries []Entry) []string {
	var out []string
	for _, e := range entries {
		out = append(out, e.Set+" "+e.Interval.String())
	}
	slices.Sort(out)
	return out
}

// step returns the step that the table remembers of an address.
func (l *fixture) step(a string) int {
	l.T.Helper()
	return l.lookup(addr(a)).Step
}

// TestUnban lifts bans of all kinds, and forgets what is remembered of their
// sources, or was collected towards one.
func TestUnban(t *testing.T) {
	t.Parallel()
	spec := retrySpec(time.Hour)
	spec.Single6 = []netip.Prefix{prefix("2001:db8:6::/48")}
	l := newTrap(t, spec)
	ban := func(p string, step int) Record {
		return Record{Source: prefix(p), Banned: true, Timeout: time.Hour, Remaining: time.Hour, Step: step, StepRemaining: 2 * time.Hour, Cause: CauseScan}
	}
	l.put(
		ban("198.51.100.1/32", 1), ban("198.51.100.2/32", 2), ban("198.51.100.3/32", 3), ban("198.51.101.1/32", 1), ban("198.51.102.1/32", 1),
		ban("2001:db8:1:1::/64", 1), ban("2001:db8:1:2::/64", 2), ban("2001:db8:1:3::/64", 3), ban("2001:db8:2:1::/64", 1), ban("2001:db8:6:6::6/128", 2),
		Record{Source: prefix("198.51.100.4/32"), Step: 2, StepRemaining: time.Hour}, // free, and known
		Record{Source: prefix("2001:db8:1:4::/64"), Step: 2, StepRemaining: time.Hour},
		Record{Source: prefix("2001:db8:3::/48"), Banned: true, Timeout: time.Hour, Remaining: time.Hour, Cause: CauseSubnet},
		Record{Source: prefix("2001:db8:4::/48"), Banned: true, Timeout: time.Hour, Remaining: time.Hour, Cause: CauseSubnet},
	)
	l.ban(time.Hour, "198.51.100.128/26", "203.0.112.0/23", "2001:db8:1:8000::/49", "2001:db8:8000::/33")
	// Another that nests in one of them, and splits it.
	l.ban(Forever, "203.0.113.64/26")
	// Once more, and they are banned; or two more closed ports.
	l.Offend(addr("198.51.100.9"), addr("198.51.100.9"), addr("2001:db8:1:9::9"), addr("2001:db8:1:9::9"))
	for _, a := range []string{"198.51.100.9", "2001:db8:1:9::9"} {
		for port := uint16(200); port < 203; port++ {
			l.Want(l.SYN(addr(a), port), netnstest.AnswerRST)
		}
	}
	h := l.open()
	for _, tt := range []struct {
		unban   string
		lifted  []string
		covered []string
		free    []string
		banned  []string
	}{
		{"203.0.115.7/32", nil, nil, []string{"203.0.115.7"}, nil},
		{"198.51.100.1/32", []string{"ban4 198.51.100.1"}, nil, []string{"198.51.100.1"}, []string{"198.51.100.2"}},
		{"198.51.100.129/32", nil, []string{"net4 198.51.100.128/26"}, nil, []string{"198.51.100.129"}},
		// 203.0.112.0/23 is in three parts.
		{"203.0.112.0/24", nil, []string{"net4 203.0.112.0-203.0.113.63"}, nil, []string{"203.0.112.1", "203.0.113.65", "203.0.113.130"}},
		{"203.0.113.64/26", []string{"net4 203.0.113.64/26"}, nil, []string{"203.0.113.65"}, []string{"203.0.112.1", "203.0.113.130"}},
		{"203.0.113.64/27", nil, nil, []string{"203.0.113.65"}, []string{"203.0.113.1", "203.0.113.130"}},
		{"203.0.113.0/24", []string{"net4 203.0.113.128/25"}, []string{"net4 203.0.112.0-203.0.113.63"}, []string{"203.0.113.130"}, []string{"203.0.113.1"}},
		{"203.0.112.0/23", []string{"net4 203.0.112.0-203.0.113.63"}, nil, []string{"203.0.112.1", "203.0.113.1"}, nil},
		{"198.51.100.0/24", []string{"ban4 198.51.100.2", "ban4 198.51.100.3", "net4 198.51.100.128/26"}, nil,
			[]string{"198.51.100.2", "198.51.100.3", "198.51.100.129"}, []string{"198.51.101.1"}},
		{"198.51.101.0/28", []string{"ban4 198.51.101.1"}, nil, []string{"198.51.101.1"}, []string{"198.51.102.1"}},
		{"2001:db8:1:1::/64", []string{"ban6 2001:db8:1:1::/64"}, nil, []string{"2001:db8:1:1::1"}, []string{"2001:db8:1:2::1"}},
		{"2001:db8:1:2::5/128", nil, []string{"ban6 2001:db8:1:2::/64"}, nil, []string{"2001:db8:1:2::5"}},
		{"2001:db8:6:6::/64", []string{"ban6 2001:db8:6:6::6"}, nil, []string{"2001:db8:6:6::6"}, nil},
		{"2001:db8:3:3::/64", nil, []string{"subnet6 2001:db8:3::/48"}, nil, []string{"2001:db8:3:3::3"}},
		{"2001:db8:3::/48", []string{"subnet6 2001:db8:3::/48"}, nil, []string{"2001:db8:3:3::3"}, []string{"2001:db8:4:4::4"}},
		{"2001:db8:1::/48", []string{"ban6 2001:db8:1:2::/64", "ban6 2001:db8:1:3::/64", "net6 2001:db8:1:8000::/49"}, nil,
			[]string{"2001:db8:1:2::1", "2001:db8:1:3::1", "2001:db8:1:8000::1"}, []string{"2001:db8:2:1::1"}},
	} {
		lifted, covered, err := h.Unban(prefix(tt.unban))
		if err != nil {
			t.Fatal(err)
		}
		if got := names(lifted); !slices.Equal(got, tt.lifted) {
			t.Errorf("unban %s lifted %q, want %q", tt.unban, got, tt.lifted)
		}
		if got := names(covered); !slices.Equal(got, tt.covered) {
			t.Errorf("unban %s: %q stay, want %q", tt.unban, got, tt.covered)
		}
		for _, a := range tt.free {
			l.Served(addr(a))
		}
		for _, a := range tt.banned {
			l.Cut(addr(a))
		}
	}
	for a, want := range map[string]int{
		"198.51.100.1": 0, "198.51.100.2": 0, "198.51.100.3": 0, "198.51.100.4": 0, "198.51.101.1": 0, "198.51.102.1": 1,
		"2001:db8:1:1::1": 0, "2001:db8:1:2::1": 0, "2001:db8:1:3::1": 0, "2001:db8:1:4::4": 0, "2001:db8:2:1::1": 1, "2001:db8:6:6::6": 0,
	} {
		if got := l.step(a); got != want {
			t.Errorf("step %d of %s is remembered, want %d", got, a, want)
		}
	}
	l.wantBans("198.51.102.1", "2001:db8:2:1::/64", "2001:db8:4::/48", "2001:db8:8000::/33")
	l.Cut(addr("198.51.102.1"), addr("2001:db8:2:1::1"), addr("2001:db8:4:4::4"), addr("2001:db8:8001::1"))
	for _, a := range []string{"198.51.100.9", "2001:db8:1:9::9"} {
		l.Offend(addr(a), addr(a))
		l.Want(l.SYN(addr(a), 203), netnstest.AnswerRST)
		l.Want(l.SYN(addr(a), 204), netnstest.AnswerRST)
		l.Served(addr(a)) // they began anew
	}

	if err := h.UnbanAll(); err != nil {
		t.Fatal(err)
	}
	l.wantBans()
	if left := l.entries(); len(left) > 0 {
		t.Errorf("all are forgiven, but for %v", left)
	}
	for _, a := range []string{"198.51.102.1", "203.0.113.1", "2001:db8:2:1::1", "2001:db8:4:4::4", "2001:db8:8001::1"} {
		l.Served(addr(a))
	}
	for _, a := range []string{"198.51.100.9", "2001:db8:1:9::9"} {
		l.Offend(addr(a))
		l.Served(addr(a))
		l.Offend(addr(a))
		l.Offend(addr(a))
		l.Cut(addr(a))
		if got := l.bans()[banOf(addr(a))]; got.Step != 1 {
			t.Errorf("the ban is %s, want one by step 1", got.text())
		}
	}
	l.Want(l.SYN(addr("172.17.0.9"), lab.TrapTCP), netnstest.AnswerRST) // the whitelist is no set of bans
}

// TestUnbanSeveralAtOnce names more than one, of both families, some of which
// nobody banned.
func TestUnbanSeveralAtOnce(t *testing.T) {
	t.Parallel()
	l := newTrap(t, trapSpec())
	l.ban(time.Hour, "198.51.100.1/32", "198.51.100.2/32", "2001:db8:1:1::/64", "2001:db8:2::/48")
	lifted, covered, err := l.open().Unban(prefix("198.51.100.1/32"), prefix("203.0.113.0/24"), prefix("2001:db8:2:2::/64"), prefix("2001:db8:1::/48"))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := names(lifted), []string{"ban4 198.51.100.1", "ban6 2001:db8:1:1::/64"}; !slices.Equal(got, want) {
		t.Errorf("lifted %q, want %q", got, want)
	}
	if got, want := names(covered), []string{"net6 2001:db8:2::/48"}; !slices.Equal(got, want) {
		t.Errorf("%q stay, want %q", got, want)
	}
	l.Served(addr("198.51.100.1"), addr("2001:db8:1:1::1"))
	l.Cut(addr("198.51.100.2"), addr("2001:db8:2:2::2"))
}

// TestUnbanForgetsOffences has a source offend, be forgiven and offend again.
func TestUnbanForgetsOffences(t *testing.T) {
	t.Parallel()
	l := newTrap(t, trapSpec())
	l.families(func(l *fixture, f family) {
		forgiven, other := l.source(f), l.source(f)
		for range 2 {
			l.Offend(forgiven)
			l.Cut(forgiven)
			if b := l.bans()[banOf(forgiven)]; b.Step != 1 || b.Timeout != 10*time.Minute {
				l.T.Errorf("the ban is %s, want one by step 1", b.text())
			}
			if _, _, err := l.open().Unban(prefix(cidr(banOf(forgiven)))); err != nil {
				l.T.Fatal(err)
			}
			l.Served(forgiven)
		}
		l.Offend(other)
		l.Cut(other)
	})
}

// TestUnbanAloneByCause lifts the bans of one kind, whatever is within them.
func TestUnbanAloneByCause(t *testing.T) {
	t.Parallel()
	l := newTrap(t, trapSpec())
	l.families(func(l *fixture, f family) {
		knocker, scanner, named, bystander := l.source(f), l.source(f), l.source(f), l.source(f)
		l.Offend(knocker)
		l.put(
			Record{Source: prefix(cidr(banOf(scanner))), Banned: true, Timeout: time.Hour, Remaining: time.Hour, Step: 2, StepRemaining: 2 * time.Hour, Cause: CauseScan},
			byHand(prefix(cidr(banOf(named))), time.Hour),
			byHand(netip.PrefixFrom(named, named.BitLen()-1).Masked(), Forever),
		)
		l.Cut(knocker, scanner, named)
		for _, tt := range []struct {
			cause Cause
			n     int
			free  netip.Addr
		}{{CauseHand, 2, named}, {CauseScan, 1, scanner}, {CauseSubnet, 0, bystander}, {CauseTrap, 1, knocker}} {
			h := l.open()
			var wanted []nftset.Interval
			for e, err := range h.Bans() {
				if err != nil {
					l.T.Fatal(err)
				}
				if e.Cause == tt.cause {
					wanted = append(wanted, e.Interval)
				}
			}
			lifted, _, err := h.UnbanAlone(wanted...)
			if err != nil || len(lifted) != tt.n {
				l.T.Errorf("cause %q: lifted %q, want %d bans (%v)", tt.cause, names(lifted), tt.n, err)
			}
			l.Served(tt.free)
			if got := l.step(tt.free.String()); got != 0 {
				l.T.Errorf("step %d of %v is remembered", got, tt.free)
			}
		}
		l.wantBans()
		l.Served(bystander)
		l.Offend(scanner)
		if b := l.bans()[banOf(scanner)]; b.Step != 1 || b.Cause != CauseTrap {
			l.T.Errorf("the ban is %s, want one by step 1 for a trap", b.text())
		}
		l.forgive()
	})
}

// TestUnbanAlone lifts the bans that an address is under, of itself and of its
// network, and leaves those of its neighbours and of what is around it.
func TestUnbanAlone(t *testing.T) {
	t.Parallel()
	l := newTrap(t, trapSpec())
	l.put(Record{Source: prefix("2001:db8:1:1::/64"), Banned: true, Timeout: time.Hour, Remaining: time.Hour, Step: 2, StepRemaining: 2 * time.Hour})
	l.ban(time.Hour, "2001:db8:1:1::7/128", "2001:db8:1:1::8/128", "2001:db8:1:1:8000::/80", "2001:db8::/33", "2001:db8:2:2::/64", "198.51.100.7/32", "198.51.100.8/32")
	l.ban(Forever, "198.51.100.0/29", "198.51.101.0/24", "198.51.102.0/24")
	for _, tt := range []struct{ alone, lifted, covered []string }{
		{[]string{"2001:db8:1:1::/64", "2001:db8:1:1::7/128"}, []string{"ban6 2001:db8:1:1::/64", "ban6 2001:db8:1:1::7"}, []string{"net6 2001:db8::/33"}},
		{[]string{"198.51.100.7/32", "198.51.101.0/24"}, []string{"ban4 198.51.100.7", "net4 198.51.101.0/24"}, []string{"net4 198.51.100.0/29"}},
		{[]string{"2001:db8:3:3::/64", "198.51.102.0/25"}, nil, []string{"net4 198.51.102.0/24", "net6 2001:db8::/33"}},
		{[]string{"198.51.96.0/20", "2001:db8:2::/48"}, nil, []string{"net6 2001:db8::/33"}},
	} {
		var alone []nftset.Interval
		for _, p := range tt.alone {
			alone = append(alone, nftset.Prefix(prefix(p)).Interval)
		}
		lifted, covered, err := l.open().UnbanAlone(alone...)
		if err != nil {
			t.Fatal(err)
		}
		if got := names(lifted); !slices.Equal(got, tt.lifted) {
			t.Errorf("unban %s lifted %q, want %q", tt.alone, got, tt.lifted)
		}
		if got := names(covered); !slices.Equal(got, tt.covered) {
			t.Errorf("unban %s: %q stay, want %q", tt.alone, got, tt.covered)
		}
	}
	if got := l.step("2001:db8:1:1::1"); got != 0 {
		t.Errorf("step %d is remembered", got)
	}
	l.Cut(addr("2001:db8:1:1::8"), addr("2001:db8:2:2::2"), addr("198.51.100.8"), addr("198.51.100.1"), addr("198.51.102.1"))
	l.Served(addr("198.51.101.1"))
}

// TestUnbanOfWhatExpired deletes bans of which some are gone by then.
func TestUnbanOfWhatExpired(t *testing.T) {
	t.Parallel()
	l := newTrap(t, trapSpec())
	l.NFT(`
add element inet portmon ban4 { 198.51.100.1, 198.51.100.3, 198.51.100.5 }
add element inet portmon net6 { 2001:db8:1::/48, 2001:db8:3::/48 }`)
	h := l.open()
	for set, n := range map[string]int{"ban4": 5, "net6": 4} {
		var keys []nftset.Interval
		for i := range n {
			p := prefix(fmt.Sprintf("198.51.100.%d/32", i+1))
			if set == "net6" {
				p = prefix(fmt.Sprintf("2001:db8:%d::/48", i))
			}
			keys = append(keys, nftset.Prefix(p).Interval)
		}
		if err := h.remove(h.Set(set), keys); err != nil {
			t.Errorf("%s: %v", set, err)
		}
	}
	l.wantBans()
}

func TestUnbanWithoutTable(t *testing.T) {
	t.Parallel()
	l := newBareLab(t)
	h := l.open()
	l.wantBans()
	if st, err := h.Lookup(addr("198.51.100.1")); err != nil || st.Banned() || st.Whitelisted != nil || st.Step != 0 || st.Source != prefix("198.51.100.1/32") {
		t.Errorf("Lookup: got %+v, %v", st, err)
	}
	if lifted, covered, err := h.Unban(prefix("198.51.100.0/24")); err != nil || lifted != nil || covered != nil {
		t.Errorf("Unban: got %v, %v, %v", lifted, covered, err)
	}
	if err := h.UnbanAll(); err != nil {
		t.Errorf("UnbanAll: %v", err)
	}
	if lifted, covered, err := h.UnbanAlone(nftset.Prefix(prefix("198.51.100.0/24")).Interval); err != nil || lifted != nil || covered != nil {
		t.Errorf("UnbanAlone: got %v, %v, %v", lifted, covered, err)
	}
}

// TestUnbanAmongExpired lifts bans of which one is over: it takes few
// transactions all the same.
func TestUnbanAmongExpired(t *testing.T) {
	t.Parallel()
	l := newTrap(t, trapSpec())
	const n = 1000
	var records []Record
	keys := []nftset.Interval{nftset.Addr(addr("203.0.113.7")).Interval} // which is not there
	for i := range n {
		a := netip.AddrFrom4([4]byte{198, 51, byte(i >> 8), byte(i)})
		records, keys = append(records, byHand(netip.PrefixFrom(a, 32), time.Hour)), append(keys, nftset.Addr(a).Interval)
	}
	l.put(records...)
	h := l.open()
	if err := h.remove(h.Set(families[0].ban()), keys); err != nil {
		t.Fatal(err)
	}
	l.wantBans()
	if took := l.open().Generation - h.Generation; took > 20 {
		t.Errorf("%d transactions", took)
	}
}

// Whatever the batch was too large for, no part of it is left out or done twice.
func TestHalved(t *testing.T) {
	for _, tooLarge := range []error{unix.EMSGSIZE, unix.ENOBUFS, &nftset.OpError{Err: unix.EMSGSIZE}} {
		var done []int
		err := halved([]int{1, 2, 3, 4, 5, 6, 7}, isTooLarge, func(part []int) error {
			if len(part) > 2 {
				return tooLarge
			}
			done = append(done, part...)
			return nil
		})
		if err != nil || !slices.Equal(done, []int{1, 2, 3, 4, 5, 6, 7}) {
			t.Errorf("%v: %v, error %v", tooLarge, done, err)
		}
	}
	for _, lasting := range []error{unix.EMSGSIZE, unix.EPERM} { // of a single one, too
		if err := halved([]int{1, 2, 3}, isTooLarge, func([]int) error { return lasting }); !errors.Is(err, lasting) {
			t.Errorf("the error is %v, want %v", err, lasting)
		}
	}
}
