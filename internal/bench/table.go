package main

import (
	"fmt"
	"io"
	"strings"
)

// table is a table in Markdown.
type table struct {
	caption string
	columns []string
	rows    [][]string
	note    string
	// references is how many of the runners of a contest the others are
	// compared to.
	references int
}

func (t *table) row(cells ...string) { t.rows = append(t.rows, cells) }

// write writes the table under its caption. All columns but the first are
// aligned to the right if they begin with a number.
func (t *table) write(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "### %s\n\n", t.caption)
	line := func(cells []string) { fmt.Fprintf(&b, "| %s |\n", strings.Join(cells, " | ")) }
	line(t.columns)
	rule := make([]string, len(t.columns))
	for i := range rule {
		rule[i] = "---"
		if i > 0 && t.numeric(i) {
			rule[i] = "---:"
		}
	}
	line(rule)
	for _, r := range t.rows {
		line(r)
	}
	if t.note != "" {
		fmt.Fprintf(&b, "\n%s\n", t.note)
	}
	b.WriteString("\n")
	_, err := io.WriteString(w, b.String())
	return err
}

func (t *table) numeric(column int) bool {
	for _, r := range t.rows {
		if c := r[column]; c != "" && strings.Trim(c[:1], "+-−0123456789") == "" {
			return true
		}
	}
	return false
}
