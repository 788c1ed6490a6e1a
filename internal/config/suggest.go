package config

import (
	"bytes"
	"regexp"
	"strconv"
	"strings"

	"github.com/portmon/portmon/internal/text"
)

// suggest says which of the known keys and tables an unknown one may have been
// meant to be, or which there are beside it. All tables are searched, as a line
// too far down puts a key into the wrong one.
func suggest(key string, known []string) string {
	table, name := split(key)
	if name == "ignoreip" {
		name = "whitelist" // what fail2ban calls it
	}
	best, siblings := "", []string(nil)
	nearest := 4 + 2*(len(name)/5) // two faults, and one more for every five letters
	for _, k := range known {
		t, n := split(k)
		score := 2 * text.Distance(name, n)
		if t == table {
			siblings = append(siblings, n)
		} else {
			score++ // of two as near, prefer the one in the same table
		}
		if score < nearest {
			nearest, best = score, k
		}
	}
	switch {
	case best != "":
		return "did you mean " + best + "?"
	case siblings == nil:
		return "there is no table [" + table + "]"
	}
	return "want " + text.Enumerate(siblings, "or")
}

// split parts "trap.tcp" into its table and its name. Keys of the top level
// have the table "".
func split(key string) (table, name string) {
	i := strings.LastIndexByte(key, '.')
	return key[:max(i, 0)], key[i+1:]
}

// needsQuotes matches a duration, a range, an address, a path or a URL.
var needsQuotes = regexp.MustCompile(`^(\d\S*\D\S*|/\S+|\S*[:.]\S+)$`)

// quotesHint asks whether quotes were forgotten around the word at the offset.
func quotesHint(data []byte, offset int) string {
	const delimiters = " \t\r\n,=[]{}\"'#"
	from := bytes.LastIndexAny(data[:offset], delimiters) + 1
	to := bytes.IndexAny(data[offset:], delimiters)
	if to < 0 {
		to = len(data) - offset
	}
	// Before an @ there may be a password, which belongs in no message.
	if word := string(data[from : offset+to]); len(word) <= maxQuoted && needsQuotes.MatchString(word) && !strings.Contains(word, "@") {
		return "did you mean " + strconv.Quote(word) + ", in quotes?"
	}
	return ""
}
