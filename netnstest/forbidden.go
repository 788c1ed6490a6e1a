package netnstest

import (
	"fmt"
	"io/fs"
	"strings"
)

// forbidden is what a process that cannot have network namespaces says: why,
// what stands in the way as far as the system's settings tell, and what to do.
// The settings are the files of root.
func forbidden(cause error, root fs.FS) string {
	var b strings.Builder
	fmt.Fprintf(&b, "netnstest: error: these tests need network namespaces: %v\n", cause)
	for _, o := range obstacles {
		file, _ := fs.ReadFile(root, o.path) // not there: not in the way
		for line := range strings.Lines(string(file)) {
			if strings.Join(strings.Fields(line), " ") == o.line {
				fmt.Fprintf(&b, "netnstest: hint: %s\n", o.hint)
			}
		}
	}
	b.WriteString("netnstest: hint: or run the tests as root: sudo go test, or go test -exec sudo\n")
	return b.String()
}

// obstacles are the settings that keep a user from making user namespaces, or
// from being root inside: a file, and the line of it that tells.
var obstacles = []struct{ path, line, hint string }{
	{
		// A limit of each user namespace (Linux 4.9): some distributions and
		// hardening guides set it to 0.
		"proc/sys/user/max_user_namespaces", "0",
		"user.max_user_namespaces is 0: allow user namespaces with sysctl user.max_user_namespaces=15000",
	},
	{
		"proc/sys/user/max_net_namespaces", "0",
		"user.max_net_namespaces is 0: allow network namespaces with sysctl user.max_net_namespaces=15000",
	},
	{
		// Of Debian's kernels and those that borrow its patch, not of Linux
		// itself.
		"proc/sys/kernel/unprivileged_userns_clone", "0",
		"kernel.unprivileged_userns_clone is 0: allow user namespaces with sysctl kernel.unprivileged_userns_clone=1",
	},
	{
		// Ubuntu 23.10 and later: a user namespace may be made, but gives no
		// capabilities without an AppArmor profile.
		"proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1",
		"AppArmor keeps user namespaces without capabilities: lift that with " +
			"sysctl kernel.apparmor_restrict_unprivileged_userns=0",
	},
	{
		"proc/self/status", "Seccomp: 2",
		"a seccomp filter is on, as in a container: start it with --security-opt seccomp=unconfined, or --privileged",
	},
}
