package main

import (
	"fmt"
	"os"
	"runtime"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/netnstest"
)

// injector sends the same frames over and over, as fast as one CPU does. A veth
// hands each to the other end within the call that sends it, so that the time
// of the sending thread is the time of sending and receiving, and differs only
// by what the receiver does.
type injector struct {
	fd   int
	msgs []mmsghdr
}

// mmsghdr is struct mmsghdr of <linux/socket.h>, which x/sys/unix does not
// have.
type mmsghdr struct {
	header unix.Msghdr // msg_hdr
	length uint32      // msg_len
}

func newInjector(t *scope, from netnstest.End, frames [][]byte) (*injector, error) {
	var fd int
	var err error
	from.Host.Do(func() { fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0) })
	if err != nil {
		return nil, fmt.Errorf("open packet socket: %w", err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_QDISC_BYPASS, 1); err != nil {
		return nil, fmt.Errorf("bypass queueing of packet socket: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Ifindex: from.Index}); err != nil {
		return nil, fmt.Errorf("bind packet socket: %w", err)
	}
	in := &injector{fd, make([]mmsghdr, len(frames))}
	for i, f := range frames {
		in.msgs[i].header.Iov = &unix.Iovec{Base: &f[0], Len: uint64(len(f))}
		in.msgs[i].header.SetIovlen(1)
	}
	return in, nil
}

// part is the injector of some of the frames.
func (in *injector) part(from, to int) *injector { return &injector{in.fd, in.msgs[from:to]} }

// send sends all frames n times over and returns the CPU time of one frame in
// nanoseconds. It must run pinned.
func (in *injector) send(n int) (float64, error) {
	begin, err := threadTime()
	if err != nil {
		return 0, err
	}
	for range n {
		for sent := 0; sent < len(in.msgs); {
			k, _, errno := unix.RawSyscall6(unix.SYS_SENDMMSG, uintptr(in.fd),
				uintptr(unsafe.Pointer(&in.msgs[sent])), uintptr(len(in.msgs)-sent), 0, 0, 0)
			if errno != 0 {
				return 0, os.NewSyscallError("sendmmsg", errno)
			}
			sent += int(k)
		}
	}
	end, err := threadTime()
	return float64(end-begin) / float64(n*len(in.msgs)), err
}

// threadTime returns the CPU time of the calling thread. Where the kernel does
// not account for interrupts apart, and few do, it includes the soft interrupts
// in which packets are received, and excludes what other processes take from
// the CPU.
func threadTime() (time.Duration, error) {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &ts); err != nil {
		return 0, os.NewSyscallError("clock_gettime", err)
	}
	return time.Duration(ts.Nano()), nil
}

// pinned runs f on the last CPU that this process may use, on a thread that
// ends with it.
func pinned(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with its goroutine
		var set unix.CPUSet
		err := unix.SchedGetaffinity(0, &set)
		for cpu := 0; err == nil && set.Count() > 1; cpu++ {
			set.Clear(cpu)
		}
		if err == nil {
			err = unix.SchedSetaffinity(0, &set)
		}
		if err == nil {
			err = f()
		}
		done <- err
	}()
	return <-done
}
