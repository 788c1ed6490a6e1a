package ruleset

import (
	"errors"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"github.com/portmon/portmon/internal/lab"
	"github.com/portmon/portmon/netnstest"
)

func TestWhitelistedAreNeverBanned(t *testing.T) {
	t.Parallel()
	spec := trapSpec()
	spec.Whitelist = []netip.Prefix{prefix("198.51.100.0/25"), prefix("203.0.113.9/32"), prefix("2001:db8:5::/48"), prefix("2001:db8:6::9/128")}
	l := newTrap(t, spec)
	for _, tt := range []struct {
		in, out string
		banned  string // by what the one outside is banned
	}{
		{"198.51.100.0", "198.51.99.255", "198.51.99.255"},
		{"198.51.100.127", "198.51.100.128", "198.51.100.128"},
		{"203.0.113.9", "203.0.113.10", "203.0.113.10"},
		{"2001:db8:5:77::1", "2001:db8:4:ffff::1", "2001:db8:4:ffff::/64"},
		{"2001:db8:5:ffff:ffff::", "2001:db8:6:1::9", "2001:db8:6:1::/64"},
		// The whitelist is asked for the address, bans for its /64.
		{"2001:db8:6::9", "2001:db8:6::8", "2001:db8:6::/64"},
	} {
		t.Run(tt.in, func(t *testing.T) {
			l := l.with(t)
			in, out := addr(tt.in), addr(tt.out)
			before := l.counters()
			for range 20 {
				l.Want(l.SYN(in, lab.TrapTCP), netnstest.AnswerRST)
				l.Want(l.TCP(in, lab.TrapTCP, fin|psh|urg), netnstest.AnswerRST)
				l.Want(l.UDP(in, trapUDP), netnstest.AnswerPortUnreachable)
			}
			l.Served(in)
			if after := l.counters(); after[CounterTrapped] != before[CounterTrapped] {
				t.Errorf("counter trapped went from %d to %d", before[CounterTrapped], after[CounterTrapped])
			}
			l.Offend(out)
			l.Cut(out)
			l.Served(in)
			if bans := l.bans(); bans[tt.banned].Step != 1 {
				t.Errorf("%s is not banned", tt.banned)
			}
		})
	}
	if n := len(l.bans()); n != 6 {
		t.Errorf("%d bans, want those of the 6 outside", n)
	}
}

func TestDefaultSpecSparesPrivateNetworks(t *testing.T) {
	t.Parallel()
	spec := trapSpec()
	spec.Whitelist = Default().Whitelist
	l := newTrap(t, spec)
	for _, src := range []string{"10.1.2.3", "172.17.0.2", "192.168.1.7", "100.64.0.9", "fd00:17::2", "169.254.3.4"} {
		l.Want(l.SYN(addr(src), lab.TrapTCP), netnstest.AnswerRST)
	}
	l.wantBans()
	l.Offend(addr("172.32.0.2"), addr("2001:db8:17::2"))
	l.wantBans("172.32.0.2", "2001:db8:17::/64")
}

// TestWhitelistLiftsBans whitelists who is banned already, in every kind of
// set.
func TestWhitelistLiftsBans(t *testing.T) {
	t.Parallel()
	spec := trapSpec()
	l := newTrap(t, spec)
	l.Offend(addr("198.51.100.9"), addr("198.51.101.9"), addr("2001:db8:5:6::9"), addr("2001:db8:6:6::9"), addr("2001:db8:7:7::9"))
	l.ban(Forever, "198.51.100.128/25", "2001:db8:8::/48", "198.51.100.9/32")
	l.ban(24*time.Hour, "203.0.113.0/24", "2001:db8:5:8000::/49", "2001:db8:5:6::7/128")
	l.put(Record{Source: prefix("2001:db8:5::/48"), Banned: true, Timeout: time.Hour, Remaining: time.Hour, Cause: CauseSubnet})
	all := []string{"198.51.100.9", "198.51.100.200", "203.0.113.9", "203.0.113.10", "2001:db8:5:6::9", "2001:db8:5:8001::9", "2001:db8:7:7::9"}
	for _, a := range all {
		l.Cut(addr(a))
	}

	spec.Whitelist = []netip.Prefix{prefix("198.51.100.0/24"), prefix("203.0.113.9/32"), prefix("2001:db8:5::/48"), prefix("2001:db8:7:7::9/128")}
	r := l.apply(spec)

	// 198.51.100.9 was in two sets.
	lifted := map[string]int{}
	for _, b := range r.Lifted {
		lifted[b.Interval.String()]++
	}
	for what, n := range map[string]int{
		"198.51.100.9": 2, "198.51.100.128/25": 1, "2001:db8:5:6::/64": 1, "2001:db8:5:6::7": 1, "2001:db8:5:8000::/49": 1, "2001:db8:5::/48": 1,
	} {
		if lifted[what] != n {
			t.Errorf("Lifted names %s %d times, want %d", what, lifted[what], n)
		}
		delete(lifted, what)
	}
	if len(lifted) > 0 {
		t.Errorf("Lifted names %v as well", lifted)
	}
	// Who is banned by more than what is whitelisted stays banned, but for what
	// is.
	l.wantBans("198.51.101.9", "203.0.113.0/24", "2001:db8:6:6::/64", "2001:db8:7:7::/64", "2001:db8:8::/48")
	for _, a := range []string{"198.51.100.9", "198.51.100.200", "203.0.113.9", "2001:db8:5:6::9", "2001:db8:5:8001::9", "2001:db8:7:7::9"} {
		l.Served(addr(a))
		l.Want(l.SYN(addr(a), lab.TrapTCP), netnstest.AnswerRST)
	}
	for _, a := range []string{"198.51.101.9", "203.0.113.10", "2001:db8:6:6::9", "2001:db8:7:7::8", "2001:db8:8::9"} {
		l.Cut(addr(a))
	}
	if p := l.prepare(spec); !p.Empty() {
		t.Errorf("there is more to do:\n%s", p)
	}

	// Who is not whitelisted any more is free.
	spec.Whitelist = nil
	l.apply(spec)
	l.Served(addr("198.51.100.9"), addr("2001:db8:5:6::9"))
	l.Cut(addr("203.0.113.9"), addr("2001:db8:7:7::9"))
	l.Offend(addr("198.51.100.9"), addr("2001:db8:5:6::9"))
	l.Cut(addr("198.51.100.9"), addr("2001:db8:5:6::9"))
}

// TestHostMayKnockOnItself connects the host to its own traps, by every address
// that it has.
func TestHostMayKnockOnItself(t *testing.T) {
	t.Parallel()
	spec := trapSpec()
	spec.Whitelist = nil
	l := newTrap(t, spec)
	l.Host.AddAddr("lo", "203.0.113.77/32")
	own := []netip.Addr{addr("127.0.0.1"), addr("127.7.7.7"), addr("::1"), l.Link.B.IPv4, l.Link.B.IPv6, addr("203.0.113.77")}
	knock := func() {
		t.Helper()
		for _, a := range own {
			if err := l.Host.Exchange("tcp", a, at(a, lab.TrapTCP), 3*time.Second); !errors.Is(err, syscall.ECONNREFUSED) {
				t.Fatalf("TCP from %v to its own trap: %v, want ECONNREFUSED", a, err)
			}
			if err := l.Host.Exchange("udp", a, at(a, trapUDP), 3*time.Second); !errors.Is(err, syscall.ECONNREFUSED) {
				t.Fatalf("UDP from %v to its own trap: %v, want ECONNREFUSED", a, err)
			}
			if err := l.Host.Exchange("tcp", a, at(a, lab.OpenTCP), 3*time.Second); err != nil {
				t.Fatalf("from %v to the open port: %v", a, err)
			}
		}
	}
	knock()
	l.wantBans()

	// In the name of the host from outside: the kernel itself refuses this for
	// IPv4. It must not ban the host.
	l.Internet.Send(l.SYN(l.Link.B.IPv4, lab.TrapTCP))
	l.Internet.Send(l.SYN(l.Link.B.IPv6, lab.TrapTCP))
	l.Internet.Send(l.UDP(l.Link.B.IPv6, trapUDP))
	l.wantBans()

	// Even banned by hand, it can talk to itself.
	l.NFT(`
add element inet portmon ban4 { 192.0.2.2, 203.0.113.77, 127.0.0.1 }
add element inet portmon ban6 { 2001:db8:: }`)
	knock()
}

// TestWhitelistLiftsAllPrefixes leaves nothing to ask for: the rules go with
// the last of them, in the same transaction.
func TestWhitelistLiftsAllPrefixes(t *testing.T) {
	t.Parallel()
	spec := trapSpec()
	l := newTrap(t, spec)
	l.ban(time.Hour, "198.51.100.0/25", "198.51.100.192/26", "2001:db8:5:8000::/49")
	spec.Whitelist = []netip.Prefix{prefix("198.51.100.0/24"), prefix("2001:db8:5::/48")}
	if r := l.apply(spec); len(r.Lifted) != 3 {
		t.Errorf("%d bans were lifted, want 3", len(r.Lifted))
	}
	l.wantBans()
	l.Served(addr("198.51.100.1"), addr("198.51.100.193"), addr("2001:db8:5:8000::1"))
	for _, f := range families {
		if n := l.asked(f); n != 0 {
			t.Errorf("%d rules ask %s", n, f.net())
		}
	}
	if p := l.prepare(spec); !p.Empty() {
		t.Errorf("there is more to do:\n%s", p)
	}
}
