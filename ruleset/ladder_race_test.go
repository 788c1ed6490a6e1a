package ruleset

import (
	"fmt"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/internal/lab"
	"github.com/portmon/portmon/netnstest"
)

// twin sends the same frames from two CPUs at the same instants: those that
// frame returns, all at once and n times. [netnstest.Host.Burst] uses one CPU,
// so that nothing overtakes.
func (l *fixture) twin(n int, frame func(i int) []byte) {
	l.T.Helper()
	var ready [2]atomic.Int64
	var both sync.WaitGroup
	for cpu := range ready {
		both.Go(func() {
			ready[cpu].Store(-1)
			fd, err := l.packetSocket()
			if err != nil {
				l.T.Error(err)
				ready[cpu].Store(int64(n) + 1)
				return
			}
			defer unix.Close(fd)
			// The thread keeps its CPU, and ends with the goroutine.
			runtime.LockOSThread()
			var set unix.CPUSet
			set.Set(cpu)
			if err := unix.SchedSetaffinity(0, &set); err != nil {
				l.T.Error(err)
			}
			for i := range n {
				b := frame(i)
				ready[cpu].Store(int64(i) + 1)
				for deadline := time.Now().Add(lab.Patience); ready[1-cpu].Load() <= int64(i); {
					if time.Now().After(deadline) {
						l.T.Error("the other sender does not keep up")
						return
					}
				}
				if _, err := unix.Write(fd, b); err != nil {
					l.T.Error(err)
					return
				}
			}
		})
	}
	both.Wait()
	l.Internet.Fence()
}

// packetSocket returns a socket that puts frames on the link.
func (l *fixture) packetSocket() (fd int, err error) {
	l.Internet.Do(func() {
		if fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0); err == nil {
			err = unix.Bind(fd, &unix.SockaddrLinklayer{Ifindex: l.Link.A.Index})
		}
	})
	return fd, err
}

// frame returns a packet as it goes on the link.
func (l *fixture) frame(p netnstest.Packet) []byte {
	b := append(append([]byte(nil), l.Link.B.MAC[:]...), l.Link.A.MAC[:]...)
	if p.Dst.Addr().Is4() {
		b = append(b, unix.ETH_P_IP>>8, unix.ETH_P_IP&0xff)
	} else {
		b = append(b, unix.ETH_P_IPV6>>8, unix.ETH_P_IPV6&0xff)
	}
	b, err := p.AppendBinary(b)
	if err != nil {
		l.T.Error(err)
	}
	return b
}

// TestOffencesAtTheSameInstant has two packets of each source come by two CPUs:
// they are one offence, or two that are both the first.
func TestOffencesAtTheSameInstant(t *testing.T) {
	if runtime.NumCPU() < 2 {
		t.Skip("needs two CPUs: on one, two packets are never in the rules at once")
	}
	const sources = 5000
	spec := trapSpec()
	spec.Size = 32 * sources // nothing is held back
	spec.Subnet6 = 0
	l := newTrap(t, spec)
	l.families(func(l *fixture, f family) {
		l.twin(sources, func(i int) []byte {
			src := netip.AddrFrom4([4]byte{203, byte(i >> 16), byte(i >> 8), byte(i)})
			if f.is6() {
				src = addr(fmt.Sprintf("2001:db8:%x:%x::1", 0x100+i>>8, i&0xff))
			}
			p := l.SYN(src, lab.TrapTCP)
			p.Src = netip.AddrPortFrom(src, 4000)
			return l.frame(p)
		})
		if n := l.size(f.ban()); n != sources {
			l.T.Errorf("%d sources are banned, want %d", n, sources)
		}
		if n := l.size(f.tier(1)); n != sources {
			l.T.Errorf("%d sources are remembered at step 1, want %d", n, sources)
		}
		if n := l.size(f.tier(2)); n != 0 {
			l.T.Errorf("%d sources are at step 2 after their first offence", n)
		}
		l.Served(l.source(f))
	})
}
