package lab

import (
	"fmt"
	"os"
	"runtime"

	"github.com/vishvananda/netns"
)

// Isolated runs tests from a thread in a network namespace of its own, for
// packages with examples: these run on that very thread, and dial the kernel
// without naming a namespace. Tests run in goroutines of their own and make hosts.
//
//	os.Exit(netnstest.Main(lab.Isolated{m}))
type Isolated struct{ M interface{ Run() int } }

// Run runs the tests and returns the exit code.
func (i Isolated) Run() int {
	runtime.LockOSThread()
	ns, err := netns.New()
	if err != nil {
		fmt.Fprintln(os.Stderr, "create network namespace:", err)
		return 1
	}
	defer ns.Close()
	return i.M.Run()
}
