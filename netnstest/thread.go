package netnstest

import (
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// onThread runs f, which changes the thread that it runs on, and restores what
// save has saved of the thread before any other goroutine may use it. A thread
// that cannot be restored, which is an error, stays locked to the caller and
// ends with its goroutine.
func onThread(save func() (restore func() error, err error), f func() error) (err error) {
	runtime.LockOSThread()
	restore, err := save()
	if err != nil {
		runtime.UnlockOSThread()
		return err
	}
	defer func() {
		if restoreErr := restore(); restoreErr != nil {
			err = errors.Join(err, restoreErr)
			return
		}
		runtime.UnlockOSThread()
	}()
	return f()
}

// saveNamespace is for an onThread that enters another network namespace.
func saveNamespace() (restore func() error, err error) {
	home, err := netns.Get()
	if err != nil {
		return nil, fmt.Errorf("open network namespace of the thread: %w", err)
	}
	return func() error {
		defer home.Close()
		if err := netns.Set(home); err != nil {
			return fmt.Errorf("return to the network namespace of the thread: %w", err)
		}
		return nil
	}, nil
}

// aCPU is what all packets of a test's hosts are sent from. Each test has one of
// the CPUs that the process may run on, by its name: subtests, whose hosts may be
// linked to those of the test, have the same one.
//
// A veth hands a packet to the backlog of the CPU that sends it, of which each
// CPU has one, and the kernel takes packets from a backlog in order
// (net/core/dev.c, process_backlog). Forwarding, answering with a SYN+ACK, a
// reset, an echo or an ICMP error are all done on the way, and what comes of
// them goes to the end of the same backlog. So as long as all is sent from one
// CPU, there is one queue, and nothing in it overtakes. That holds for a veth
// without generic receive offload and XDP (off unless asked for since Linux
// 5.13) and without receive packet steering, as Connect makes it.
type aCPU int

var allCPUs = sync.OnceValues(func() (all unix.CPUSet, err error) {
	if err := unix.SchedGetaffinity(0, &all); err != nil {
		return all, fmt.Errorf("read CPU affinity: %w", err)
	}
	return all, nil
})

// cpuOf returns the CPU of a test.
func cpuOf(t testing.TB) (aCPU, error) {
	all, err := allCPUs()
	if err != nil {
		return 0, err
	}
	test, _, _ := strings.Cut(t.Name(), "/")
	cpu := 0
	for left := crc32.ChecksumIEEE([]byte(test)) % uint32(all.Count()); left > 0 || !all.IsSet(cpu); cpu++ {
		if all.IsSet(cpu) {
			left--
		}
	}
	return aCPU(cpu), nil
}

// pinned runs f on a thread that is bound to the CPU.
func (cpu aCPU) pinned(f func() error) error {
	var one unix.CPUSet
	one.Set(int(cpu))
	save := func() (func() error, error) {
		var before unix.CPUSet
		err := unix.SchedGetaffinity(0, &before)
		return func() error { return unix.SchedSetaffinity(0, &before) }, os.NewSyscallError("sched_getaffinity", err)
	}
	return onThread(save, func() error {
		if err := unix.SchedSetaffinity(0, &one); err != nil {
			return os.NewSyscallError("sched_setaffinity", err)
		}
		return f()
	})
}
