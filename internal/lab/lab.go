// Package lab is where tests send packets: a host, and the internet around it,
// from which packets come with any source address. It imports neither nftset
// nor ruleset, so that their tests can use it; package banlab puts portmon's
// table on the host.
//
// It also finds the outside programs that tests run; see Program.
package lab

import (
	"flag"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/google/nftables"

	"github.com/portmon/portmon/netnstest"
)

// Ports of a lab's host. The open ones are served from Serve on.
const (
	OpenTCP = 80
	OpenUDP = 53
	Closed  = 82 // neither served nor a trap
	TrapTCP = 23
)

// Patience is how long tests wait for what must come. Where the machine is
// emulated, PORTMON_PATIENCE is longer.
var Patience = func() time.Duration {
	if d, err := time.ParseDuration(os.Getenv("PORTMON_PATIENCE")); err == nil {
		return d
	}
	return 20 * time.Second
}()

// LongPatience is how long they wait for what takes several steps.
var LongPatience = 3 * Patience

// Where the sources are that a lab hands out.
const (
	Sources4 = "198.18.0.0/16"
	Sources6 = "2001:db8:1000::/36"
)

// Lab is a host and the internet around it. Both have an address of
// 192.0.2.0/24 and of 2001:db8::/64.
type Lab struct {
	T              testing.TB
	Host, Internet *netnstest.Host
	Link           *netnstest.Link // its end A is the internet's, B the host's

	sources *[2]int // handed out, of IPv4 and of IPv6
}

// New makes a lab that is taken down when t ends.
func New(t testing.TB) *Lab {
	t.Helper()
	l := NewWithoutRoute(t)
	l.Host.DefaultVia(l.Link.A.IPv4, l.Link.A.IPv6)
	return l
}

// NewWithoutRoute makes a lab whose host has no route but that of the link.
func NewWithoutRoute(t testing.TB) *Lab {
	t.Helper()
	l := &Lab{T: t, Host: netnstest.NewHost(t, "host"), Internet: netnstest.NewHost(t, "internet"), sources: new([2]int)}
	l.Link = netnstest.Connect(t, l.Internet, l.Host, "192.0.2.0/24", "2001:db8::/64")
	return l
}

// Serve has the host answer at the open ports.
func (l *Lab) Serve() {
	l.T.Helper()
	l.Host.Listen("tcp", fmt.Sprintf("[::]:%d", OpenTCP))
	l.Host.Listen("udp", fmt.Sprintf("[::]:%d", OpenUDP))
}

// With returns the lab on behalf of a subtest.
func (l *Lab) With(t testing.TB) *Lab {
	sub := *l
	sub.T, sub.Host, sub.Internet = t, l.Host.With(t), l.Internet.With(t)
	return &sub
}

// Source4 returns an IPv4 source that was not handed out before.
func (l *Lab) Source4() netip.Addr {
	l.sources[0]++
	n := l.sources[0]
	return netip.AddrFrom4([4]byte{198, 18, byte(n >> 8), byte(n)})
}

// Source6 returns an IPv6 source in a /48 that was not handed out before, so
// that the offences of two sources do not add up to a ban of their /48.
func (l *Lab) Source6() netip.Addr {
	l.sources[1]++
	n := l.sources[1]
	return netip.MustParseAddr(fmt.Sprintf("2001:db8:%x:%x::bad", 0x1000+n, n))
}

// Sources returns n new sources of each family.
func (l *Lab) Sources(n int) (sources []netip.Addr) {
	for range n {
		sources = append(sources, l.Source4(), l.Source6())
	}
	return sources
}

// To returns a port of the host, at its address of the source's family.
func (l *Lab) To(src netip.Addr, port uint16) netip.AddrPort {
	if src.Is4() {
		return netip.AddrPortFrom(l.Link.B.IPv4, port)
	}
	return netip.AddrPortFrom(l.Link.B.IPv6, port)
}

// SYN returns the packet by which a source opens a connection to the host.
func (l *Lab) SYN(src netip.Addr, port uint16) netnstest.Packet {
	return netnstest.SYN(src, l.To(src, port))
}

// UDP returns a datagram from a source to the host.
func (l *Lab) UDP(src netip.Addr, port uint16) netnstest.Packet {
	return netnstest.Datagram(src, l.To(src, port), "hello")
}

// TCP returns a TCP packet with these flags from a source to the host.
func (l *Lab) TCP(src netip.Addr, port uint16, flags netnstest.TCPFlags) netnstest.Packet {
	p := l.SYN(src, port)
	p.Flags = flags
	return p
}

// Probe sends a SYN from a source to a port of the host, and returns the answer.
func (l *Lab) Probe(src netip.Addr, port uint16) netnstest.Answer {
	l.T.Helper()
	return l.Internet.Probe(l.SYN(src, port))
}

// Want sends a packet, and fails the test unless the answer is of a kind.
func (l *Lab) Want(p netnstest.Packet, kind netnstest.AnswerKind) {
	l.T.Helper()
	if got := l.Internet.Probe(p); got.Kind != kind {
		l.T.Errorf("%v: got answer %v, want %v", p, got, netnstest.Answer{Kind: kind})
	}
}

// Offend sends a packet to a trap port from each source, and fails the test if
// there is an answer.
func (l *Lab) Offend(sources ...netip.Addr) {
	l.T.Helper()
	for _, src := range sources {
		l.Want(l.SYN(src, TrapTCP), netnstest.NoAnswer)
	}
}

// Served fails the test unless the host serves each source, and answers at
// ports that are closed. It needs Serve.
func (l *Lab) Served(sources ...netip.Addr) {
	l.T.Helper()
	for _, src := range sources {
		l.Visit(src)
		l.Want(l.SYN(src, Closed), netnstest.AnswerRST)
	}
}

// Visit is Served without the closed port, which is one too many where scans are
// counted strictly.
func (l *Lab) Visit(sources ...netip.Addr) {
	l.T.Helper()
	for _, src := range sources {
		l.Want(l.SYN(src, OpenTCP), netnstest.AnswerSYNACK)
		l.Want(l.UDP(src, OpenUDP), netnstest.AnswerUDP)
		l.Want(l.ping(src), netnstest.AnswerEcho)
	}
}

// Cut fails the test if the host answers anything to any of these sources.
func (l *Lab) Cut(sources ...netip.Addr) {
	l.T.Helper()
	for _, src := range sources {
		l.Want(l.SYN(src, OpenTCP), netnstest.NoAnswer)
		l.Want(l.TCP(src, OpenTCP, netnstest.FlagACK), netnstest.NoAnswer)
		l.Want(l.UDP(src, OpenUDP), netnstest.NoAnswer)
		l.Want(l.ping(src), netnstest.NoAnswer)
	}
}

func (l *Lab) ping(src netip.Addr) netnstest.Packet {
	return netnstest.Ping(src, l.To(src, 0).Addr(), 7)
}

// FlushRuleset deletes all tables of the host, as `nft flush ruleset` does.
func (l *Lab) FlushRuleset() {
	l.T.Helper()
	conn, err := nftables.New(nftables.WithNetNSFd(l.Host.FD()))
	if err != nil {
		l.T.Fatal(err)
	}
	conn.FlushRuleset()
	if err := conn.Flush(); err != nil {
		l.T.Fatal(err)
	}
}

// NFT runs nft on the host; see the function NFT.
func (l *Lab) NFT(script string, args ...string) string {
	l.T.Helper()
	return NFT(l.T, l.Host, script, args...)
}

// Await polls until f is true, for LongPatience at most: for what happens without
// an event, such as the end of an element. It asks less often the longer it waits.
func Await(t testing.TB, what string, f func() bool) {
	t.Helper()
	pause := time.Millisecond
	for deadline := time.Now().Add(LongPatience); !f(); time.Sleep(pause) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", LongPatience, what)
		}
		pause = min(pause*3/2, 50*time.Millisecond)
	}
}

// Main is netnstest.Main for tests that wait for the kernel's clock: n of them
// run in parallel, which may be more than there are CPUs.
func Main(m netnstest.Runner, n int) int {
	if err := flag.Set("test.parallel", strconv.Itoa(n)); err != nil { // go test -parallel has the last word
		panic(err)
	}
	return netnstest.Main(m)
}

// ShortDir returns a folder that is removed when t ends. Its path is shorter
// than that of t.TempDir, as the path of a socket must be.
func ShortDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "lab")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}
