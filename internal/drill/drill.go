// Package drill has a stranger beside this host: a throw-away network namespace
// with a link to that of the caller, from which real packets come.
//
// The namespace has no name, and the process alone holds it: however that ends,
// the kernel takes it down, and the link with it.
package drill

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// Drills is how many can be held at once: each has a number below it.
const Drills = 8

const guestDev = "eth0"

var native = binary.NativeEndian

var (
	// ErrNoFamily means that this host does not speak IPv6, or IPv4.
	ErrNoFamily = errors.New("switched off on this host")
	// ErrBusy means that as many drills as can be are held already.
	ErrBusy = fmt.Errorf("%d others run", Drills)
)

// Stranger is who packets come from.
type Stranger struct {
	// Number tells it from others that are there at the same time.
	Number int
	// Dev is the interface of this host by which its packets come in.
	Dev string

	host, guest   rtnl
	index, inside int // of both ends of the link
	work          chan func()
}

// New makes a stranger. It needs CAP_SYS_ADMIN, and CAP_NET_ADMIN on this host.
func New(ctx context.Context) (_ *Stranger, err error) {
	s := &Stranger{work: make(chan func())}
	var tid int
	begun := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocks it: the thread ends with the goroutine, and the namespace with that
		tid = unix.Gettid()
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			s.guest, err = dialRTNL()
		}
		begun <- err
		for f := range s.work {
			f()
		}
	}()
	if err := <-begun; err != nil {
		close(s.work)
		return nil, fmt.Errorf("make a network namespace: %w", err)
	}
	defer func() {
		if err != nil {
			s.Close()
		}
	}()
	if s.host, err = dialRTNL(); err != nil {
		return nil, err
	}
	for s.Number = 0; ; s.Number++ {
		if s.Number == Drills {
			return nil, ErrBusy
		}
		s.Dev = fmt.Sprintf("pm-drill%d", s.Number)
		if err = s.host.addPair(s.Dev, tid); !errors.Is(err, unix.EEXIST) {
			break
		}
	}
	if err != nil {
		if errors.Is(err, unix.EOPNOTSUPP) {
			err = fmt.Errorf("this kernel has no such interfaces (CONFIG_VETH): %w", err)
		}
		return nil, fmt.Errorf("make a veth pair: %w", err)
	}
	dev, err := net.InterfaceByName(s.Dev)
	if err != nil {
		return nil, fmt.Errorf("find %s: %w", s.Dev, err)
	}
	s.index = dev.Index
	if err := s.inNamespace(func() error {
		dev, err := net.InterfaceByName(guestDev)
		if err == nil {
			s.inside, err = dev.Index, s.guest.setUp(dev.Index)
		}
		return err
	}); err != nil {
		return nil, fmt.Errorf("set up the stranger's interface: %w", err)
	}
	if err := s.host.setUp(s.index); err != nil {
		return nil, fmt.Errorf("set up %s: %w", s.Dev, err)
	}
	err = Await(ctx, time.Second, func() (bool, error) {
		here, err := s.host.isUp(s.index)
		there, fault := s.guest.isUp(s.inside)
		return here && there, errors.Join(err, fault)
	})
	if err != nil {
		return nil, fmt.Errorf("wait for the link: %w", err)
	}
	return s, nil
}

// Await asks again and again until the answer is yes, for a time at most:
// [context.DeadlineExceeded] then.
func Await(ctx context.Context, patience time.Duration, done func() (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		if ok, err := done(); ok || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(2 * time.Millisecond):
		}
	}
}

// inNamespace calls f on the thread that is in the namespace.
func (s *Stranger) inNamespace(f func() error) error {
	done := make(chan error)
	s.work <- func() { done <- f() }
	return <-done
}

// Connect gives this host and the stranger an address each, of one family.
func (s *Stranger) Connect(host, stranger netip.Addr) error {
	err := s.host.connect(s.index, host, stranger, guestMAC)
	if err == nil {
		err = s.guest.connect(s.inside, stranger, host, hostMAC)
	}
	if hasNoFamily(err) {
		return ErrNoFamily
	}
	return err
}

// Answer is what the stranger gets for the first packet of a connection.
type Answer string

// The answers.
const (
	Accepted Answer = "answered"
	Refused  Answer = "refused"   // by a reset
	Rejected Answer = "rejected"  // by an ICMP error
	Nothing  Answer = "no answer" // within the patience
)

// Call opens a connection from an address of the stranger, and closes it at
// once. The kernel of the stranger sends the SYN.
func (s *Stranger) Call(ctx context.Context, from netip.Addr, to netip.AddrPort, patience time.Duration) (answer Answer, err error) {
	err = s.inNamespace(func() error {
		// A SYN is repeated after a second.
		d := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(from, 0)), Timeout: min(patience, 900*time.Millisecond), KeepAlive: -1}
		conn, err := d.DialContext(ctx, "tcp", to.String())
		var timeout net.Error
		switch {
		case err == nil:
			answer = Accepted
			conn.(*net.TCPConn).SetLinger(0) // nothing of it is left
			return conn.Close()
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, unix.ECONNREFUSED):
			answer = Refused
		case errors.As(err, &timeout) && timeout.Timeout():
			answer = Nothing
		case errors.Is(err, unix.EHOSTUNREACH), errors.Is(err, unix.ENETUNREACH), errors.Is(err, unix.EACCES):
			answer = Rejected
		default:
			return err
		}
		return nil
	})
	return answer, err
}

// Close takes the stranger away, and the link.
func (s *Stranger) Close() (err error) {
	if s.host.Conn != nil {
		if s.index > 0 {
			err = s.host.remove(s.index)
		}
		s.host.Close()
	}
	s.guest.Close()
	close(s.work)
	return err
}
