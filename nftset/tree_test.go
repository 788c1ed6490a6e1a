package nftset

import (
	"cmp"
	"slices"
	"strings"
	"testing"
)

// pairsOf returns the intervals that entries make in this order, sorted.
func pairsOf(entries []listed) []Element {
	var p pairing
	for _, l := range entries {
		p.add(l)
	}
	slices.Reverse(p.elems)
	return p.elems
}

// inOrder returns entries as the kernel sends them: from the highest key to the
// lowest, a start before an end.
func inOrder(entries []listed) []listed {
	side := func(l listed) int {
		if l.end {
			return 1
		}
		return 0
	}
	return slices.SortedStableFunc(slices.Values(entries), func(a, b listed) int {
		return cmp.Or(b.el.From.Compare(a.el.From), side(a)-side(b))
	})
}

// entry is one entry of an interval set: "5" or, for an end, "-9".
func entries(s ...string) []listed {
	var out []listed
	for _, s := range s {
		text, end := strings.CutPrefix(s, "-")
		x := iv(text)
		out = append(out, listed{el: Element{Interval: x}, end: end})
	}
	return out
}

func TestPair(t *testing.T) {
	for _, tt := range []struct {
		name  string
		in    []listed
		want  []Interval
		sound bool
	}{
		{"nothing", nil, nil, true},
		{"one", entries("5", "-9"), ivs("5-8"), true},
		{"in the kernel's order", entries("-9", "5", "-3", "1"), ivs("1-2", "5-8"), true},
		{"touching", entries("-9", "5", "-5", "1"), ivs("1-4", "5-8"), true},
		{"touching, the other way round", entries("5", "-5", "-9", "1"), ivs("1-4", "5-8"), true},
		{"single keys, touching", entries("-7", "6", "-6", "5", "-5", "4"), ivs("4", "5", "6"), true},
		{"to the top", entries("65000"), ivs("65000-65535"), true},
		{"to the top, as two", entries("65000", "-65535", "65535"), ivs("65000-65534", "65535"), true},
		{"all", entries("0"), ivs("0-65535"), true},
		{"an end at zero, as nft makes it", entries("-9", "5", "-0"), ivs("5-8"), true},
		{"an end whose start expired", entries("-9", "-3", "1"), ivs("1-2"), true},
		{"ends whose starts expired", entries("-9", "-7", "-3"), nil, true},
		{"repeated", entries("-9", "5", "-9", "5", "-3", "1"), ivs("1-2", "5-8"), false},
		{"repeated start", entries("5", "-9", "5"), ivs("5-8"), false},
		{"repeated end", entries("5", "-9", "-9"), ivs("5-8"), false},
		{"without end", entries("-9", "5", "1"), ivs("1-4", "5-8"), false},
		{"addresses", entries("-10.0.1.0", "10.0.0.0", "224.0.0.0"), ivs("10.0.0.0/24", "224.0.0.0-255.255.255.255"), true},
		{"everything of IPv6", entries("::"), ivs("::/0"), true},
	} {
		p := pairing{sound: true}
		for _, l := range inOrder(tt.in) {
			p.add(l)
		}
		slices.Reverse(p.elems)
		if got := intervalsOf(p.elems); !slices.Equal(got, tt.want) || p.sound != tt.sound {
			t.Errorf("%s: got %v, sound %v; want %v, %v", tt.name, got, p.sound, tt.want, tt.sound)
		}
	}
}

// TestPairRandom takes disjoint intervals apart, repeats some of their entries,
// adds orphaned ends, puts all in the kernel's order, goes back once, and wants
// the intervals back with what their starts bear.
func TestPairRandom(t *testing.T) {
	r := random(t)
	for range 500 {
		s := &Set{Type: keyTypes[r.IntN(len(keyTypes))], Flags: FlagInterval | FlagTimeout}
		want := randomElements(r, s, 30)
		slices.SortFunc(want, func(a, b Element) int { return a.Compare(b.Interval) })
		var in []listed
		for _, el := range want {
			end, open := el.To.Next()
			el.To = el.From
			for range 1 + r.IntN(2) {
				in = append(in, listed{el: el})
			}
			if open {
				in = append(in, slices.Repeat([]listed{{el: Single(end), end: true}}, 1+r.IntN(2))...)
			}
		}
		// An orphan lies in a gap, or where an interval begins.
		for range r.IntN(5) {
			k := randomKey(r, s.Type)
			if !slices.ContainsFunc(want, func(el Element) bool { return el.Contains(k) && el.From != k }) {
				in = append(in, listed{el: Single(k), end: true})
			}
		}
		in = inOrder(in)
		if at := r.IntN(len(in) + 1); at > 0 {
			in = slices.Insert(in, at, in[r.IntN(at):at]...)
		}
		if got := pairsOf(in); !slices.Equal(got, want) {
			t.Fatalf("got %v, want %v", got, want)
		}
	}
}
