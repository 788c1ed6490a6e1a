package ruleset

import (
	"errors"
	"maps"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/internal/lab"
	"github.com/portmon/portmon/nftset"
)

func TestMain(m *testing.M) {
	if role := os.Getenv(roleVariable); role != "" {
		os.Exit(play(role))
	}
	os.Exit(lab.Main(lab.Isolated{M: m}, 8))
}

const trapUDP = 161 // of trapSpec, as lab.TrapTCP is

// trapSpec is the default with UDP traps, a whitelist that none of a lab's
// sources is in, and traps that are armed at once.
func trapSpec() Spec {
	s := Default()
	s.TrapUDP = []Ports{{trapUDP, trapUDP}, {1000, 1010}}
	s.Grace = 0
	return s
}

// fixture is a lab with a connection to the kernel of its host, and a table
// there once apply is called.
type fixture struct {
	*lab.Lab
	conn *nftset.Conn
	read *atomic.Pointer[State] // the last that open has read
}

// newLab makes a lab whose host serves, and has a route to all sources.
func newLab(t testing.TB) *fixture {
	t.Helper()
	l := newBareLab(t)
	l.Host.DefaultVia(l.Link.A.IPv4, l.Link.A.IPv6)
	l.Serve()
	return l
}

// newBareLab makes a lab whose host serves nothing and has no route but that of
// the link.
func newBareLab(t testing.TB) *fixture {
	t.Helper()
	l := &fixture{Lab: lab.NewWithoutRoute(t), read: new(atomic.Pointer[State])}
	l.conn = l.dial()
	return l
}

// newTrap makes a lab whose host has the table of a Spec.
func newTrap(t testing.TB, spec Spec) *fixture {
	t.Helper()
	l := newLab(t)
	l.apply(spec)
	return l
}

// with returns the lab on behalf of a subtest.
func (l *fixture) with(t testing.TB) *fixture { return &fixture{l.With(t), l.conn, l.read} }

// families runs f for each family, in a subtest with the lab on its behalf.
func (l *fixture) families(f func(l *fixture, f family)) {
	l.T.Helper()
	for i, name := range []string{"IPv4", "IPv6"} {
		l.T.(*testing.T).Run(name, func(t *testing.T) { f(l.with(t), families[i]) })
	}
}

// nftsetDial opens one more connection, for goroutines that must not end the
// test.
func nftsetDial(l *fixture) (*nftset.Conn, error) {
	return nftset.Dial(&nftset.Config{NetNS: l.Host.FD()})
}

// dial opens one more connection to the kernel of the lab's host.
func (l *fixture) dial() *nftset.Conn {
	l.T.Helper()
	c, err := nftsetDial(l)
	if err != nil {
		l.T.Fatal(err)
	}
	l.T.Cleanup(func() {
		if err := c.Close(); err != nil {
			l.T.Error(err)
		}
	})
	return c
}

func (l *fixture) apply(spec Spec) *Plan {
	l.T.Helper()
	r, err := Apply(l.conn, spec)
	if err != nil {
		l.T.Fatal(err)
	}
	return r
}

func (l *fixture) prepare(spec Spec) *Plan {
	l.T.Helper()
	r, err := Prepare(l.conn, spec)
	if err != nil {
		l.T.Fatal(err)
	}
	return r
}

// open opens the table. It reads the table only if there has been a commit since
// it last did, as that takes most of the time of many tests: all is up to date
// but the counters.
func (l *fixture) open() *Handle {
	l.T.Helper()
	s := l.read.Load()
	if s == nil || s.Generation != l.generation() {
		h, err := Open(l.conn, "portmon")
		if err != nil {
			l.T.Fatal(err)
		}
		s = h.State
		l.read.Store(s)
	}
	return &Handle{s, l.conn}
}

func (l *fixture) generation() uint32 {
	l.T.Helper()
	g, err := l.conn.Generation()
	if err != nil {
		l.T.Fatal(err)
	}
	return g
}

// counters returns the packets that the table's counters have.
func (l *fixture) counters() map[string]uint64 {
	l.T.Helper()
	s := State{Table: nftset.Table{Family: nftset.FamilyINet, Name: "portmon"}}
	if err := s.readCounters(l.conn); err != nil {
		l.T.Fatal(err)
	}
	out := make(map[string]uint64)
	for name, c := range s.Counters {
		out[name] = c.Packets
	}
	return out
}

// bans returns what Handle.Bans says, by what is banned: "198.18.0.1",
// "2001:db8:1:1::/64".
func (l *fixture) bans() map[string]Entry {
	l.T.Helper()
	out := make(map[string]Entry)
	for b, err := range l.open().Bans() {
		if err != nil {
			l.T.Fatal(err)
		}
		if _, twice := out[b.Interval.String()]; twice {
			l.T.Errorf("Handle.Bans gives %v twice", b.Interval)
		}
		out[b.Interval.String()] = b
	}
	return out
}

// wantBans fails the test unless these are all bans.
func (l *fixture) wantBans(want ...string) {
	l.T.Helper()
	got := slices.Sorted(maps.Keys(l.bans()))
	if want = slices.Sorted(slices.Values(want)); !slices.Equal(got, want) {
		l.T.Errorf("banned is %q, want %q", got, want)
	}
}

// source returns a source of a family that was not handed out before.
func (l *fixture) source(f family) netip.Addr {
	if f.is6() {
		return l.Source6()
	}
	return l.Source4()
}

// banOf returns the ban that a source gets by the default Spec, as the keys of
// bans are.
func banOf(a netip.Addr) string {
	if a.Is4() {
		return a.String()
	}
	return netip.PrefixFrom(a, 64).Masked().String()
}

// key returns the address by which a source stands in sets, by the default
// Spec.
func (l *fixture) key(a netip.Addr) netip.Addr {
	l.T.Helper()
	p, err := l.open().Source(a)
	if err != nil {
		l.T.Fatal(err)
	}
	return p.Addr()
}

// put gives the table records, all of which it must take.
func (l *fixture) put(records ...Record) {
	l.T.Helper()
	refused, err := l.open().Put(records)
	if err := errors.Join(append(refused, err)...); err != nil {
		l.T.Fatal(err)
	}
}

// ban bans prefixes by hand.
func (l *fixture) ban(d time.Duration, prefixes ...string) {
	l.T.Helper()
	for _, p := range prefixes {
		l.put(byHand(prefix(p), d))
	}
}

// byHand returns the record of a ban by hand.
func byHand(p netip.Prefix, d time.Duration) Record {
	r := Record{Source: p, Banned: true, Comment: "by hand", Cause: CauseHand}
	if d != Forever {
		r.Timeout, r.Remaining = d, d
	}
	return r
}

// forgive lifts all bans and forgets all offences.
func (l *fixture) forgive() {
	l.T.Helper()
	if err := l.open().UnbanAll(); err != nil {
		l.T.Fatal(err)
	}
}

// index returns the place of a family in lists that have one for each.
func index(f family) int {
	if f.key == nftset.IPv6Addr {
		return 1
	}
	return 0
}

// ofAddr returns the family of an address.
func ofAddr(a netip.Addr) family { return familyOf(nftset.AddrKey(a).Type()) }

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

func at(a netip.Addr, port uint16) netip.AddrPort { return netip.AddrPortFrom(a, port) }

// has reports whether a set of the table holds an address. A dump could miss
// it.
func (l *fixture) has(set string, a netip.Addr) bool {
	l.T.Helper()
	s := l.open().Set(set)
	if s == nil {
		l.T.Fatalf("there is no set %s", set)
	}
	_, err := l.conn.Get(s, nftset.AddrKey(a))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		l.T.Fatal(err)
	}
	return err == nil
}

// addMany adds elements to a set in transactions that need no privilege for
// their size.
func (l *fixture) addMany(set string, elems []nftset.Element) {
	l.T.Helper()
	s := l.open().Set(set)
	for batch := range slices.Chunk(elems, 1000) {
		tx := &nftset.Tx{}
		tx.Add(s, batch...)
		if err := l.conn.Commit(tx); err != nil {
			l.T.Fatal(err)
		}
	}
}

// work returns how long a CPU is busy with f, and the kernel on its behalf,
// whatever else the machine does.
func work(t testing.TB, f func()) time.Duration {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	used := func() time.Duration {
		var u unix.Rusage
		if err := unix.Getrusage(unix.RUSAGE_THREAD, &u); err != nil {
			t.Fatal(err)
		}
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	before := used()
	f()
	return used() - before
}

// largeTransactions reports whether a transaction may be larger than
// net.core.wmem_max, as root's may.
func largeTransactions(t testing.TB) bool {
	t.Helper()
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, 16<<20) == nil
}
