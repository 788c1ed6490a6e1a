package netnstest

import (
	"errors"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/nftables"
)

// TestSendReturnsWhenProcessed looks for the packet without waiting.
func TestSendReturnsWhenProcessed(t *testing.T) {
	client, server, link := pair(t)
	for name, p := range samples() {
		p.Dst = at(link.B.IPv4, p.Dst.Port())
		if p.Src.Addr().Is6() {
			p.Dst = at(link.B.IPv6, p.Dst.Port())
		}
		s := server.Sniff(link.B.Dev)
		client.Send(p)
		isIt := func(q Packet) bool {
			return q.Src == p.Src && q.Dst == p.Dst && q.Proto == p.Proto && string(q.Payload) == string(p.Payload)
		}
		if _, err := s.Await(isIt, 0); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if again, err := s.Await(isIt, 0); err == nil {
			t.Errorf("%s: received %v twice", name, again)
		}
	}
}

// TestSendMakesRightChecksums has the kernel judge: it counts a datagram to a closed port only once it has found its
// checksum right. The payloads run through all values of a word, so one of them makes a checksum of 0.
func TestSendMakesRightChecksums(t *testing.T) {
	client, server, link := pair(t)
	const n = 1 << 16
	for _, tt := range []struct {
		a, b          netip.Addr
		noPort, wrong string
	}{
		{link.A.IPv4, link.B.IPv4, "Udp.NoPorts", "Udp.InCsumErrors"},
		{link.A.IPv6, link.B.IPv6, "Udp6NoPorts", "Udp6InCsumErrors"},
	} {
		client.Burst(n, func(i int) Packet {
			return Packet{Proto: UDP, Src: at(tt.a, 7), Dst: at(tt.b, 53), Payload: []byte{byte(i >> 8), byte(i)}}
		})
		counters := counters(t, server)
		if counters[tt.noPort] != n || counters[tt.wrong] != 0 {
			t.Errorf("%v: %d datagrams right and %d wrong, want all %d right", tt.a, counters[tt.noPort], counters[tt.wrong], n)
		}
	}
}

// counters returns the protocol counters of a host by the names of nstat(8), those of IPv4 with a dot.
func counters(t *testing.T, h *Host) map[string]int {
	t.Helper()
	var snmp, snmp6 []byte
	h.Do(func() {
		var err, err6 error
		// Not /proc/net, which is that of the main thread.
		snmp, err = os.ReadFile("/proc/thread-self/net/snmp")
		snmp6, err6 = os.ReadFile("/proc/thread-self/net/snmp6")
		if err != nil || err6 != nil {
			t.Fatal(err, err6)
		}
	})
	counters := map[string]int{}
	for line := range strings.Lines(string(snmp6)) {
		if f := strings.Fields(line); len(f) == 2 {
			counters[f[0]], _ = strconv.Atoi(f[1])
		}
	}
	lines := strings.Split(string(snmp), "\n") // in pairs: "Udp: InDatagrams NoPorts", "Udp: 1 2"
	for i := 0; i+1 < len(lines); i += 2 {
		names, values := strings.Fields(lines[i]), strings.Fields(lines[i+1])
		for j := 1; j < len(names); j++ {
			counters[strings.TrimSuffix(names[0], ":")+"."+names[j]], _ = strconv.Atoi(values[j])
		}
	}
	return counters
}

func TestBurstLosesNothing(t *testing.T) {
	client, server, link := pair(t)
	const n = 20_000
	seen := func() uint64 {
		dev, err := server.rtnl.LinkByIndex(link.B.Index)
		if err != nil {
			t.Fatal(err)
		}
		return dev.Attrs().Statistics.RxPackets
	}
	before := seen()
	client.Burst(n, func(i int) Packet {
		return Datagram(netip.AddrFrom4([4]byte{198, 51, byte(i >> 8), byte(i)}), at(link.B.IPv4, 9), "x")
	})
	if got := seen() - before; got < n {
		t.Errorf("%d packets came in of %d", got, n)
	}
}

func TestSendChoosesTheLink(t *testing.T) {
	router, left, right := NewHost(t, "router"), NewHost(t, "left"), NewHost(t, "right")
	l := Connect(t, router, left, "192.0.2.0/24")
	r := Connect(t, router, right, "198.51.100.0/24")
	right.AddAddr("lo", "203.0.113.1/32")
	router.AddRoute("203.0.113.0/24", r.B.IPv4.String())
	for _, tt := range []struct {
		dst  netip.Addr
		link *Link
	}{{l.B.IPv4, l}, {r.B.IPv4, r}, {netip.MustParseAddr("203.0.113.1"), r}} {
		if got := router.Probe(Ping(tt.link.A.IPv4, tt.dst, 1)); got.Kind != AnswerEcho {
			t.Errorf("ping %v: got %v", tt.dst, got)
		}
	}
	wantFatal(t, func(t testing.TB) { router.With(t).Send(Ping(l.A.IPv4, netip.MustParseAddr("10.9.8.7"), 1)) },
		"look up route to 10.9.8.7: network is unreachable")
	wantFatal(t, func(t testing.TB) { router.With(t).Probe(Ping(l.A.IPv4, l.A.IPv4, 1)) },
		"192.0.2.1: not by a link")
}

func TestSendRefuses(t *testing.T) {
	client, _, link := pair(t)
	wantFatal(t, func(t testing.TB) { client.With(t).Send(Packet{Proto: UDP, Src: v4a, Dst: v6b}) },
		errFamilies.Error())
	wantFatal(t, func(t testing.TB) {
		client.With(t).Send(Packet{Proto: UDP, Src: v4a, Dst: at(link.B.IPv4, 1), Payload: make([]byte, 2000)})
	}, "send on eth0: sendto: message too long")
}

func TestSniffDirections(t *testing.T) {
	client, server, link := pair(t)
	server.Listen("tcp", "[::]:80")
	one, all := server.Sniff("eth0"), server.Sniff("")
	if got := client.Probe(SYN(link.A.IPv4, at(link.B.IPv4, 80))); got.Kind != AnswerSYNACK {
		t.Fatal(got)
	}
	client.Fence() // the reset, that is
	// The client's kernel resets what it knows nothing of as well.
	want := []string{"[S] in", "[S.] out", "[R] in", "[R] in"}
	for name, s := range map[string]*Sniffer{"eth0": one, "all": all} {
		var got []string
		_, _ = s.Await(func(p Packet) bool {
			direction := " in"
			if p.Outgoing {
				direction = " out"
			}
			if p.Proto == TCP {
				got = append(got, p.Flags.String()+direction)
			}
			return false // until there are no more
		}, 0)
		if !slices.Equal(got, want) {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
}

func TestAwait(t *testing.T) {
	client, server, link := pair(t)
	s := server.Sniff("eth0")
	isEcho := func(id uint32) func(Packet) bool {
		return func(p Packet) bool { return p.Proto == ICMP && p.Rest == id }
	}
	var pinging sync.WaitGroup
	pinging.Go(func() {
		for id := range uint32(3) {
			// Not Send, which must not be called from here.
			if _, err := client.probe(Ping(link.A.IPv4, link.B.IPv4, id)); err != nil {
				t.Error(err)
			}
		}
	})
	if _, err := s.Await(isEcho(2), patience); err != nil {
		t.Error(err)
	}
	pinging.Wait()
	client.Send(Ping(link.A.IPv4, link.B.IPv4, 5))
	_, err := s.Await(isEcho(4), time.Millisecond)
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("await what does not come: got %v, want %v", err, os.ErrDeadlineExceeded)
	}
	if want := "\n\tICMP 192.0.2.1 > 192.0.2.2 type 8 code 0 rest 0x5 length 0"; err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("got %q, want %q in it", err, want)
	}
	s.Close()
	s.Close()
	wantFatal(t, func(t testing.TB) { server.With(t).Sniff("eth9") }, "sniff on eth9")
}

// TestProbeFailsWithoutFence takes the answers away that a fence counts on, by rules for ARP: silence is not told from
// a fault then.
func TestProbeFailsWithoutFence(t *testing.T) {
	client, server, link := pair(t)
	conn, err := nftables.New(nftables.WithNetNSFd(server.FD()))
	if err != nil {
		t.Fatal(err)
	}
	drop := nftables.ChainPolicyDrop
	conn.AddChain(&nftables.Chain{
		Name: "input", Table: conn.AddTable(&nftables.Table{Name: "deaf", Family: nftables.TableFamilyARP}),
		Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookInput, Priority: nftables.ChainPriorityFilter,
		Policy: &drop,
	})
	if err := conn.Flush(); err != nil {
		t.Fatal(err)
	}
	defer func(before time.Duration) { patience = before }(patience)
	patience = 10 * time.Millisecond
	wantFatal(t, func(t testing.TB) { client.With(t).Probe(SYN(link.A.IPv4, at(link.B.IPv4, 80))) },
		"host client: probe with TCP 192.0.2.1:0 > 192.0.2.2:80", "await ARP answer of server on eth0: i/o timeout")
}
