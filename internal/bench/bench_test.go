package main

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/portmon/portmon/nftset"
	"github.com/portmon/portmon/ruleset"
)

func TestQuantile(t *testing.T) {
	values := []float64{4, 1, 3, 2}
	for q, want := range map[float64]float64{0: 1, 0.5: 2.5, 1: 4} {
		if got := quantile(values, q); got != want {
			t.Errorf("quantile(%v, %v) = %v, want %v", values, q, got, want)
		}
	}
	if !slices.Equal(values, []float64{4, 1, 3, 2}) {
		t.Errorf("quantile sorted its argument: %v", values)
	}
}

func TestParseSNMP(t *testing.T) {
	v4 := "Tcp: InSegs OutSegs\nTcp: 12 34\nUdp: InDatagrams InErrors\nUdp: 5 6\n"
	got := parseSNMP([]byte(v4), []byte("Udp6InDatagrams                 \t7\n"))
	for name, want := range map[string]int{"Tcp InSegs": 12, "Udp InErrors": 6, "Udp6InDatagrams": 7} {
		if got[name] != want {
			t.Errorf("%s is %d, want %d", name, got[name], want)
		}
	}
}

func TestStatusField(t *testing.T) {
	status := []byte("Name:\tportmon\nVmHWM:\t   15148 kB\nVmRSS:\t   14800 kB\nThreads:\t7\n")
	for name, want := range map[string]int64{"VmRSS": 14800 << 10, "VmHWM": 15148 << 10, "VmSwap": 0, "Threads": 0} {
		if got := statusField(status, name); got != want {
			t.Errorf("%s is %d bytes, want %d", name, got, want)
		}
	}
}

// What is burst must be offences: no address may be one that the default
// whitelists, and none may come twice.
func TestRandomAddrsCanOffend(t *testing.T) {
	const n = 100_000
	seen := make(map[netip.Addr]bool)
	for _, a := range slices.Concat(randomAddrs(n), randomAddrs6(n), sourcesOf(crowd, many), sourcesOf(crowd6, many)) {
		seen[a] = true
		for _, p := range ruleset.Default().Whitelist {
			if p.Contains(a) {
				t.Fatalf("%v is in %v of the whitelist", a, p)
			}
		}
	}
	if want := 2*n + 2*many; len(seen) != want {
		t.Errorf("%d different addresses, want %d", len(seen), want)
	}
}

// A /48 from which several /64s offend is banned as a whole: those that are
// random must not share one.
func TestRandomAddrs6ShareNoSubnet(t *testing.T) {
	const n = 10_000
	seen := make(map[netip.Prefix]bool)
	for _, a := range randomAddrs6(n) {
		p, err := a.Prefix(48)
		if err != nil {
			t.Fatal(err)
		}
		seen[p] = true
	}
	if len(seen) != n {
		t.Errorf("%d different /48s, want %d", len(seen), n)
	}
}

func TestRandomPrefixesAreDisjoint(t *testing.T) {
	const n = 1000
	prefixes := randomPrefixes(n)
	var ivs []nftset.Interval
	for _, p := range prefixes {
		ivs = append(ivs, nftset.Prefix(p).Interval)
	}
	slices.SortFunc(ivs, nftset.Interval.Compare)
	for i, iv := range ivs[1:] {
		if iv.Overlaps(ivs[i]) {
			t.Errorf("%v overlaps %v", iv, ivs[i])
		}
	}
	spec := ruleset.Default()
	spec.Whitelist = prefixes
	if err := spec.Validate(); err != nil || len(prefixes) != n {
		t.Errorf("%d prefixes: %v", len(prefixes), err)
	}
}

func TestWithinReportsAllErrors(t *testing.T) {
	ended := false
	err := within(func(s *scope) error {
		s.Cleanup(func() { ended = true })
		s.Errorf("first")
		s.Fatalf("second")
		return nil
	})
	if err == nil || !strings.Contains(err.Error(), "first") || !strings.Contains(err.Error(), "second") || !ended {
		t.Errorf("within returned %v, cleanup ran: %v", err, ended)
	}
}
