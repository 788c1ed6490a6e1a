package config

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"iter"
	"net"
	"net/netip"
	"strings"
)

// Entry is a line of a list of addresses.
type Entry struct {
	Line int
	Text string // without blanks around it, and without a comment
	// Prefixes are what the line stands for, and Err why it stands for nothing.
	Prefixes []netip.Prefix
	Err      error
}

// ReadList reads a list of addresses, one a line, as [ParseEntry] reads them.
// What follows "#", ";" or "//" is a comment, and empty lines are passed over.
// A line that is too long for an entry is an entry with an error. The error of the
// iterator is that of r.
func ReadList(r io.Reader) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		lines := bufio.NewReaderSize(r, longestLine)
		var err error
		for n := 1; err == nil; n++ {
			var line []byte
			line, err = lines.ReadSlice('\n')
			if n == 1 {
				line = withoutBOM(line)
			}
			text, comment := cutComment(string(line))
			long := errors.Is(err, bufio.ErrBufferFull) && !comment
			for errors.Is(err, bufio.ErrBufferFull) {
				_, err = lines.ReadSlice('\n')
			}
			if err != nil && !errors.Is(err, io.EOF) {
				yield(Entry{}, err)
				return
			}
			e := Entry{Line: n, Text: text}
			switch {
			case long:
				e.Text, e.Err = text[:min(len(text), 40)]+"…", errors.New("the line is too long")
			case text == "":
				continue
			default:
				e.Prefixes, e.Err = ParseEntry(text)
			}
			if !yield(e, nil) {
				return
			}
		}
	}
}

// longestLine is up to where a line is looked at, in bytes, which is far more
// than any entry has.
const longestLine = 4096

// cutComment returns what stands before a comment, without blanks around it, and
// whether there is a comment.
func cutComment(line string) (text string, found bool) {
	text = line
	for _, mark := range []string{"#", ";", "//"} {
		var here bool
		text, _, here = strings.Cut(text, mark)
		found = found || here
	}
	return strings.TrimSpace(text), found
}

// ParseEntry reads an address, a prefix such as 192.0.2.0/24, the same as
// 192.0.2.0/255.255.255.0, or a range such as 192.0.2.10-192.0.2.20. Host bits
// of a prefix are dropped, and IPv4 that is written as IPv6 is taken as such.
// The error does not repeat s.
func ParseEntry(s string) ([]netip.Prefix, error) {
	if strings.Contains(s, "%") {
		return nil, errors.New("zones are not possible: leave out the percent sign and what follows")
	}
	if first, last, ok := strings.Cut(s, "-"); ok {
		prefixes, _, err := appendRange(nil, strings.TrimSpace(first), strings.TrimSpace(last))
		return prefixes, err
	}
	if addr, mask, ok := strings.Cut(s, "/"); ok && strings.Contains(mask, ".") && !strings.Contains(addr, ":") {
		bits, err := maskLength(mask)
		if err != nil {
			return nil, err
		}
		s = fmt.Sprintf("%s/%d", addr, bits)
	}
	prefixes, _, err := appendPrefix(nil, s)
	return prefixes, err
}

// maskLength returns the prefix length that a netmask stands for.
func maskLength(s string) (int, error) {
	if mask, err := netip.ParseAddr(s); err == nil && mask.Is4() {
		if bits, size := net.IPMask(mask.AsSlice()).Size(); size > 0 {
			return bits, nil
		}
	}
	return 0, errors.New("want a netmask such as 255.255.255.0 after the slash")
}

// IsMisspelled reports whether an error of [ParseEntry] says no more than that
// the text is not an entry.
func IsMisspelled(err error) bool { return errors.Is(err, errEntry) }
