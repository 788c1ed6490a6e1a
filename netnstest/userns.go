package netnstest

import (
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"syscall"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// childVariable marks the environment of a child, so that a child without the
// privilege does not start another.
const childVariable = "NETNSTEST_CHILD"

// havePrivilege returns nil if this process can make network namespaces,
// configure them and open packet sockets in them. It asks by doing so: the
// capabilities alone do not tell, because a seccomp filter or a limit may stand
// in the way, and because root of a user namespace may not enter, so not return
// to, a network namespace from outside of it.
func havePrivilege() error {
	return onThread(saveNamespace, func() error {
		ns, err := netns.New()
		if err != nil {
			return fmt.Errorf("create network namespace: %w", err)
		}
		defer ns.Close()
		raw, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("open packet socket: %w", err)
		}
		defer unix.Close(raw)
		return upLoopback(&netlink.Handle{})
	})
}

// upLoopback makes 127.0.0.1 and ::1 work in a new network namespace: that of a
// Host, or of the child, where tests that serve on loopback without a Host
// should not notice where they run.
func upLoopback(rtnl *netlink.Handle) error {
	lo, err := rtnl.LinkByName("lo")
	if err == nil {
		err = rtnl.LinkSetUp(lo)
	}
	if err != nil {
		return fmt.Errorf("set up lo: %w", err)
	}
	return nil
}

// runChild runs this binary again as root of a new user namespace and returns
// its exit code. The error is not nil only if the child could not be started.
func runChild() (int, error) {
	// The parent death signal is sent when the thread that started the child
	// ends, so this one must not.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()

	cmd := &exec.Cmd{
		Path: "/proc/self/exe", Args: os.Args, Env: append(os.Environ(), childVariable+"=1"),
		Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr,
		SysProcAttr: &syscall.SysProcAttr{
			Cloneflags:  unix.CLONE_NEWUSER | unix.CLONE_NEWNET | unix.CLONE_NEWNS,
			UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}},
			GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}},
			Pdeathsig:   unix.SIGKILL,
		},
	}
	if err := cmd.Start(); err != nil {
		return 0, fmt.Errorf("create user namespace: %w", err)
	}
	// `go test` ends a binary that runs too long with SIGQUIT, to see its
	// goroutines: those of interest are the child's.
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, unix.SIGINT, unix.SIGTERM, unix.SIGQUIT)
	go func() {
		for s := range signals {
			_ = cmd.Process.Signal(s)
		}
	}()

	err := cmd.Wait()
	signal.Stop(signals)
	close(signals)
	if code := cmd.ProcessState.ExitCode(); code >= 0 {
		return code, nil
	}
	fmt.Fprintf(os.Stderr, "netnstest: run tests in a user namespace: %v\n", err)
	return 1, nil
}
