package netnstest

import (
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Host is a host made for one test: a network namespace with an own loopback,
// addresses, routes, firewall and sockets. Its methods may be called from
// several goroutines. Those that cannot do what they are asked fail the test,
// with t.Fatal: call them from the goroutine that runs it.
type Host struct {
	*machine
	t testing.TB
}

// machine is what all Hosts that With returned share.
type machine struct {
	name string
	ns   netns.NsHandle
	rtnl *netlink.Handle
	cpu  aCPU

	ports atomic.Uint32 // source ports given to probes so far

	mu   sync.Mutex
	ends []*End
	sock *packetSocket // opened by the first packet that is sent

	watching sync.Mutex // held by who reads sock, from its first frame to its last
}

// NewHost makes a host with loopback up, and takes it down when t ends. The
// name is for messages. Its settings are the kernel's defaults whatever those
// of the machine are, but for five: IPv6 addresses are usable at once (no
// duplicate address detection), link-local ones are given by Connect, ICMP
// errors are not rate limited, reverse paths are not filtered, and routers are
// not listened to. Loopback has one address more, 192.0.0.8, by which Probe and
// Send tell that a packet has been processed.
//
// The kernel destroys a namespace in the background, with all that is in it,
// once its last socket is closed: it may be a moment after the end of the test.
func NewHost(t testing.TB, name string) *Host {
	t.Helper()
	h := &Host{&machine{name: name}, t}
	cpu, err := cpuOf(t)
	h.check(err)
	h.cpu = cpu
	h.check(onThread(saveNamespace, func() (err error) {
		if h.ns, err = netns.New(); err == nil {
			h.rtnl, err = netlink.NewHandle(unix.NETLINK_ROUTE)
		}
		if err != nil {
			return fmt.Errorf("create network namespace: %w", err)
		}
		return nil
	}))
	t.Cleanup(func() {
		if err := h.close(); err != nil {
			t.Errorf("netnstest: close host %s: %v", name, err)
		}
	})
	h.check(h.configure())
	return h
}

// close lets go of all that keeps the namespace, but for what tests left open.
func (m *machine) close() (err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.sock != nil {
		err = m.sock.conn.Close()
	}
	m.rtnl.Close()
	return errors.Join(err, m.ns.Close())
}

// Name returns the name that NewHost was given.
func (h *Host) Name() string { return h.name }

// With returns the same host on behalf of t, a subtest as a rule: what cannot
// be done fails t, and what is opened is closed when t ends.
func (h *Host) With(t testing.TB) *Host { return &Host{h.machine, t} }

// FD returns a file descriptor of the host's network namespace, for libraries
// that take one: in mdlayher/netlink, Config{NetNS: h.FD()}; in
// google/nftables, WithNetNSFd(h.FD()). It is good until the test ends, and not
// to be closed.
func (h *Host) FD() int { return int(h.ns) }

// Do runs f in the host's namespace, on the thread of the caller, which goes
// back to its own when f returns, panics or calls t.Fatal. Sockets that f opens
// belong to the host for good, also when they are used elsewhere later. Do may
// be called within f, for this host or another.
//
// Processes that f starts are the host's too; goroutines that f starts are not,
// and /proc/net is that of this process: read /proc/thread-self/net instead.
func (h *Host) Do(f func()) {
	h.t.Helper()
	h.check(h.do(func() error { f(); return nil }))
}

// do is Do with errors.
func (m *machine) do(f func() error) error {
	return onThread(saveNamespace, func() error {
		if err := netns.Set(m.ns); err != nil {
			return fmt.Errorf("enter network namespace: %w", err)
		}
		return f()
	})
}

// towards returns the end by which packets to dst go: that of the only link, or
// else the one on the route.
func (m *machine) towards(dst netip.Addr) (*End, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.ends) == 1 {
		return m.ends[0], nil
	}
	routes, err := m.rtnl.RouteGet(dst.AsSlice())
	if err != nil {
		return nil, fmt.Errorf("look up route to %s: %w", dst, err)
	}
	for _, e := range m.ends {
		if e.Index == routes[0].LinkIndex {
			return e, nil
		}
	}
	return nil, fmt.Errorf("look up route to %s: not by a link", dst)
}

// check fails the test if err is not nil.
func (h *Host) check(err error) {
	if err != nil {
		h.t.Helper()
		h.t.Fatalf("netnstest: host %s: %v", h.name, err)
	}
}
