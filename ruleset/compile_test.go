package ruleset

import (
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/portmon/portmon/nftset"
)

func TestCompileIsDeterministicAndPure(t *testing.T) {
	digests := make(map[string]string)
	for name, spec := range specs() {
		before := fmt.Sprintf("%#v", spec)
		first, second := Compile(spec, allFeatures, nil), Compile(spec, allFeatures, nil)
		if first.String() != second.String() || !reflect.DeepEqual(first, second) {
			t.Errorf("%s: compiled twice, it differs:\n%s", name, difference(second.String(), first.String()))
		}
		if after := fmt.Sprintf("%#v", spec); after != before {
			t.Errorf("%s: Compile changed the Spec from %s to %s", name, before, after)
		}
		// The order of the whitelist and of the ports means nothing.
		shuffled := spec
		shuffled.Whitelist = slices.Clone(spec.Whitelist)
		slices.Reverse(shuffled.Whitelist)
		shuffled.TrapTCP = slices.Clone(spec.TrapTCP)
		slices.Reverse(shuffled.TrapTCP)
		if third := Compile(shuffled, allFeatures, nil); third.String() != first.String() {
			t.Errorf("%s: in another order, it differs:\n%s", name, difference(third.String(), first.String()))
		}
		if other, ok := digests[first.Digest]; ok {
			t.Errorf("%s and %s have the same digest", name, other)
		}
		digests[first.Digest] = name
	}
}

// TestCompileSharesNothing changes a table and compiles again.
func TestCompileSharesNothing(t *testing.T) {
	spec := Default()
	want := Compile(spec, allFeatures, nil).String()
	table := Compile(spec, allFeatures, nil)
	for i := range table.Sets {
		for j := range table.Sets[i].Elements {
			table.Sets[i].Elements[j] = nftset.Interval{}
		}
		table.Sets[i].Name = ""
	}
	for i := range table.Chains {
		for j := range table.Chains[i].Rules {
			table.Chains[i].Rules[j] = Rule{}
		}
	}
	clear(table.Counters)
	if got := Compile(spec, allFeatures, nil).String(); got != want {
		t.Errorf("a table that was changed changed the next:\n%s", difference(got, want))
	}
}

// TestDigestStandsForEverything changes each field of the Spec by the least that counts.
func TestDigestStandsForEverything(t *testing.T) {
	base := Default()
	base.MaxRetry = 2
	seen := map[string]string{Compile(base, allFeatures, nil).Digest: "no change"}
	check := func(name string, table *Table) {
		if other, ok := seen[table.Digest]; ok {
			t.Errorf("%s gives the same digest as %s", name, other)
		}
		seen[table.Digest] = name
	}
	for name, change := range map[string]func(*Spec){
		"Table":     func(s *Spec) { s.Table = "portmon2" },
		"Whitelist": func(s *Spec) { s.Whitelist = append(slices.Clone(s.Whitelist), netip.MustParsePrefix("192.0.2.1/32")) },
		"TrapTCP":   func(s *Spec) { s.TrapTCP = append(slices.Clone(s.TrapTCP), Ports{9, 9}) },
		"TrapUDP":   func(s *Spec) { s.TrapUDP = []Ports{{9, 9}} },
		"MaxRetry":  func(s *Spec) { s.MaxRetry++ },
		"FindTime":  func(s *Spec) { s.FindTime += time.Millisecond },
		"BanTime": func(s *Spec) {
			s.BanTime = []time.Duration{s.BanTime[0] + time.Millisecond, s.BanTime[1], s.BanTime[2]}
		},
		"last BanTime": func(s *Spec) {
			s.BanTime = []time.Duration{s.BanTime[0], s.BanTime[1], s.BanTime[2] + time.Millisecond}
		},
		"tiers":        func(s *Spec) { s.BanTime = s.BanTime[:2] },
		"Prefix6":      func(s *Spec) { s.Prefix6-- },
		"Size":         func(s *Spec) { s.Size++ },
		"LogGroup":     func(s *Spec) { s.LogGroup++ },
		"LogThreshold": func(s *Spec) { s.LogThreshold++ },
	} {
		s := base
		change(&s)
		check(name, Compile(s, allFeatures, nil))
	}
	for i := range reflect.TypeFor[Spec]().NumField() {
		if field := reflect.TypeFor[Spec]().Field(i).Name; !slices.ContainsFunc(slices.Collect(mapValues(seen)), func(s string) bool { return strings.Contains(s, field) }) {
			t.Errorf("no change of %s was tried", field)
		}
	}
	check("no reverse path", Compile(base, Features{Log: true}, nil))
	check("no log", Compile(base, Features{ReversePath: true}, nil))
	check("a retired tier", Compile(base, allFeatures, []nftset.Set{{Name: "ban4_5", Type: nftset.IPv4Addr, Flags: nftset.FlagTimeout, Timeout: time.Hour, Size: 7}}))
}

func mapValues(m map[string]string) func(func(string) bool) {
	return func(yield func(string) bool) {
		for _, v := range m {
			if !yield(v) {
				return
			}
		}
	}
}

// TestCompileRetired keeps the sets of tiers that are gone from the ladder as they are, and asks them all the same.
func TestCompileRetired(t *testing.T) {
	spec := Default()
	spec.BanTime = spec.BanTime[:1]
	retired := []nftset.Set{
		{Name: "ban4_3", Type: nftset.IPv4Addr, Flags: nftset.FlagTimeout, Timeout: 99 * time.Hour, Size: 77},
		{Name: "ban6_8", Type: nftset.IPv6Addr, Flags: nftset.FlagTimeout, Timeout: 98 * time.Hour, Size: 66},
	}
	table := Compile(spec, allFeatures, retired)
	for _, want := range retired {
		want.Table = table.Table
		got := table.set(want.Name)
		if got == nil || got.Set != want || got.Static || got.Elements != nil {
			t.Errorf("got %+v, want %+v", got, want)
		}
		if n := strings.Count(fmt.Sprint(table.chain(chainSources).Rules), "@"+want.Name); n != 1 {
			t.Errorf("%s is asked %d times, want once", want.Name, n)
		}
	}
	if table.set("ban4_2") != nil || table.set("ban6_3") != nil {
		t.Error("there are sets of tiers that neither the ladder nor the kernel has")
	}
}

func TestCompileLeavesOutWhatTheKernelLacks(t *testing.T) {
	full := Compile(trapSpec(), allFeatures, nil).String()
	lines := func(s string) []string { return strings.Split(s, "\n") }
	unsealed := func(s string) string { return mustReplace(`portmon [0-9a-f]{16}`, s, "") }
	for _, tt := range []struct {
		f       Features
		without func(line string) string
	}{
		{Features{Log: true}, func(line string) string {
			if strings.Contains(line, "oif missing") {
				return ""
			}
			return line
		}},
		{Features{ReversePath: true}, func(line string) string { return mustReplace(` log prefix .* queue-threshold \d+`, line, "") }},
	} {
		want, dropped := []string{}, 0
		for _, line := range lines(full) {
			w := tt.without(line)
			if w != line {
				dropped++
			}
			if w != "" || line == "" {
				want = append(want, w)
			}
		}
		if dropped == 0 {
			t.Fatalf("%+v: the full table has nothing to leave out", tt.f)
		}
		if got := Compile(trapSpec(), tt.f, nil).String(); unsealed(got) != unsealed(strings.Join(want, "\n")) {
			t.Errorf("%+v: %s", tt.f, difference(unsealed(got), unsealed(strings.Join(want, "\n"))))
		}
	}
}

func TestWhitelistAlwaysHoldsLoopbackAndLinkLocal(t *testing.T) {
	for name, spec := range specs() {
		table := Compile(spec, allFeatures, nil)
		for _, a := range []string{"127.0.0.1", "127.255.255.255", "169.254.1.1", "::1", "fe80::1", "febf::1"} {
			key := nftset.AddrKey(addr(a))
			if _, ok := nftset.Find(table.set(familyOf(key.Type()).whitelist()).Elements, key); !ok {
				t.Errorf("%s: %s is not whitelisted", name, a)
			}
		}
	}
}

func TestTierOf(t *testing.T) {
	for name, want := range map[string]int{
		"net4": 0, "ban4": 1, "ban4_2": 2, "ban4_8": 8, "net6": 0, "ban6": 1, "ban6_3": 3,
		"ban4_1": -1, "ban4_0": -1, "ban4_9": -1, "ban4_02": -1, "ban4_+2": -1, "ban4_": -1, "ban4_2x": -1, "ban4_-2": -1, "ban4_99999999999999999999": -1,
		"ban": -1, "ban5": -1, "ban44": -1, "xban4": -1, "net": -1, "net44": -1, "hits4": -1, "whitelist4": -1, "trap_tcp": -1, "": -1, "ban4_2 ": -1,
	} {
		f, tier, ok := tierOf(name)
		if ok != (want >= 0) || ok && (tier != want || !strings.HasPrefix(name[3:], f.suffix)) || !ok && f != (family{}) {
			t.Errorf("tierOf(%q) = %v, %d, %v, want %d", name, f, tier, ok, want)
		}
		if ok && (tier > 0 && f.ban(tier) != name || tier == 0 && f.net() != name) {
			t.Errorf("%q does not come back", name)
		}
	}
}

func TestNftDuration(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0s", time.Millisecond: "1ms", 1: "1ms", 999 * time.Millisecond: "999ms", time.Second: "1s", 1500 * time.Millisecond: "1s500ms", 90 * time.Second: "1m30s",
		time.Hour: "1h", 8 * time.Hour: "8h", 24 * time.Hour: "1d", 30 * 24 * time.Hour: "30d", 25*time.Hour + 61*time.Second + 5*time.Millisecond: "1d1h1m1s5ms",
		MaxBanTime: "3650d",
	} {
		if got := nftDuration(d); got != want {
			t.Errorf("%v: got %q, want %q", d, got, want)
		}
	}
}
