package ruleset

import (
	"bufio"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/portmon/portmon/internal/text"
	"github.com/portmon/portmon/nftset"
)

// Table is the compiled form of a [Spec]: all that is to be in the kernel.
type Table struct {
	nftset.Table
	Counters []string
	Sets     []Set
	Chains   []Chain

	// Digest identifies everything above; it is kept in the comment of a rule.
	Digest string
	// Prefix6 is the prefix length, in bits, that the keys of the IPv6 ban sets
	// have; it is kept in the comment as well, and so is Observe.
	Prefix6 int
	// Observe reports that the table drops nothing.
	Observe bool
}

// Set is a set of the table.
type Set struct {
	nftset.Set
	// Static reports that the elements are those of the Spec, listed here
	// merged and sorted; other sets belong to the packet path, the watcher and
	// the administrator.
	Static   bool
	Elements []nftset.Interval
}

// Chain is a chain of a table; Hook is nil for those that only other chains
// lead to.
type Chain struct {
	Name  string
	Hook  *Hook
	Rules []Rule
}

// Hook is where a base chain meets packets.
type Hook struct {
	Number   uint32 // NF_INET_*
	Priority int32
	Plain    bool // type filter, policy accept
}

// same reports whether a chain of the kernel is like one of a table.
func (c *Chain) same(have *Chain) bool {
	return c.sameHook(have) && slices.EqualFunc(c.Rules, have.Rules, Rule.same)
}

func (c *Chain) sameHook(have *Chain) bool {
	if c.Hook == nil || have.Hook == nil {
		return c.Hook == have.Hook
	}
	return *c.Hook == *have.Hook
}

func findChain(chains []Chain, name string) *Chain {
	for i := range chains {
		if chains[i].Name == name {
			return &chains[i]
		}
	}
	return nil
}

// set returns the set of that name, or nil.
func (t *Table) set(name string) *Set {
	for i := range t.Sets {
		if t.Sets[i].Name == name {
			return &t.Sets[i]
		}
	}
	return nil
}

// String returns the table in nft syntax, as `nft -f` reads it.
func (t *Table) String() string {
	var b strings.Builder
	t.Write(&b)
	return b.String()
}

// Write writes the table in nft syntax, as `nft -f` reads it, and returns the
// first error of w.
func (t *Table) Write(w io.Writer) error {
	b := bufio.NewWriter(w) // keeps the first error
	fmt.Fprintf(b, "table %s {\n", t.Table)
	for _, c := range t.Counters {
		fmt.Fprintf(b, "\tcounter %s {\n\t}\n\n", c)
	}
	for i := range t.Sets {
		t.Sets[i].write(b)
	}
	for i, c := range t.Chains {
		if i > 0 {
			fmt.Fprintln(b)
		}
		fmt.Fprintf(b, "\tchain %s {\n", c.Name)
		if c.Hook != nil {
			fmt.Fprintf(b, "\t\ttype filter hook prerouting priority %d; policy accept;\n", c.Hook.Priority)
		}
		for _, r := range c.Rules {
			fmt.Fprintf(b, "\t\t%s\n", r)
		}
		fmt.Fprintf(b, "\t}\n")
	}
	fmt.Fprintf(b, "}\n")
	return b.Flush()
}

func (s *Set) write(w io.Writer) {
	fmt.Fprintf(w, "\tset %s {\n\t\ttype %s\n", s.Name, s.Type)
	if s.Size > 0 {
		fmt.Fprintf(w, "\t\tsize %d\n", s.Size)
	}
	if s.Flags != 0 {
		fmt.Fprintf(w, "\t\tflags %s\n", s.Flags)
	}
	if s.Timeout > 0 {
		fmt.Fprintf(w, "\t\ttimeout %s\n", text.Duration(s.Timeout))
	}
	separator := "\t\telements = { "
	for _, iv := range s.Elements {
		fmt.Fprintf(w, "%s%s", separator, iv)
		separator = ",\n\t\t\t     "
	}
	if len(s.Elements) > 0 {
		fmt.Fprintf(w, " }\n")
	}
	fmt.Fprintf(w, "\t}\n\n")
}
