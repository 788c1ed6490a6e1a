package config

import (
	"bytes"
	"net"
	"strconv"
	"strings"
)

// quotesHint asks whether quotes were forgotten, if the word at the offset
// would be good for something in quotes.
func quotesHint(data []byte, offset int) string {
	const delimiters = " \t\r\n,=[]{}\"'#"
	from := bytes.LastIndexAny(data[:offset], delimiters) + 1
	to := bytes.IndexAny(data[offset:], delimiters)
	if to < 0 {
		to = len(data) - offset
	}
	word := string(data[from : offset+to])
	if !isText(word) {
		return ""
	}
	return "did you mean " + strconv.Quote(word) + ", in quotes?"
}

// isText reports whether some key could have the word for its value, as a
// string.
func isText(word string) bool {
	_, durationErr := parseDuration(word, 0, maxDuration)
	_, portsErr := parsePorts(word)
	_, _, entryErr := appendEntry(nil, word)
	_, port, hostErr := net.SplitHostPort(word)
	_, isPort := parsePort(port)
	return durationErr == nil ||
		portsErr == nil && strings.Contains(word, "-") ||
		entryErr == nil ||
		hostErr == nil && isPort ||
		strings.HasPrefix(word, "/") ||
		strings.HasPrefix(word, "http")
}
