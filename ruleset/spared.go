package ruleset

import (
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// MaxInterfaces bounds Spec.Interfaces: each is a rule that offenders come to.
const MaxInterfaces = 64

// validateInterfaces allows what the kernel does in a name, but for what nft
// cannot read within quotes or a terminal cannot show, and a * at the end.
func validateInterfaces(names []string, bad func(format string, args ...any)) {
	if len(names) > MaxInterfaces {
		bad("%d names: want at most %d", len(names), MaxInterfaces)
	}
	for i, name := range names {
		start := strings.TrimSuffix(name, "*")
		strange := strings.ContainsFunc(start, func(r rune) bool { return r <= ' ' || r > '~' || strings.ContainsRune("/:\"\\*", r) })
		switch {
		case start == "" || len(name) >= unix.IFNAMSIZ || strange || start == "." || start == "..":
			bad("%q: want the name of an interface, such as \"wg0\", or its beginning and *, such as \"br-*\"", name)
		case slices.Contains(names[:i], name):
			bad("%q stands twice", name)
		}
	}
}
