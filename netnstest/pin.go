package netnstest

import (
	"errors"
	"fmt"
	"runtime"
	"sync"

	"golang.org/x/sys/unix"
)

// theCPU is the one that all packets of this package are sent from: the first
// that the process may run on.
//
// A veth hands a packet to the backlog of the CPU that sends it, of which each
// CPU has one, and the kernel takes packets from a backlog in order
// (net/core/dev.c, process_backlog). Forwarding, answering with a SYN+ACK, a
// reset, an echo or an ICMP error are all done on the way, and what comes of
// them goes to the end of the same backlog. So as long as all is sent from one
// CPU, there is one queue, and nothing in it overtakes. That holds for a veth
// without generic receive offload and XDP (off unless asked for since Linux
// 5.13) and without receive packet steering, as Connect makes it.
var theCPU = sync.OnceValues(func() (int, error) {
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &set); err != nil {
		return 0, fmt.Errorf("read CPU affinity: %w", err)
	}
	for cpu := range len(set) * 64 {
		if set.IsSet(cpu) {
			return cpu, nil
		}
	}
	return 0, errors.New("read CPU affinity: no CPU among the first 1,024")
})

// pinned runs f on a thread that is bound to theCPU. As with namespaces, a
// thread that cannot be made what it was ends with its goroutine; that, and
// failure to bind it, is an error.
func pinned(f func() error) error {
	cpu, err := theCPU()
	if err != nil {
		return err
	}
	runtime.LockOSThread()
	var before, one unix.CPUSet
	if err := unix.SchedGetaffinity(0, &before); err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("read CPU affinity: %w", err)
	}
	one.Set(cpu)
	if err := unix.SchedSetaffinity(0, &one); err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("bind thread to CPU %d: %w", cpu, err)
	}
	err = f()
	if restoreErr := unix.SchedSetaffinity(0, &before); restoreErr != nil {
		return errors.Join(err, fmt.Errorf("unbind thread from CPU %d: %w", cpu, restoreErr))
	}
	runtime.UnlockOSThread()
	return err
}
