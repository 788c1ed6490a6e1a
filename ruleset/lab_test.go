package ruleset

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/netnstest"
	"github.com/portmon/portmon/nftset"
)

func TestMain(m *testing.M) {
	if role := os.Getenv(roleVariable); role != "" {
		os.Exit(play(role))
	}
	os.Exit(netnstest.Main(m))
}

// Ports of the labs. The open ones are served by the host, for everybody, all the time.
const (
	openTCP   = 80
	openUDP   = 53
	closed    = 82 // neither served nor a trap
	trapTCP   = 23
	trapUDP   = 161
	patience  = 20 * time.Second // ends a test that fails
	oneSecond = time.Second      // for answers that come
)

// trapSpec is the default with UDP traps, a whitelist that none of a lab's
// sources is in, and traps that are armed at once.
func trapSpec() Spec {
	s := Default()
	s.TrapUDP = []Ports{{trapUDP, trapUDP}, {1000, 1010}}
	s.Grace = 0
	return s
}

// lab is a host with a table on it, and the outside: another host, by which it reaches everything else. Packets from any source
// come from the outside, and what goes to any source can be seen there.
type lab struct {
	t             testing.TB
	host, outside *netnstest.Host
	link          *netnstest.Link // its end A is the outside's, B the host's
	conn          *nftset.Conn
	n             *int // sources handed out
}

func newLab(t testing.TB) *lab {
	t.Helper()
	l := newBareLab(t)
	l.host.DefaultVia(l.link.A.IPv4, l.link.A.IPv6)
	l.host.ListenTCP(fmt.Sprintf("[::]:%d", openTCP))
	l.host.ListenUDP(fmt.Sprintf("[::]:%d", openUDP))
	return l
}

// newBareLab makes a lab whose host serves nothing and has no route but that of the link.
func newBareLab(t testing.TB) *lab {
	t.Helper()
	l := &lab{t: t, host: netnstest.NewHost(t, "host"), outside: netnstest.NewHost(t, "outside"), n: new(int)}
	l.link = netnstest.Connect(t, l.outside, l.host, "192.0.2.0/24", "2001:db8::/64")
	l.conn = l.dial()
	return l
}

// newTrap makes a lab whose host has the table of a Spec.
func newTrap(t testing.TB, spec Spec) *lab {
	t.Helper()
	l := newLab(t)
	l.apply(spec)
	return l
}

// with returns the lab on behalf of a subtest.
func (l *lab) with(t testing.TB) *lab {
	sub := *l
	sub.t, sub.host, sub.outside = t, l.host.With(t), l.outside.With(t)
	return &sub
}

// families runs f for each family, in a subtest with the lab on its behalf.
func (l *lab) families(f func(l *lab, f family)) {
	l.t.Helper()
	for i, name := range []string{"IPv4", "IPv6"} {
		l.t.(*testing.T).Run(name, func(t *testing.T) { f(l.with(t), families[i]) })
	}
}

// nftsetDial opens one more connection, for goroutines that must not end the test.
func nftsetDial(l *lab) (*nftset.Conn, error) { return nftset.Dial(&nftset.Config{NetNS: l.host.FD()}) }

// dial opens one more connection to the kernel of the lab's host.
func (l *lab) dial() *nftset.Conn {
	l.t.Helper()
	c, err := nftsetDial(l)
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() {
		if err := c.Close(); err != nil {
			l.t.Error(err)
		}
	})
	return c
}

func (l *lab) apply(spec Spec) Result {
	l.t.Helper()
	r, err := Apply(l.conn, spec)
	if err != nil {
		l.t.Fatal(err)
	}
	return r
}

func (l *lab) prepare(spec Spec) Result {
	l.t.Helper()
	r, err := Prepare(l.conn, spec)
	if err != nil {
		l.t.Fatal(err)
	}
	return r
}

func (l *lab) open() *Handle {
	l.t.Helper()
	h, err := Open(l.conn, "portmon")
	if err != nil {
		l.t.Fatal(err)
	}
	return h
}

func (l *lab) generation() uint32 {
	l.t.Helper()
	g, err := l.conn.Generation()
	if err != nil {
		l.t.Fatal(err)
	}
	return g
}

// counters returns the packets that the table's counters have.
func (l *lab) counters() map[string]uint64 {
	l.t.Helper()
	out := make(map[string]uint64)
	for name, c := range l.open().Counters {
		out[name] = c.Packets
	}
	return out
}

// bans returns what Handle.Bans says, by what is banned: "198.18.0.1",
// "2001:db8:1:1::/64".
func (l *lab) bans() map[string]Entry {
	l.t.Helper()
	out := make(map[string]Entry)
	for b, err := range l.open().Bans() {
		if err != nil {
			l.t.Fatal(err)
		}
		if _, twice := out[b.Interval.String()]; twice {
			l.t.Errorf("Handle.Bans gives %v twice", b.Interval)
		}
		out[b.Interval.String()] = b
	}
	return out
}

// wantBans fails the test unless these are all bans.
func (l *lab) wantBans(want ...string) {
	l.t.Helper()
	got := slices.Sorted(maps.Keys(l.bans()))
	if want = slices.Sorted(slices.Values(want)); !slices.Equal(got, want) {
		l.t.Errorf("banned is %q, want %q", got, want)
	}
}

// source returns a source that nobody had before, of IPv6 in a /48 of its own,
// among those of sources6: the offences of one do not add up to the ban of it.
func (l *lab) source(f family) netip.Addr {
	*l.n++
	n := *l.n
	if f.key == nftset.IPv4Addr {
		return netip.AddrFrom4([4]byte{198, 18, byte(n >> 8), byte(n)})
	}
	return addr(fmt.Sprintf("2001:db8:%x:%x::bad", 0x1000+n, n))
}

// Where the sources are.
const (
	sources4 = "198.18.0.0/16"
	sources6 = "2001:db8:1000::/36"
)

// banOf returns the ban that a source gets by the default Spec, as the keys of bans are.
func banOf(a netip.Addr) string {
	if a.Is4() {
		return a.String()
	}
	return netip.PrefixFrom(a, 64).Masked().String()
}

// key returns the address by which a source stands in sets, by the default Spec.
func (l *lab) key(a netip.Addr) netip.Addr {
	l.t.Helper()
	p, err := l.open().Source(a)
	if err != nil {
		l.t.Fatal(err)
	}
	return p.Addr()
}

// put gives the table records, all of which it must take.
func (l *lab) put(records ...Record) {
	l.t.Helper()
	refused, err := l.open().Put(records)
	if err := errors.Join(append(refused, err)...); err != nil {
		l.t.Fatal(err)
	}
}

// ban bans prefixes by hand.
func (l *lab) ban(d time.Duration, prefixes ...string) {
	l.t.Helper()
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
func (l *lab) forgive() {
	l.t.Helper()
	if err := l.open().UnbanAll(); err != nil {
		l.t.Fatal(err)
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

// await polls until f is true: for what the kernel does without telling anybody, as letting an element expire.
func await(t testing.TB, what string, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !f(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", patience, what)
		}
	}
}

// has reports whether a set of the table holds an address. A dump could miss it.
func (l *lab) has(set string, a netip.Addr) bool {
	l.t.Helper()
	s := l.open().Set(set)
	if s == nil {
		l.t.Fatalf("there is no set %s", set)
	}
	_, err := l.conn.Get(s, nftset.AddrKey(a))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		l.t.Fatal(err)
	}
	return err == nil
}

// addMany adds elements to a set in transactions that need no privilege for their size.
func (l *lab) addMany(set string, elems []nftset.Element) {
	l.t.Helper()
	s := l.open().Set(set)
	for batch := range slices.Chunk(elems, 1000) {
		if err := l.conn.Add(s, slices.Values(batch)); err != nil {
			l.t.Fatal(err)
		}
	}
}

// largeTransactions reports whether a transaction may be larger than net.core.wmem_max, as root's may.
func largeTransactions(t testing.TB) bool {
	t.Helper()
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, 16<<20) == nil
}
