package config

import (
	"fmt"
	"strings"

	"github.com/portmon/portmon/internal/text"
)

// suggestKey says which of the known keys an unknown one may have been meant to
// be, or which keys there are. A key that only stands in the wrong table counts
// as near: in TOML it takes no more than a line too far down.
func suggestKey(key string, known []string) string {
	table, name := split(key)
	if name == "ignoreip" {
		name = "whitelist" // what fail2ban calls it
	}
	var best, siblings []string
	nearest := 2 * (tolerance(name) + 1)
	for _, k := range known {
		t, n := split(k)
		score := 2 * distance(name, n)
		if t == table {
			siblings = append(siblings, n)
		} else {
			score++
		}
		if score < nearest {
			nearest, best = score, []string{t, n}
		}
	}
	switch {
	case best == nil && table == "":
		return fmt.Sprintf("above the first [table] there are %s", text.Enumerate(siblings, "and"))
	case best == nil && siblings == nil:
		return fmt.Sprintf("there is no table [%s]", table)
	case best == nil:
		return fmt.Sprintf("[%s] has %s", table, text.Enumerate(siblings, "and"))
	case best[0] == table:
		return fmt.Sprintf("did you mean %s?", best[1])
	case best[0] == "":
		return fmt.Sprintf("did you mean %s, above the first [table]?", best[1])
	default:
		return fmt.Sprintf("did you mean %s, in [%s]?", best[1], best[0])
	}
}

// suggestTable is suggestKey for the name of a table.
func suggestTable(name string, known []string) string {
	var best string
	nearest := tolerance(name) + 1
	var all []string
	for _, k := range known {
		all = append(all, "["+k+"]")
		if d := distance(name, k); d < nearest {
			nearest, best = d, k
		}
	}
	if best == "" {
		return "there are " + text.Enumerate(all, "and")
	}
	return fmt.Sprintf("did you mean [%s]?", best)
}

// split parts "trap.tcp" into its table and its name. Keys of the top level
// have the table "".
func split(key string) (table, name string) {
	i := strings.LastIndexByte(key, '.')
	if i < 0 {
		return "", key
	}
	return key[:i], key[i+1:]
}

// tolerance returns how many typing errors a name of this length may have and
// still be recognised.
func tolerance(name string) int { return 1 + len(name)/5 }

// distance returns the number of characters to insert, delete or replace that
// turns a into b, letter case aside. It gives up on names so long that nobody
// mistyped them: TOML has no limit for a key, and the work grows with the
// product.
func distance(a, b string) int {
	a, b = strings.ToLower(a), strings.ToLower(b)
	if len(a) > 2*len(b)+2 {
		return len(a)
	}
	row := make([]int, len(b)+1) // distances of a[:i] to each b[:j]
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			replace := diagonal
			if a[i] != b[j] {
				replace++
			}
			diagonal = row[j+1]
			row[j+1] = min(row[j]+1, row[j+1]+1, replace)
		}
	}
	return row[len(b)]
}
