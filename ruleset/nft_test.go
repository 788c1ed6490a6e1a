package ruleset

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// list returns the ruleset of the host as nft prints it, options first.
func (l *fixture) list(options ...string) string {
	l.T.Helper()
	return countComment.ReplaceAllString(l.NFT("", append(options, "list", "ruleset")...), "")
}

// countComment is how newer versions of nft tell the number of elements.
var countComment = regexp.MustCompile(`\t# count \d+`)

// canonical returns what nft prints of one table without the values of
// counters, and its objects sorted: the kernel keeps them in the order in which
// they were made, which means nothing.
func canonical(list string) string {
	objects := strings.Split(strings.TrimSuffix(stripCounters(list), "}\n"), "\n\n")
	for i, o := range objects {
		objects[i] = strings.TrimSpace(o)
		if header, rest, ok := strings.Cut(objects[i], "{\n"); ok && strings.HasPrefix(header, "table") {
			objects[i] = strings.TrimSpace(rest)
		}
	}
	slices.Sort(objects)
	return strings.Join(objects, "\n\n")
}

// stripCounters removes the values of counters, and the numbers of elements,
// from what nft prints.
func stripCounters(list string) string {
	return countComment.ReplaceAllString(mustReplace(`packets \d+ bytes \d+`, list, ""), "")
}

func mustReplace(pattern, s, by string) string {
	return regexp.MustCompile(pattern).ReplaceAllString(s, by)
}

// difference returns "" for equal texts, and else the lines of each that the
// other has not in that place, but for common ones at the beginning and the
// end.
func difference(got, want string) string {
	if got == want {
		return ""
	}
	g, w := strings.Split(got, "\n"), strings.Split(want, "\n")
	for len(g) > 0 && len(w) > 0 && g[0] == w[0] {
		g, w = g[1:], w[1:]
	}
	for len(g) > 0 && len(w) > 0 && g[len(g)-1] == w[len(w)-1] {
		g, w = g[:len(g)-1], w[:len(w)-1]
	}
	return "got:\n" + strings.Join(g, "\n") + "\nwant:\n" + strings.Join(w, "\n")
}

// foreign are tables of other tools: on the same hooks, with our priorities and
// our names.
const foreign = `
table ip portmon {
	counter dropped { packets 7 bytes 700; }
	set ban4 { type ipv4_addr; flags timeout; elements = { 203.0.113.99, 203.0.113.98 }; }
	chain guard {
		type filter hook prerouting priority -190; policy accept;
		ip saddr @ban4 counter packets 3 bytes 4 drop comment "portmon 0123456789abcdef /48"
	}
}
table inet portmon2 {
	map verdicts { type ipv4_addr : verdict; elements = { 203.0.113.97 : drop }; }
	chain trap {
		type filter hook input priority -10; policy accept;
		ip saddr vmap @verdicts
	}
	chain early {
		type filter hook prerouting priority -300; policy accept;
		ip saddr 203.0.113.97 counter packets 5 bytes 6
	}
}
table netdev portmon { chain offence { }; }
`

// theirs returns all that nft knows of the foreign tables.
func (l *fixture) theirs() string {
	l.T.Helper()
	return l.NFT("", "-a", "-j", "list", "table", "ip", "portmon") +
		l.NFT("", "-a", "-j", "list", "table", "inet", "portmon2") + l.NFT("", "-a", "-j", "list", "table", "netdev", "portmon")
}

// listedByNft is what nft -j says of an element, in seconds.
type listedByNft struct {
	Timeout, Expires time.Duration
	Comment          string
}

// parseNftSet returns the elements of a set that nft has listed as JSON, by
// their key as nft writes it.
func parseNftSet(t *testing.T, out string) map[string]listedByNft {
	t.Helper()
	var doc struct {
		Nftables []struct {
			Set *struct{ Elem []json.RawMessage }
		}
	}
	if err := json.Unmarshal([]byte(out), &doc); err != nil {
		t.Fatal(err)
	}
	elements := make(map[string]listedByNft)
	for _, o := range doc.Nftables {
		if o.Set == nil {
			continue
		}
		for _, raw := range o.Set.Elem {
			var e struct {
				Elem *struct {
					listedByNft
					Val json.RawMessage
				}
			}
			val := raw
			if raw[0] == '{' {
				if err := json.Unmarshal(raw, &e); err != nil {
					t.Fatal(err)
				}
			}
			var told listedByNft
			if e.Elem != nil {
				val, told = e.Elem.Val, e.Elem.listedByNft
			}
			elements[nftKey(t, val)] = told
		}
	}
	return elements
}

func nftKey(t *testing.T, val json.RawMessage) string {
	t.Helper()
	var v struct {
		Prefix *struct {
			Addr string
			Len  int
		}
		Range []string
	}
	var single string
	dest := any(&single)
	if val[0] == '{' {
		dest = &v
	}
	if err := json.Unmarshal(val, dest); err != nil {
		t.Fatalf("%s: %v", val, err)
	}
	switch {
	case v.Prefix != nil:
		return fmt.Sprintf("%s/%d", v.Prefix.Addr, v.Prefix.Len)
	case len(v.Range) == 2:
		return v.Range[0] + "-" + v.Range[1]
	}
	return single
}
