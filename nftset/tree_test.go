package nftset

import (
	"slices"
	"strings"
	"testing"
	"time"
)

// treeOf returns the tree that has these entries.
func treeOf(entries ...listed) *tree {
	var t tree
	for _, l := range entries {
		t.add(&l)
	}
	t.sort()
	return &t
}

func collectPairs(t *tree, typ KeyType) []Element {
	var out []Element
	t.pair(typ, func(el Element) bool {
		out = append(out, el)
		return true
	})
	return out
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
		typ := InetService
		if len(tt.in) > 0 {
			typ = tt.in[0].el.From.Type()
		}
		r := random(t)
		for range 20 {
			in := treeOf(tt.in...)
			if got := intervalsOf(collectPairs(in, typ)); !slices.Equal(got, tt.want) {
				t.Errorf("%s: got %v, want %v", tt.name, got, tt.want)
			}
			if got := in.sound(); got != tt.sound {
				t.Errorf("%s: sound is %v", tt.name, got)
			}
			r.Shuffle(len(tt.in), func(i, j int) { tt.in[i], tt.in[j] = tt.in[j], tt.in[i] })
		}
	}
}

// TestTreeEqual compares trees that differ in a key, in a side, and in number.
// What the entries bear besides does not matter: it is what is left of
// timeouts.
func TestTreeEqual(t *testing.T) {
	a := entries("1", "-3", "5", "-9")
	b := slices.Clone(a)
	b[0].el.Remaining = time.Hour
	slices.Reverse(b)
	if !treeOf(a...).equal(treeOf(b...)) {
		t.Error("the same in another order is not equal")
	}
	for _, other := range [][]listed{nil, entries("1", "-3", "5"), entries("1", "-3", "5", "-8"), entries("1", "-3", "5", "9"), append(a, a[0])} {
		if treeOf(a...).equal(treeOf(other...)) {
			t.Errorf("equal to %v", other)
		}
	}
}

// TestPairRandom takes disjoint intervals apart, repeats some of their entries,
// adds orphaned ends, shuffles all, and wants the intervals back with what
// their starts bear.
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
				in = append(in, slices.Repeat([]listed{{Single(end), true}}, 1+r.IntN(2))...)
			}
		}
		// An orphan lies in a gap, or where an interval begins.
		for range r.IntN(5) {
			k := randomKey(r, s.Type)
			if !slices.ContainsFunc(want, func(el Element) bool { return el.Contains(k) && el.From != k }) {
				in = append(in, listed{Single(k), true})
			}
		}
		r.Shuffle(len(in), func(i, j int) { in[i], in[j] = in[j], in[i] })
		if got := collectPairs(treeOf(in...), s.Type); !slices.Equal(got, want) {
			t.Fatalf("got %v, want %v", got, want)
		}
	}
}

// TestPairStops checks that nothing is yielded after the loop was left.
func TestPairStops(t *testing.T) {
	for stop := range 3 {
		n := 0
		treeOf(entries("1", "-3", "5", "-9", "65000")...).pair(InetService, func(Element) bool {
			n++
			return n <= stop
		})
		if n != stop+1 {
			t.Errorf("yielded %d after false for number %d", n, stop+1)
		}
	}
}
