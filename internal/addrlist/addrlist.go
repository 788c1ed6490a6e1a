// Package addrlist reads lists of addresses, prefixes and ranges: the one
// grammar of whitelists, and of what is banned and unbanned by hand.
package addrlist

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"iter"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/portmon/portmon/internal/text"
	"github.com/portmon/portmon/nftset"
)

// Entry is a line of a list.
type Entry struct {
	Line, Column int // both from 1, the column in bytes
	// Text is the line without a comment and without blanks around it. It is left
	// out of an entry with an Err if it looks neither like addresses nor like the
	// name of a host: it may be a line of a file of secrets, which no message is
	// to show.
	Text string

	// Prefixes hold exactly the addresses of the line; without any, Err says
	// why. The next entry overwrites them.
	Prefixes []netip.Prefix
	Err      error
}

// longestLine bounds a line, in bytes.
const longestLine = 64 << 10

// Read reads a list of at most limit bytes, with one entry per line, as [Parse]
// reads it. "#", ";" and "//" begin a comment, and empty lines are skipped. A
// line that is not an entry, or is too long, yields an Entry with an error. The
// error of the iterator is that of r, or says that the list is too large.
func Read(r io.Reader, limit int64) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		limited := &io.LimitedReader{R: r, N: limit + 1}
		lines := bufio.NewReaderSize(limited, longestLine)
		var prefixes []netip.Prefix
		var err error
		for n := 1; err == nil; n++ {
			var line []byte
			line, err = lines.ReadSlice('\n')
			if n == 1 {
				line = bytes.TrimPrefix(line, []byte("\uFEFF")) // which some editors put first
			}
			e := Entry{Line: n}
			if errors.Is(err, bufio.ErrBufferFull) {
				e.Column, e.Text = 1, text.Shorten(string(line[:100]), 40)
				e.Err = fmt.Errorf("longer than %s", text.Size(longestLine))
				for errors.Is(err, bufio.ErrBufferFull) {
					_, err = lines.ReadSlice('\n')
				}
			} else if e.Text, e.Column = cutComment(line); e.Text != "" {
				prefixes, e.Err = appendEntry(prefixes[:0], e.Text)
				e.Prefixes = prefixes
			}
			if errors.Is(e.Err, ErrSyntax) && strings.ContainsAny(e.Text, " \t,;") {
				e.Err = errors.New("want one entry per line")
			}
			if e.Err != nil && !harmless.MatchString(e.Text) {
				e.Text = ""
			}
			switch {
			case limited.N == 0:
				yield(Entry{}, fmt.Errorf("larger than %s", text.Size(limit)))
				return
			case err != nil && !errors.Is(err, io.EOF):
				yield(Entry{}, err)
				return
			case (e.Err != nil || len(e.Prefixes) > 0) && !yield(e, nil):
				return
			}
		}
	}
}

// harmless has the characters of addresses, a dot or colon among them, or is the
// name of a host in a domain.
var harmless = regexp.MustCompile(`^[0-9a-fA-F/,; \t-]*[.:][0-9a-fA-F.:/,; \t-]*$|^[a-z0-9-]+(\.[a-z0-9-]+)+$`)

// cutComment returns what comes before a comment, without blanks around it, and
// the column where that starts. A semicolon between two entries begins none:
// reading the first alone would drop the second.
func cutComment(line []byte) (entry string, column int) {
	s := strings.TrimLeft(string(line), " \t\r\n")
	column = len(line) - len(s) + 1
	for _, mark := range []string{"#", "//"} {
		s, _, _ = strings.Cut(s, mark)
	}
	if before, after, found := strings.Cut(s, ";"); found && (before == "" || !beginsWithEntry(after)) {
		s = before
	}
	return strings.TrimSpace(s), column
}

// beginsWithEntry tells a list of entries from a comment, which may begin with
// an address as well, but goes on with a word.
func beginsWithEntry(s string) bool {
	if i := strings.IndexAny(s, ";,"); i >= 0 {
		s = s[:i]
	}
	notEntry := func(s string) bool {
		_, err := Parse(s)
		return err != nil
	}
	words := strings.Fields(s)
	return !notEntry(strings.TrimSpace(s)) || len(words) > 0 && !slices.ContainsFunc(words, notEntry)
}

// ErrSyntax is the error of [Parse] for a text that is not an entry at all.
var ErrSyntax = errors.New("want an address, a prefix such as 192.0.2.0/24 or 2001:db8::/32, " +
	"or a range such as 192.0.2.10-192.0.2.20; names are not resolved")

// Parse reads an address, a prefix such as 192.0.2.0/24, the same as
// 192.0.2.0/255.255.255.0, or a range such as 192.0.2.10-192.0.2.20, and
// returns the fewest prefixes that hold exactly its addresses. Host bits of a
// prefix are dropped, and IPv4 written as IPv6 becomes IPv4. The error says what
// is wrong or what is wanted, and does not repeat s.
func Parse(s string) ([]netip.Prefix, error) { return appendEntry(nil, s) }

func appendEntry(prefixes []netip.Prefix, s string) ([]netip.Prefix, error) {
	if strings.Contains(s, "%") {
		return prefixes, errors.New("zones are not supported: leave out the percent sign and what follows")
	}
	if first, last, ok := strings.Cut(s, "-"); ok {
		return appendRange(prefixes, strings.TrimSpace(first), strings.TrimSpace(last))
	}
	host, length, hasLength := strings.Cut(s, "/")
	addr, err := netip.ParseAddr(host)
	switch {
	case err != nil:
		return prefixes, ErrSyntax
	case !hasLength:
		addr = addr.Unmap()
		return append(prefixes, netip.PrefixFrom(addr, addr.BitLen())), nil
	case addr.Is4() && strings.Contains(length, "."):
		mask, _ := netip.ParseAddr(length)
		bits, size := net.IPMask(mask.AsSlice()).Size()
		if size != 32 {
			return prefixes, errors.New("want a netmask such as 255.255.255.0 after the slash")
		}
		s = host + "/" + strconv.Itoa(bits)
	}
	p, err := netip.ParsePrefix(s)
	switch {
	case err != nil:
		return prefixes, fmt.Errorf("want a prefix length from 0 to %d after the slash", addr.BitLen())
	case addr.Is4In6() && p.Bits() < 96:
		return prefixes, errors.New("want a prefix length from 96 to 128 for IPv4 written as ::ffff:0:0/96")
	case addr.Is4In6():
		p = netip.PrefixFrom(addr.Unmap(), p.Bits()-96)
	}
	return append(prefixes, p.Masked()), nil
}

func appendRange(prefixes []netip.Prefix, first, last string) ([]netip.Prefix, error) {
	from, err1 := netip.ParseAddr(first)
	to, err2 := netip.ParseAddr(last)
	if from.Is4In6() && to.Is4In6() {
		from, to = from.Unmap(), to.Unmap()
	}
	switch {
	case err1 != nil || err2 != nil:
		return prefixes, ErrSyntax
	case from.Is4() != to.Is4() || from.Is4In6() != to.Is4In6():
		return prefixes, errors.New("want two addresses of the same family")
	case to.Less(from):
		return prefixes, fmt.Errorf("the range is reversed: want %s-%s", to, from)
	}
	all := nftset.Interval{From: nftset.AddrKey(from), To: nftset.AddrKey(to)}
	return append(prefixes, all.Prefixes()...), nil
}
