package ruleset

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/internal/lab"
	"github.com/portmon/portmon/internal/nflog"
	"github.com/portmon/portmon/netnstest"
	"github.com/portmon/portmon/nftset"
)

// subnetCase is a subnet, of which each source is banned by itself at first.
type subnetCase struct {
	subnet    string
	source    func(i int) netip.Addr // of the subnet
	neighbour func(i int) netip.Addr // of the one beside it
	single    func(i int) netip.Addr // an address of the first source
}

var subnetCases = [...]subnetCase{
	{
		"203.0.113.0/24",
		func(i int) netip.Addr { return netip.AddrFrom4([4]byte{203, 0, 113, byte(i + 1)}) },
		func(i int) netip.Addr { return netip.AddrFrom4([4]byte{203, 0, 112, byte(i + 1)}) },
		func(int) netip.Addr { return addr("203.0.113.1") },
	},
	{
		"2001:db8:113::/48",
		func(i int) netip.Addr { return addr(fmt.Sprintf("2001:db8:113:%x::1", i)) },
		func(i int) netip.Addr { return addr(fmt.Sprintf("2001:db8:114:%x::1", i)) },
		func(i int) netip.Addr { return addr(fmt.Sprintf("2001:db8:113::%x", i+1)) },
	},
}

// TestSubnet has the eighth source of a subnet that offends be the one for
// which all of it is banned.
func TestSubnet(t *testing.T) {
	t.Parallel()
	for _, n := range []int{1, 2, 8} {
		t.Run(fmt.Sprintf("%d sources", n), func(t *testing.T) {
			spec := trapSpec()
			spec.Subnet4, spec.Subnet6 = n, n
			l := newTrap(t, spec)
			l.families(func(l *fixture, f family) {
				c := subnetCases[index(f)]
				inside := c.source(200)
				for i := range n - 1 {
					l.Offend(c.source(i), c.neighbour(i))
					l.wantStanding(c.source(i), 1, CauseTrap)
					l.Served(inside)
				}
				if n > 1 { // they count for a week
					el, _ := l.element(f.crowd(), nftset.AddrKey(prefix(c.subnet).Addr()))
					if !sameTimeout(el.Remaining.Round(time.Minute), crowdTime) {
						l.T.Errorf("sources of the subnet are counted for %v, want %v", el.Remaining, crowdTime)
					}
				}
				before := l.counters()
				l.Offend(c.source(n - 1))
				l.wantCounts(before, map[string]uint64{CounterTrapped: 1, CounterBanned: 1})
				b := l.bans()[c.subnet]
				if b.Set != f.subnet() || b.Cause != CauseSubnet || !sameTimeout(b.Timeout, subnetTime) {
					l.T.Errorf("the ban is one of %v for a %v in %q, want one of %v of the subnet", b.Timeout, b.Cause, b.Set, subnetTime)
				}
				l.Cut(inside, c.source(n-1))
				l.Served(c.neighbour(200))
				if n > 1 { // those beside were one less
					l.wantStanding(c.neighbour(0), 1, CauseTrap)
				}
				if _, _, err := l.open().Unban(prefix(c.subnet)); err != nil {
					l.T.Fatal(err)
				}
				l.Served(inside)
			})
		})
	}
}

// TestSubnetCountsSourcesOnce has one source offend again and again, in IPv6 by
// one address after the other, and scanners count as others do.
func TestSubnetCountsSourcesOnce(t *testing.T) {
	t.Parallel()
	spec := trapSpec()
	spec.Subnet4, spec.Subnet6 = 3, 3
	spec.BanTime = []time.Duration{100 * time.Millisecond, 150 * time.Millisecond, time.Hour}
	spec.Scan.Ports = 2
	separately(t, spec, func(l *fixture, f family) {
		c := subnetCases[index(f)]
		for i := range 2 {
			l.Offend(c.single(i))
			lab.Await(l.T, "the ban to expire", func() bool { return len(l.lookup(c.single(i)).Bans) == 0 })
		}
		for i := range 5 {
			l.Offend(c.single(i + 2)) // banned for an hour
		}
		l.wantStanding(c.single(0), 3, CauseTrap)
		l.Served(c.source(200))
		l.probe(c.source(1), 201)
		l.Want(l.SYN(c.source(1), 202), netnstest.NoAnswer)
		l.Served(c.source(201))
		l.probe(c.source(2), 201)
		l.Want(l.SYN(c.source(2), 202), netnstest.NoAnswer)
		l.Cut(c.source(202))
		if _, ok := l.bans()[c.subnet]; !ok {
			l.T.Errorf("banned is %v, want %s to be", l.bans(), c.subnet)
		}
		l.Served(c.neighbour(1))
	})
}

// TestSubnetSparesTheWhitelist has a subnet banned in which somebody is
// whitelisted, and singles of whom none counts.
func TestSubnetSparesTheWhitelist(t *testing.T) {
	t.Parallel()
	spec := trapSpec()
	spec.Subnet4, spec.Subnet6 = 2, 2
	spec.Whitelist = prefixes("203.0.113.202/32", "2001:db8:113:c9::/64")
	spec.Single6 = prefixes("2001:db8:114::/48")
	l := newTrap(t, spec)
	l.families(func(l *fixture, f family) {
		c := subnetCases[index(f)]
		friend := c.source(201)
		for range 3 { // a trap is nothing to a friend, and counts for nothing
			l.Want(l.SYN(friend, lab.TrapTCP), netnstest.AnswerRST)
		}
		l.Offend(c.source(0))
		l.Served(c.source(210), friend)
		l.Offend(c.source(1))
		l.Cut(c.source(210))
		l.Served(friend)
	})
	for i := range 5 {
		l.Offend(subnetCases[1].neighbour(i))
	}
	l.Served(subnetCases[1].neighbour(200))
}

// TestSubnetIsOff bans no subnet by default in IPv4, nor where it is the
// source.
func TestSubnetIsOff(t *testing.T) {
	t.Parallel()
	spec := trapSpec()
	spec.Prefix6 = 48
	l := newTrap(t, spec)
	l.families(func(l *fixture, f family) {
		c := subnetCases[index(f)]
		for i := range 12 {
			if src := c.source(i); src.Is4() || i == 0 {
				l.Offend(src)
			} else {
				l.Cut(src)
			}
		}
		if b := l.bans()[c.subnet]; b.Cause == CauseSubnet {
			l.T.Errorf("%s is banned", c.subnet)
		}
		l.Served(c.neighbour(1))
	})
}

// TestLogPrefixes reads what the log group tells of each kind of ban.
func TestLogPrefixes(t *testing.T) {
	t.Parallel()
	spec := trapSpec()
	spec.BanTime = []time.Duration{time.Second, 1100 * time.Millisecond, 1200 * time.Millisecond}
	spec.Scan.Ports, spec.LogThreshold, spec.LogGroup = 2, 1, 77
	spec.Subnet4, spec.Subnet6 = 3, 3
	separately(t, spec, func(l *fixture, f family) {
		c := subnetCases[index(f)]
		conn, err := nflog.Dial(&nflog.Config{Group: spec.LogGroup, NetNS: l.Host.FD()})
		if err != nil {
			l.T.Fatal(err)
		}
		defer conn.Close()
		want := func(src netip.Addr, proto uint8, port uint16, cause Cause, step int) {
			l.T.Helper()
			if err := conn.SetReadDeadline(time.Now().Add(lab.Patience)); err != nil {
				l.T.Fatal(err)
			}
			got, lost, err := conn.Receive(nil)
			if err != nil || len(got) != 1 || lost != (nflog.Lost{}) {
				l.T.Fatalf("got the messages %v, lost %v, %v", got, lost, err)
			}
			m := got[0]
			if is, at, ok := ParseLogPrefix(m.Prefix); !ok || is != cause || at != step {
				l.T.Errorf("the prefix is %q, want a %v and step %d", m.Prefix, cause, step)
			}
			if m.Src != src || m.Proto != proto || m.DstPort != port {
				l.T.Errorf("the message is %+v, want one of a packet from %v to port %d of protocol %d", m, src, port, proto)
			}
		}
		free := func(src netip.Addr) {
			l.T.Helper()
			lab.Await(l.T, "the ban to expire", func() bool { return len(l.lookup(src).Bans) == 0 })
		}
		trap, scan := c.source(1), c.source(2)
		l.Offend(trap)
		want(trap, unix.IPPROTO_TCP, lab.TrapTCP, CauseTrap, 1)
		l.Cut(trap) // says nothing
		free(trap)
		l.Want(l.UDP(trap, trapUDP), netnstest.NoAnswer)
		want(trap, unix.IPPROTO_UDP, trapUDP, CauseTrap, 2)
		free(trap)
		l.probe(trap, 201)
		l.Want(l.TCP(trap, 202, netnstest.FlagFIN), netnstest.NoAnswer)
		want(trap, unix.IPPROTO_TCP, 202, CauseScan, 3)
		free(trap)
		l.Want(l.TCP(trap, lab.TrapTCP, 0), netnstest.NoAnswer)
		want(trap, unix.IPPROTO_TCP, lab.TrapTCP, CauseTrap, 3)

		for i, step := range []int{1, 2, 3} { // the first port counts for all of the time
			if i == 0 {
				l.probe(scan, 300)
			}
			l.Want(l.SYN(scan, 301+uint16(i)), netnstest.NoAnswer)
			want(scan, unix.IPPROTO_TCP, 301+uint16(i), CauseScan, step)
			free(scan)
		}
		third := c.source(3)
		l.Offend(third)
		want(third, unix.IPPROTO_TCP, lab.TrapTCP, CauseSubnet, 0)
		l.Cut(third, scan, trap)
		l.Served(l.source(f))
		// Nothing more has been told.
		if err := conn.SetReadDeadline(time.Now().Add(tick)); err != nil {
			l.T.Fatal(err)
		}
		if got, _, err := conn.Receive(nil); err == nil || len(got) > 0 {
			l.T.Errorf("got one more message: %+v", got)
		}
	})
}
