package ruleset

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/portmon/portmon/internal/lab"
	"github.com/portmon/portmon/netnstest"
	"github.com/portmon/portmon/nftset"
)

// arrivals counts the datagrams that come through to a socket on the host, by
// source.
type arrivals struct {
	port uint16
	mu   sync.Mutex
	from map[netip.Addr]int
}

func (l *fixture) countArrivals(port uint16) *arrivals {
	l.T.Helper()
	a := &arrivals{port: port, from: make(map[netip.Addr]int)}
	var conn *net.UDPConn
	var err error
	l.Host.Do(func() { conn, err = net.ListenUDP("udp", &net.UDPAddr{Port: int(port)}) })
	if err != nil {
		l.T.Fatal(err)
	}
	var reading sync.WaitGroup
	reading.Go(func() {
		b := make([]byte, 100)
		for {
			_, from, err := conn.ReadFromUDPAddrPort(b)
			if err != nil {
				return
			}
			a.mu.Lock()
			a.from[from.Addr().Unmap()]++
			a.mu.Unlock()
		}
	})
	l.T.Cleanup(func() {
		conn.Close()
		reading.Wait()
	})
	return a
}

func (a *arrivals) count(src netip.Addr) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.from[src]
}

// stream sends from all sources in turn, as fast as it goes, until done is
// closed, and fails the test unless every datagram of the bystanders has come
// through and none of the banned. It returns how many each source sent.
func (l *fixture) stream(done <-chan struct{}, banned, bystanders []netip.Addr) int {
	l.T.Helper()
	a := l.countArrivals(4000)
	sources := append(append([]netip.Addr(nil), banned...), bystanders...)
	// The queue of a CPU holds 1000 packets, of all namespaces together.
	burst := max(1, 100/len(sources))
	window := 2 * burst // of each source's, on the way at the same time
	dropped, overrun := l.counters()[CounterDropped], queueOverruns(l.T)
	sent, lost := 0, false
	settle := func(missing int) {
		for deadline := time.Now().Add(lab.Patience); !lost; runtime.Gosched() {
			behind := 0
			for _, src := range bystanders {
				behind = max(behind, sent-a.count(src))
			}
			if behind <= missing {
				return
			}
			lost = time.Now().After(deadline)
		}
	}
	for stop := false; !stop; {
		select {
		case <-done:
			stop = true // once more, with what came last
		default:
		}
		l.Internet.Burst(burst*len(sources), func(i int) netnstest.Packet { return l.UDP(sources[i%len(sources)], a.port) })
		sent += burst
		settle(window - burst)
	}
	settle(0)
	for _, src := range bystanders {
		if n := a.count(src); n != sent {
			l.T.Errorf("of %d datagrams of the bystander %v came %d; of %d of the banned the table dropped %d, and the queues of the CPUs %d of anybody",
				sent, src, n, sent*len(banned), l.counters()[CounterDropped]-dropped, queueOverruns(l.T)-overrun)
		}
	}
	for _, src := range banned {
		if n := a.count(src); n != 0 {
			l.T.Errorf("of %d datagrams of %v, which is banned, %d came through", sent, src, n)
		}
	}
	return sent
}

// queueOverruns returns how many packets the kernel has dropped since it runs
// as the queue of a CPU was full.
func queueOverruns(t testing.TB) (n uint64) {
	t.Helper()
	b, err := os.ReadFile("/proc/net/softnet_stat")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		var processed, dropped uint64
		if _, err := fmt.Sscanf(line, "%x %x", &processed, &dropped); err != nil {
			t.Fatal(err)
		}
		n += dropped
	}
	return n
}

// meanwhile runs f with a connection of its own, in a goroutine that closes
// done in the end.
func (l *fixture) meanwhile(f func(c *nftset.Conn)) (done chan struct{}) {
	done = make(chan struct{})
	go func() {
		defer close(done)
		c, err := nftsetDial(l)
		if err != nil {
			l.T.Error(err)
			return
		}
		defer c.Close()
		f(c)
	}()
	return done
}

// everywhere bans sources in every set that bans.
func (l *fixture) everywhere() (banned, bystanders []netip.Addr) {
	l.T.Helper()
	l.families(func(l *fixture, f family) {
		knocked, put, single := l.source(f), l.source(f), l.source(f)
		network, subnet := addr("203.0.113.77"), addr("198.51.77.7")
		if f.is6() {
			network, subnet = addr("2001:db8:78:7::bad"), addr("2001:db8:77:7::bad")
		}
		l.Offend(knocked)
		l.ban(time.Hour, cidr(banOf(put)), netip.PrefixFrom(single, single.BitLen()).String())
		l.ban(time.Hour, netip.PrefixFrom(network, f.subnetLen+4).Masked().String())
		l.put(Record{
			Source: netip.PrefixFrom(subnet, f.subnetLen).Masked(), Banned: true, Timeout: time.Hour, Remaining: time.Hour, Cause: CauseSubnet,
		})
		banned = append(banned, knocked, put, network, single, subnet)
		bystanders = append(bystanders, l.source(f), l.source(f))
	})
	l.Cut(banned...)
	l.Served(bystanders...)
	return banned, bystanders
}

// only6 returns the addresses of IPv6.
func only6(addrs []netip.Addr) []netip.Addr {
	return slices.DeleteFunc(slices.Clone(addrs), netip.Addr.Is4)
}

// TestReapplyUnderTraffic applies 200 times: two Specs in turn, each of them
// twice.
func TestReapplyUnderTraffic(t *testing.T) {
	t.Parallel()
	const applies = 200
	other := trapSpec()
	other.TrapTCP, other.TrapUDP = []Ports{{4444, 4455}}, nil
	other.Whitelist = []netip.Prefix{prefix("198.51.100.0/24")}
	other.BanTime = []time.Duration{time.Hour, 2 * time.Hour} // the third step goes
	other.MaxRetry, other.Size, other.LogGroup = 3, 1000, 7
	l := newTrap(t, trapSpec())
	banned, bystanders := l.everywhere()
	before, start, bans := l.counters(), time.Now(), l.bans()

	done := l.meanwhile(func(c *nftset.Conn) {
		for i := range applies {
			spec := [...]Spec{other, trapSpec()}[i/2%2]
			r, err := Apply(c, spec)
			if err != nil {
				t.Errorf("apply %d: %v", i, err)
				return
			}
			if r.Empty() != (i%2 == 1) {
				t.Errorf("apply %d changed %v", i, r.Summary())
				return
			}
		}
	})
	sent := l.stream(done, banned, bystanders)
	t.Logf("%d applies in %v, with %d datagrams of each of %d sources", applies, time.Since(start), sent, len(banned)+len(bystanders))

	after := l.counters()
	if got, want := after[CounterDropped]-before[CounterDropped], uint64(sent*len(banned)); got != want {
		t.Errorf("counter dropped went up by %d, want %d", got, want)
	}
	for _, name := range []string{CounterTrapped, CounterBanned, CounterFull} {
		if after[name] != before[name] {
			t.Errorf("counter %s is %d, was %d", name, after[name], before[name])
		}
	}
	now := l.bans()
	elapsed := time.Since(start) + 100*time.Millisecond
	for what, is := range now {
		was := bans[what]
		if is.Set != was.Set || is.Timeout != was.Timeout || is.Remaining > was.Remaining || is.Remaining < was.Remaining-elapsed {
			t.Errorf("the ban of %s is in %q for %v, %v left; it was in %q for %v, %v left, %v before", what,
				is.Set, is.Timeout, is.Remaining, was.Set, was.Timeout, was.Remaining, elapsed)
		}
		delete(bans, what)
	}
	if len(bans) > 0 {
		t.Errorf("bans were lost: %v", bans)
	}
}

// TestWhitelistChangesUnderTraffic applies two whitelists in turn. Who is
// banned and in both of them, by prefixes of different lengths, is let through
// at any time; who is banned and in neither, never.
func TestWhitelistChangesUnderTraffic(t *testing.T) {
	t.Parallel()
	const applies = 100
	single, wider := trapSpec(), trapSpec()
	single.Whitelist = []netip.Prefix{prefix("198.18.4.77/32"), prefix("2001:db8:4:4d::bad/128")}
	wider.Whitelist = []netip.Prefix{prefix("198.18.4.64/26"), prefix("2001:db8:4:40::/58")}
	for i := range 200 { // neighbours, on both sides, which come and go
		spec := []*Spec{&single, &wider}[i%2]
		spec.Whitelist = append(spec.Whitelist,
			netip.PrefixFrom(netip.AddrFrom4([4]byte{198, 18, byte(1 + i/25), byte(i % 25 * 2)}), 32),
			prefix(fmt.Sprintf("2001:db8:4:%x::/64", 0x1000*(i%16)+i)))
	}
	l := newTrap(t, single)
	banned, bystanders := l.everywhere()
	l.NFT(`add element inet portmon net4 { 198.18.4.0/24 timeout 1h }
add element inet portmon net6 { 2001:db8:4::/48 timeout 1h }`)
	done := l.meanwhile(func(c *nftset.Conn) {
		for i := range applies {
			if r, err := Apply(c, [...]Spec{wider, single}[i%2]); err != nil || r.Empty() {
				t.Errorf("apply %d: error %v", i, err)
				return
			}
		}
	})
	banned = append(banned, addr("198.18.4.200"), addr("2001:db8:4:ff::bad"))
	bystanders = append(bystanders, addr("198.18.4.77"), addr("2001:db8:4:4d::bad"))
	sent := l.stream(done, banned, bystanders)
	t.Logf("%d applies, with %d datagrams of each source", applies, sent)
}

// TestReapplyPrefix6UnderTraffic moves bans from set to set while they are in
// use: a packet may ask one set before that, and another after it.
func TestReapplyPrefix6UnderTraffic(t *testing.T) {
	t.Parallel()
	const moves = 60
	l := newTrap(t, trapSpec())
	banned, bystanders := l.everywhere()
	bans := slices.Sorted(maps.Keys(l.bans()))
	done := l.meanwhile(func(c *nftset.Conn) {
		for i := range moves {
			if err := moveBack(c); err != nil {
				t.Errorf("move %d: %v", i, err)
				return
			}
			for _, bits := range []int{56, 64} {
				spec := trapSpec()
				spec.Prefix6 = bits
				if _, err := Apply(c, spec); err != nil {
					t.Errorf("move %d: %v", i, err)
					return
				}
			}
		}
	})
	sent := l.stream(done, only6(banned), only6(bystanders))
	t.Logf("%d moves, with %d datagrams of each source", moves, sent)
	if got := slices.Sorted(maps.Keys(l.bans())); !slices.Equal(got, bans) {
		t.Errorf("banned is %q, was %q", got, bans)
	}
}

// moveBack makes bans of sources out of those in net6, so that they can be
// moved again. It never has them in neither.
func moveBack(c *nftset.Conn) error {
	s, err := Read(c, "portmon")
	if err != nil {
		return err
	}
	net, first := s.Set("net6"), s.Set("ban6")
	var bans []nftset.Element
	for el, err := range c.Elements(net) {
		if err != nil {
			return err
		}
		bans = append(bans, el)
	}
	for _, el := range bans {
		if p, _ := el.Prefix(); p.Bits() != 64 && !p.IsSingleIP() {
			continue // no source of the packet path's
		}
		var add, remove nftset.Tx
		add.Add(first, nftset.Single(el.From))
		remove.Delete(net, nftset.Element{Interval: el.Interval})
		if err := errors.Join(c.Commit(&add), c.Commit(&remove)); err != nil {
			return err
		}
	}
	return nil
}
