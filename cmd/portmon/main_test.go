package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/internal/lab"
	"github.com/portmon/portmon/netnstest"
	"github.com/portmon/portmon/nftset"
	"github.com/portmon/portmon/ruleset"
)

// programs are what the test binary is when it is called by another name, as
// scripts do.
var programs = map[string]func(){
	"portmon":      main,
	"with-etc":     withEtc,
	"unprivileged": func() { without(0, unix.CAP_LAST_CAP) },
	"no-sysadmin":  func() { without(unix.CAP_SYS_ADMIN, unix.CAP_SYS_ADMIN) },
	"without-proc": withoutProc,
	"unhurried":    unhurried,
}

// unhurried is portmon where a login may take longer: what the race detector
// slows down ends as well.
func unhurried() {
	loginPatience = lab.Patience
	main()
}

// homeVariable tells programs the network namespace of the tests, in which none
// of them has any business.
const homeVariable = "PORTMON_TEST_HOME"

// raceVariable keeps the race detector from pausing for a second at the end of
// each program.
const raceVariable = "GORACE"

func TestMain(m *testing.M) {
	if program := programs[filepath.Base(os.Args[0])]; program != nil {
		if home := os.Getenv(homeVariable); home == "" || home == netNS() {
			fmt.Fprintln(os.Stderr, "this is the host that the tests run on: hands off")
			os.Exit(125)
		}
		program()
	}
	lab.FindSystemPrograms()
	os.Exit(lab.Main(untouched{m}, 8))
}

// netNS returns what tells the network namespace of the process from others.
func netNS() string {
	name, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		panic(err)
	}
	return name
}

// untouched runs tests and fails if they changed anything of the host that they
// ran on.
type untouched struct{ netnstest.Runner }

func (u untouched) Run() int {
	before, err := hostState()
	if err != nil {
		fmt.Fprintf(os.Stderr, "read the state of the host: %v\n", err)
		return 1
	}
	os.Setenv(homeVariable, netNS())
	os.Setenv(raceVariable, "atexit_sleep_ms=0")
	code := u.Runner.Run()
	after, err := hostState()
	if err != nil || !reflect.DeepEqual(before, after) {
		fmt.Fprintf(os.Stderr, "FAIL: the tests changed the host: %v\nbefore: %v\nafter:  %v\n", err, before, after)
		return 1
	}
	return code
}

// hostState returns what portmon could change on the host, as far as nobody
// else does: the table, by its handle, and its files.
func hostState() (map[string]any, error) {
	c, err := nftset.Dial(nil)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	s, err := ruleset.Read(c, tableName)
	if err != nil {
		return nil, err
	}
	state := map[string]any{"table": s.Exists, "handle": s.Handle, "digest": s.Digest}
	for _, name := range []string{"/etc/portmon", "/etc/portmon/portmon.toml", "/var/lib/portmon", "/var/lib/portmon/state.jsonl"} {
		if info, err := os.Stat(name); err == nil {
			state[name] = info.ModTime()
		}
	}
	return state, nil
}

// withEtc is a command for scripts: it runs a program for which the folder $ETC
// is /etc, and $VARLIB is /var/lib.
func withEtc() {
	runtime.LockOSThread()
	err := unix.Unshare(unix.CLONE_NEWNS)
	if err == nil {
		err = unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
	}
	if err == nil {
		err = unix.Mount(os.Getenv("ETC"), "/etc", "", unix.MS_BIND, "")
	}
	if err == nil {
		err = unix.Mount(os.Getenv("VARLIB"), "/var/lib", "", unix.MS_BIND, "")
	}
	become(err)
}

// without is a command for scripts: it runs a program without some capabilities.
// Unlike another user, that is to be had without root too, where a test has but
// one user.
func without(first, last uintptr) {
	runtime.LockOSThread()
	var err error
	for c := first; c <= last && err == nil; c++ {
		// What is not in the bounding set, not even root gets from executing a
		// program.
		if err = unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0); err == unix.EINVAL {
			err = nil // newer than the kernel
		}
	}
	become(err)
}

// withoutProc is a command for scripts, to be run by with-etc: it is portmon
// where there is no /proc, as in a chroot. It is not executed anew, because
// without /proc the test binary would not know which host it is on.
func withoutProc() {
	if err := unix.Mount("none", "/proc", "tmpfs", 0, ""); err != nil {
		fmt.Fprintf(os.Stderr, "hide /proc: %v\n", err)
		os.Exit(125)
	}
	os.Args = os.Args[1:]
	main()
	os.Exit(0)
}

// become executes the arguments in place of this process.
func become(err error) {
	path := ""
	if err == nil {
		path, err = exec.LookPath(os.Args[1])
	}
	if err == nil {
		err = unix.Exec(path, os.Args[1:], os.Environ())
	}
	fmt.Fprintf(os.Stderr, "%s: %v\n", strings.Join(os.Args, " "), err)
	os.Exit(125)
}
