package ruleset

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/nftset"
)

// roleVariable tells this binary that it is not to run tests, but to be a
// process without privilege in one.
const roleVariable = "RULESET_TEST_ROLE"

const (
	roleDrop = "drop"    // give up CAP_NET_ADMIN for good, then be roleTry
	roleTry  = "attempt" // try everything
)

// play returns the exit code: 0 if each attempt was refused for want of
// permission.
func play(role string) int {
	if role == roleDrop {
		err := errors.Join(
			unix.Prctl(unix.PR_CAPBSET_DROP, unix.CAP_NET_ADMIN, 0, 0, 0),
			os.Setenv(roleVariable, roleTry),
		)
		if err == nil {
			err = syscall.Exec("/proc/self/exe", os.Args, os.Environ())
		}
		fmt.Println("give up CAP_NET_ADMIN:", err)
		return 99
	}
	c, err := nftset.Dial(nil)
	if err != nil {
		fmt.Println(err)
		return 98
	}
	defer c.Close()
	code := 0
	for name, try := range map[string]func() error{
		"Apply":   func() error { _, err := Apply(c, Default()); return err },
		"Prepare": func() error { _, err := Prepare(c, Default()); return err },
		"Read":    func() error { _, err := Read(c, "portmon"); return err },
		"Remove":  func() error { _, err := Remove(c, "portmon"); return err },
		"Probe":   func() error { return Probe(c) },
	} {
		err := try()
		fmt.Printf("%s: %v\n", name, err)
		if !errors.Is(err, os.ErrPermission) || errors.Is(err, errors.ErrUnsupported) {
			code = 1
		}
	}
	return code
}

func TestWithoutPrivilege(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		role string
		attr *syscall.SysProcAttr
	}{
		"without the capability": {roleDrop, &syscall.SysProcAttr{}},
		"root of a user namespace that does not own the network": {roleTry, &syscall.SysProcAttr{
			Cloneflags:  unix.CLONE_NEWUSER,
			UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}},
			GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}},
		}},
	} {
		t.Run(name, func(t *testing.T) {
			l := newTrap(t, trapSpec())
			before := l.list("-a")
			var out []byte
			var err error
			l.Host.Do(func() {
				cmd := exec.Command("/proc/self/exe")
				cmd.Env = append(os.Environ(), roleVariable+"="+tt.role)
				cmd.SysProcAttr = tt.attr
				out, err = cmd.CombinedOutput()
			})
			if err != nil {
				t.Errorf("%v; every attempt must be os.ErrPermission:\n%s", err, out)
			}
			if n := strings.Count(string(out), "permi"); n != 5 {
				t.Errorf("%d of 5 errors speak of permission:\n%s", n, out)
			}
			if after := l.list("-a"); after != before {
				t.Errorf("the ruleset changed:\n%s\nit was:\n%s", after, before)
			}
		})
	}
}
