package netnstest

import (
	"fmt"
	"os"

	"github.com/vishvananda/netlink"
)

// Runner is what runs the tests of a test binary. A *testing.M is one, and so
// is testscript's TestingM.
type Runner interface {
	// Run runs the tests and returns the exit code.
	Run() int
}

// Main runs the tests of m with the privilege to make network namespaces, and
// returns the code to exit with:
//
//	func TestMain(m *testing.M) { os.Exit(netnstest.Main(m)) }
//
// A process that has the privilege (root, as a rule) runs them itself. Any
// other starts its binary anew, with the same arguments, in a user, network and
// mount namespace where it is root, and Main returns the exit code of that
// child. Where the system forbids that too, Main says on stderr what is missing
// and what to do about it, and returns 1. It never skips: tests that did not
// run are not tests that passed.
func Main(m Runner) int {
	inChild := os.Getenv(childVariable) != ""
	// Unset, so that a process started by a test begins with a clean slate.
	os.Unsetenv(childVariable)

	err := havePrivilege()
	if err == nil && inChild {
		err = upLoopback(&netlink.Handle{})
	}
	if err == nil {
		return m.Run()
	}
	if !inChild {
		code, childErr := runChild()
		if childErr == nil {
			return code
		}
		err = childErr
	}
	fmt.Fprint(os.Stderr, forbidden(err, os.DirFS("/")))
	return 1
}
