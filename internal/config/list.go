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
// The error is that of r.
func ReadList(r io.Reader) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		lines := bufio.NewScanner(r)
		for n := 1; lines.Scan(); n++ {
			text := lines.Text()
			if n == 1 {
				text = string(withoutBOM([]byte(text)))
			}
			for _, mark := range []string{"#", ";", "//"} {
				text, _, _ = strings.Cut(text, mark)
			}
			if text = strings.TrimSpace(text); text == "" {
				continue
			}
			e := Entry{Line: n, Text: text}
			e.Prefixes, e.Err = ParseEntry(text)
			if !yield(e, nil) {
				return
			}
		}
		if err := lines.Err(); err != nil {
			yield(Entry{}, err)
		}
	}
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
