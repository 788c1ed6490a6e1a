package netnstest

import (
	"errors"
	"fmt"
	"sync"
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

	mu    sync.Mutex
	links []*Link
	wires map[string]*wire
	watch *watch // opened by the first Probe or Fence
	ports uint16 // source ports given to probes so far
}

// NewHost makes a host with loopback up, and takes it down when t ends. The
// name is for messages. Its settings are the kernel's defaults whatever those
// of the machine are, but for four: IPv6 addresses are usable at once (no
// duplicate address detection), ICMP errors are not rate limited, reverse paths
// are not filtered, and routers are not listened to. Loopback has one address
// more, 192.0.0.8, by which Probe and Send tell that a packet has been
// processed.
//
// The kernel destroys a namespace in the background, with all that is in it,
// once its last socket is closed: it may be a moment after the end of the test.
func NewHost(t testing.TB, name string) *Host {
	t.Helper()
	h := &Host{&machine{name: name, wires: map[string]*wire{}}, t}
	err := onThread(func() (err error) {
		if h.ns, err = netns.New(); err != nil {
			return fmt.Errorf("create network namespace: %w", err)
		}
		if h.rtnl, err = netlink.NewHandle(unix.NETLINK_ROUTE); err != nil {
			_ = h.ns.Close()
			return fmt.Errorf("open rtnetlink socket: %w", err)
		}
		return nil
	}, func() {})
	h.check(err)
	t.Cleanup(func() {
		if err := h.close(); err != nil {
			t.Errorf("netnstest: close host %s: %v", name, err)
		}
	})
	h.check(h.configure())
	return h
}

// close lets go of all that keeps the namespace, but for what tests left open.
func (m *machine) close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	var errs []error
	for _, w := range m.wires {
		errs = append(errs, w.conn.Close())
	}
	if m.watch != nil {
		errs = append(errs, m.watch.conn.Close())
	}
	m.rtnl.Close()
	return errors.Join(append(errs, m.ns.Close())...)
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

// Do runs f in the host's namespace and returns when f does. Sockets that f
// opens belong to the host for good, also when they are used elsewhere later.
//
// The namespace is that of f's thread. Processes that f starts are the host's
// too; goroutines that f starts are not, and /proc/net is that of this process:
// read /proc/thread-self/net instead.
//
// f runs in another goroutine than the caller, yet it may call t.Fatal, or
// panic: Do then ends the caller the same way. Do may be called within f, for
// this host or another.
func (h *Host) Do(f func()) {
	h.t.Helper()
	h.check(onThread(h.enter, f))
}

func (h *Host) enter() error {
	if err := netns.Set(h.ns); err != nil {
		return fmt.Errorf("enter network namespace: %w", err)
	}
	return nil
}

// check fails the test if err is not nil.
func (h *Host) check(err error) {
	if err != nil {
		h.t.Helper()
		h.t.Fatalf("netnstest: host %s: %v", h.name, err)
	}
}
