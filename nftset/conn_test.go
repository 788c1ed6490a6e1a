package nftset

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// TestDial opens connections that can not be, and closes and uses ones that are
// closed.
func TestDial(t *testing.T) {
	file, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if c, err := Dial(&Config{NetNS: int(file.Fd())}); err == nil {
		t.Error("a file that is no namespace:", c.Close())
	}
	c, err := Dial(nil)
	if err != nil {
		t.Fatal(err)
	}
	if c.PortID() == 0 {
		t.Error("no port id")
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	s := &Set{Table: Table{FamilyINet, "t"}, Name: "s", Type: IPv4Addr}
	if _, err := firstError(c, s); err == nil {
		t.Error("read with a closed connection")
	}
	if err := c.AddSeq(s, singles(addr("10.0.0.1"))); err == nil {
		t.Error("wrote with a closed connection")
	}
}

// TestFileDescriptors opens and closes many connections, and fails to open
// others.
func TestFileDescriptors(t *testing.T) {
	l := newLab(t)
	s := l.set("s", IPv4Addr, 0, Element{Interval: iv("10.0.0.1")})
	count := func() int {
		entries, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	file, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	before := count()
	for range 100 {
		c, err := Dial(&Config{NetNS: l.host.FD()})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Get(s, addr("10.0.0.1")); err != nil {
			t.Error(err)
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		if _, err := Dial(&Config{NetNS: int(file.Fd())}); err == nil {
			t.Fatal("a file that is no namespace")
		}
	}
	if after := count(); after > before+5 { // other tests may open a few
		t.Errorf("%d file descriptors became %d", before, after)
	}
}

// childVariable makes the test binary one of the programs in children instead.
const childVariable = "NFTSET_TEST_CHILD"

// children run in a user namespace of their own. They print what the parent
// compares.
var children = map[string]func() error{
	// In the parent's network namespace, where it may do nothing.
	"forbidden": func() error {
		c, err := Dial(nil)
		if err != nil {
			return err
		}
		defer c.Close()
		s := &Set{Table: Table{FamilyINet, "t"}, Name: "s", Type: IPv4Addr}
		_, read := firstError(c, s)
		_, get := c.Get(s, addr("10.0.0.1"))
		_, sets := c.Sets(s.Table)
		_, generation := c.Generation()
		var tx Tx
		tx.AddTable(s.Table)
		for _, err := range []error{read, get, sets, generation, c.Check(&tx), c.Commit(&tx), c.AddSeq(s, singles(addr("10.0.0.1")))} {
			fmt.Printf("%v: %v\n", errors.Is(err, os.ErrPermission), err)
		}
		return nil
	},
	// In a network namespace of its own: it may do anything but exceed the
	// limits that are not its own.
	"large": func() error {
		c, err := Dial(nil)
		if err != nil {
			return err
		}
		defer c.Close()
		s := &Set{Table: Table{FamilyINet, "t"}, Name: "s", Type: IPv4Addr}
		var tx Tx
		tx.AddTable(s.Table)
		tx.AddSet(s)
		if err := c.Commit(&tx); err != nil {
			return err
		}
		limit, _, err := sendLimits()
		if err != nil {
			return err
		}
		elems := bulky(limit)
		err = c.replaceSeq(s, each(elems...))
		fmt.Printf("%v: %v\n", errors.Is(err, unix.EMSGSIZE), err)
		left := 0
		for _, err := range c.Elements(s) {
			if err != nil {
				return err
			}
			left++
		}
		fmt.Printf("%d elements\n", left)
		return nil
	},
}

// runChild runs one of children and returns what it printed.
func runChild(t *testing.T, name string, flags uintptr) string {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), childVariable+"="+name)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | flags,
		UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}},
	}
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("child: %v: %s", err, stderr.String())
	}
	return string(out)
}

func TestPermission(t *testing.T) {
	const want = `true: read set inet t s: operation not permitted
true: get element 10.0.0.1 of inet t s: operation not permitted
true: read sets of table inet t: operation not permitted
true: read generation: operation not permitted
true: commit transaction: operation not permitted
true: commit transaction: operation not permitted
true: commit transaction: operation not permitted
`
	if got := runChild(t, "forbidden", 0); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// sendLimits returns the largest send buffer that anybody can have, and the
// largest that this process can.
func sendLimits() (all, own int, err error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		return 0, 0, err
	}
	defer unix.Close(fd)
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, 1<<29); err != nil {
		return 0, 0, err
	}
	if all, err = unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF); err != nil {
		return 0, 0, err
	}
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, 1<<29)
	own, err = unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF)
	return all, own, err
}

// bulky returns elements that take more than so many bytes in a message.
func bulky(size int) []Element {
	var out []Element
	for el := range spread(uint64(size/maxElemComment + 1)) {
		el.Comment = strings.Repeat("c", maxElemComment)
		out = append(out, el)
	}
	return out
}

func TestSendBuffer(t *testing.T) {
	got := runChild(t, "large", syscall.CLONE_NEWNET)
	for _, want := range []string{"true: commit transaction: a transaction of ", " raise net.core.wmem_max: message too long\n0 elements\n"} {
		if !strings.Contains(got, want) {
			t.Errorf("got\n%s\nwant %q in it", got, want)
		}
	}
}

// TestLargeTransaction goes beyond net.core.wmem_max, which root may and others
// may not.
func TestLargeTransaction(t *testing.T) {
	all, own, err := sendLimits()
	if err != nil {
		t.Fatal(err)
	}
	l := newLab(t)
	elems := bulky(all)
	s := l.set("s", IPv4Addr, 0)
	err = l.replaceSeq(s, each(elems...))
	if own <= all {
		if !errors.Is(err, unix.EMSGSIZE) {
			t.Errorf("without privilege: %v", err)
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	if n, err := firstError(l.Conn, s); n != len(elems) || err != nil {
		t.Errorf("wrote %d elements, read %d, %v", len(elems), n, err)
	}
}
