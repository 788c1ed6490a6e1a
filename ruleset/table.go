package ruleset

import (
	"fmt"
	"io"
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
	// have; it is kept in the comment as well.
	Prefix6 int
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

// Chain is a chain of the table; Hook is nil for those that only other chains
// lead to.
type Chain struct {
	Name  string
	Hook  *Hook
	Rules []Rule
}

// Hook is where a base chain, of type filter and policy accept, meets packets.
type Hook struct {
	Name     string // "prerouting", "input"
	Number   uint32 // NF_INET_*
	Priority int32
}

// Rule is a list of statements.
type Rule struct {
	statements []statement
	comment    string
}

// String returns the rule in nft syntax.
func (r Rule) String() string {
	texts := make([]string, 0, len(r.statements)+1)
	for _, s := range r.statements {
		texts = append(texts, s.text)
	}
	if r.comment != "" {
		texts = append(texts, fmt.Sprintf("comment %q", r.comment))
	}
	return strings.Join(texts, " ")
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
	ew := &errWriter{w: w}
	ew.printf("table %s {\n", t.Table)
	for _, c := range t.Counters {
		ew.printf("\tcounter %s {\n\t}\n\n", c)
	}
	for i := range t.Sets {
		t.Sets[i].write(ew)
	}
	for i, c := range t.Chains {
		if i > 0 {
			ew.printf("\n")
		}
		c.write(ew)
	}
	ew.printf("}\n")
	return ew.err
}

func (s *Set) write(w *errWriter) {
	w.printf("\tset %s {\n\t\ttype %s\n", s.Name, s.Type)
	if s.Size > 0 {
		w.printf("\t\tsize %d\n", s.Size)
	}
	if s.Flags != 0 {
		w.printf("\t\tflags %s\n", s.Flags)
	}
	if s.Timeout > 0 {
		w.printf("\t\ttimeout %s\n", text.Duration(s.Timeout))
	}
	if len(s.Elements) > 0 {
		w.printf("\t\telements = { ")
		writeIntervals(w, s.Elements, ",\n\t\t\t     ")
		w.printf(" }\n")
	}
	w.printf("\t}\n\n")
}

func (c *Chain) write(w *errWriter) {
	w.printf("\tchain %s {\n", c.Name)
	if c.Hook != nil {
		w.printf("\t\ttype filter hook %s priority %d; policy accept;\n", c.Hook.Name, c.Hook.Priority)
	}
	for _, r := range c.Rules {
		w.printf("\t\t%s\n", r)
	}
	w.printf("\t}\n")
}

func writeIntervals(w *errWriter, ivs []nftset.Interval, separator string) {
	for i, iv := range ivs {
		if i > 0 {
			w.printf("%s", separator)
		}
		w.printf("%s", iv)
	}
}

// errWriter keeps the first error of many writes.
type errWriter struct {
	w   io.Writer
	err error
}

func (w *errWriter) printf(format string, args ...any) {
	if w.err == nil {
		_, w.err = fmt.Fprintf(w.w, format, args...)
	}
}

// chain returns the chain of that name, or nil.
func (t *Table) chain(name string) *Chain {
	for i := range t.Chains {
		if t.Chains[i].Name == name {
			return &t.Chains[i]
		}
	}
	return nil
}
