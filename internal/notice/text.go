package notice

import (
	"strings"
	"unicode"
)

// How many characters of a text are shown.
const (
	maxName   = 64  // of a host or a set
	maxReason = 200 // of what somebody wrote
)

// printable returns the first characters of a text, without line ends, NULs,
// escape sequences and what else is not text: it goes to headers, the
// environment of a program, people's telephones and the journal, and others may
// have written it.
func printable(s string, limit int) string {
	s = strings.TrimSpace(s)
	if len(s) <= limit && !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r > '~' }) {
		return s // as a rule
	}
	var b strings.Builder
	n := 0
	for _, r := range s {
		if n++; n > limit {
			b.WriteRune('…')
			break
		}
		switch {
		case unicode.IsSpace(r):
			r = ' '
		case !unicode.IsPrint(r):
			r = unicode.ReplacementChar
		}
		b.WriteRune(r)
	}
	return b.String()
}

// enumerate joins names, and says how many of a total are left out.
func enumerate(names []string, total int) string {
	s := strings.Join(names, ", ")
	if more := total - len(names); more > 0 {
		s += " and " + count(more) + " more"
	}
	return s
}
