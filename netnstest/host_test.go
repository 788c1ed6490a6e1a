package netnstest

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// descriptors returns what the open file descriptors of the process refer to, but for pipes: net keeps some, to splice
// the connections of an echo server with.
func descriptors(t *testing.T) map[string]string {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	open := map[string]string{}
	for _, e := range entries {
		if to, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil && !strings.HasPrefix(to, "pipe:") {
			open[e.Name()] = to
		}
	}
	return open
}

func TestHostsLeaveNoDescriptors(t *testing.T) {
	useAll := func(t testing.TB) {
		a, b, link := pair(t)
		b.Listen("tcp", "[::]:80")
		b.Listen("udp", "[::]:53")
		b.Sniff("")
		a.Probe(SYN(link.A.IPv4, at(link.B.IPv4, 80)))
		if _, err := a.Dial("tcp", netip.Addr{}, at(link.B.IPv6, 80), patience); err != nil {
			t.Fatalf("dial: %v", err)
		}
		b.Forward()
	}
	once := &fakeT{TB: t} // what the runtime opens at the first use, it keeps
	if failed := once.run(func() { useAll(once) }); failed != "" {
		t.Fatal(failed)
	}
	before := descriptors(t)
	for range 25 { // of two hosts each
		fake := &fakeT{TB: t}
		if failed := fake.run(func() { useAll(fake) }); failed != "" {
			t.Fatal(failed)
		}
	}
	after := descriptors(t)
	if len(after) > len(before) {
		for fd, to := range before {
			if after[fd] == to {
				delete(after, fd)
			}
		}
		t.Errorf("%d descriptors before; new are %v", len(before), after)
	}
	wantOneNamespace(t)
}

// TestNamespaceEndsWithItsHost sees the end of a namespace from the other end of a cable, which goes with it.
func TestNamespaceEndsWithItsHost(t *testing.T) {
	stays := NewHost(t, "stays")
	fake := &fakeT{TB: t}
	fake.run(func() { Connect(fake, stays, NewHost(fake, "goes")) })
	err := await("the end of eth0", func() (bool, error) {
		_, err := stays.rtnl.LinkByName("eth0")
		return err != nil, nil
	})
	if err != nil {
		t.Error(err)
	}
}

func TestHostIsReadyAtOnce(t *testing.T) {
	h := NewHost(t, "h")
	h.Do(func() {
		for _, addr := range []string{"127.0.0.1:0", "[::1]:0"} {
			l, err := net.Listen("tcp", addr)
			if err != nil {
				t.Errorf("listen on loopback: %v", err)
				continue
			}
			conn, err := net.Dial("tcp", l.Addr().String())
			if err != nil {
				t.Errorf("dial loopback: %v", err)
				continue
			}
			conn.Close()
			l.Close()
		}
	})
	if h.Name() != "h" {
		t.Errorf("name %q, want h", h.Name())
	}
}

func TestSettings(t *testing.T) {
	h, _, _ := pair(t)
	read := func(path string) (value string) {
		h.Do(func() {
			b, err := os.ReadFile("/proc/sys/net/" + path)
			if err != nil {
				t.Error(err)
			}
			value = strings.TrimSpace(string(b))
		})
		return value
	}
	for path, want := range map[string]string{
		"ipv4/conf/eth0/rp_filter":  "0",
		"ipv6/conf/eth0/accept_dad": "0",
		"ipv6/conf/eth0/accept_ra":  "0",
		"ipv4/ip_forward":           "0",
		"ipv6/conf/all/forwarding":  "0",
	} {
		if got := read(path); got != want {
			t.Errorf("%s is %q, want %q", path, got, want)
		}
	}
	h.Forward()
	h.Sysctl("net.ipv4.tcp_syncookies", "2")
	h.Sysctl("net.ipv4.conf.eth0.rp_filter", "1")
	for path, want := range map[string]string{
		"ipv4/ip_forward":          "1",
		"ipv6/conf/all/forwarding": "1",
		"ipv4/tcp_syncookies":      "2",
		"ipv4/conf/eth0/rp_filter": "1",
	} {
		if got := read(path); got != want {
			t.Errorf("%s is %q, want %q", path, got, want)
		}
	}
	wantFatal(t, func(t testing.TB) { h.With(t).Sysctl("net.ipv4.no_such_thing", "1") },
		"host client", "set net.ipv4.no_such_thing", "no such file")
	wantFatal(t, func(t testing.TB) { h.With(t).Sysctl("net.ipv4.tcp_syncookies", "x") }, "invalid argument")
}

// TestICMPErrorsAreNotLimited asks for more than the kernel gives by default: one a second to one address, after a burst
// of six, and a thousand a second in all, after one of fifty.
func TestICMPErrorsAreNotLimited(t *testing.T) {
	client, _, link := pair(t)
	families(t, link, func(t *testing.T, a, b netip.Addr) {
		s := client.With(t).Sniff("eth0")
		const n = 100
		client.With(t).Burst(n, func(i int) Packet {
			p := Datagram(a, at(b, 9999), "x")
			p.Src = at(a, uint16(1000+i))
			return p
		})
		errs := 0
		_, _ = s.Await(func(p Packet) bool {
			if p.Proto == ICMP && portUnreachable.is(p) {
				errs++
			}
			return false
		}, 0)
		if errs != n {
			t.Errorf("%d ICMP errors for %d datagrams", errs, n)
		}
	})
}

func TestWithActsForTheSubtest(t *testing.T) {
	h := NewHost(t, "h")
	fake := &fakeT{TB: t}
	var s *Server
	fake.run(func() { s = h.With(fake).Listen("tcp", "127.0.0.1:0") })
	err := h.Exchange("tcp", netip.Addr{}, s.Addr(), time.Second)
	if !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("dial after the end of the subtest: got %v, want %v", err, unix.ECONNREFUSED)
	}
}
