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
		first, second := Compile(spec), Compile(spec)
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
		shuffled.Scan.Ignore = slices.Clone(spec.Scan.Ignore)
		slices.Reverse(shuffled.Scan.Ignore)
		shuffled.Interfaces = slices.Clone(spec.Interfaces)
		slices.Reverse(shuffled.Interfaces)
		if third := Compile(shuffled); third.String() != first.String() {
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
	want := Compile(spec).String()
	table := Compile(spec)
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
	if got := Compile(spec).String(); got != want {
		t.Errorf("a table that was changed changed the next:\n%s", difference(got, want))
	}
}

// TestDigestStandsForEverything changes each field of the Spec by the least
// that counts.
func TestDigestStandsForEverything(t *testing.T) {
	base := Default()
	base.MaxRetry = 2
	seen := map[string]string{Compile(base).Digest: "no change"}
	check := func(name string, table *Table) {
		if other, ok := seen[table.Digest]; ok {
			t.Errorf("%s gives the same digest as %s", name, other)
		}
		seen[table.Digest] = name
	}
	for name, change := range map[string]func(*Spec){
		"Table":         func(s *Spec) { s.Table = "portmon2" },
		"Whitelist":     func(s *Spec) { s.Whitelist = append(slices.Clone(s.Whitelist), netip.MustParsePrefix("192.0.2.1/32")) },
		"Observe":       func(s *Spec) { s.Observe = true },
		"Interfaces":    func(s *Spec) { s.Interfaces = []string{"wg"} },
		"an Interface":  func(s *Spec) { s.Interfaces = []string{"wg*"} },
		"Knock":         func(s *Spec) { s.Knock.TCP = []uint16{1, 7, 5} },
		"turn of Knock": func(s *Spec) { s.Knock.TCP = []uint16{1, 5, 7} },
		"Knock.Within":  func(s *Spec) { s.Knock = Knock{[]uint16{1, 7, 5}, s.Knock.Within + time.Millisecond, s.Knock.Allow} },
		"Knock.Allow":   func(s *Spec) { s.Knock = Knock{[]uint16{1, 7, 5}, s.Knock.Within, s.Knock.Allow + time.Millisecond} },
		"TrapTCP":       func(s *Spec) { s.TrapTCP = append(slices.Clone(s.TrapTCP), Ports{9, 9}) },
		"TrapUDP":       func(s *Spec) { s.TrapUDP = []Ports{{9, 9}} },
		"MaxRetry":      func(s *Spec) { s.MaxRetry++ },
		"FindTime":      func(s *Spec) { s.FindTime += time.Millisecond },
		"BanTime": func(s *Spec) {
			s.BanTime = []time.Duration{s.BanTime[0] + time.Millisecond, s.BanTime[1], s.BanTime[2]}
		},
		"last BanTime": func(s *Spec) {
			s.BanTime = []time.Duration{s.BanTime[0], s.BanTime[1], s.BanTime[2] + time.Millisecond}
		},
		"steps of BanTime": func(s *Spec) { s.BanTime = s.BanTime[:2] },
		"Forget":           func(s *Spec) { s.Forget += time.Millisecond },
		"Grace":            func(s *Spec) { s.Grace += time.Millisecond },
		"no Grace":         func(s *Spec) { s.Grace = 0 },
		"Scan.Ports":       func(s *Spec) { s.Scan.Ports++ },
		"Scan.FindTime":    func(s *Spec) { s.Scan.FindTime += time.Millisecond },
		"Scan.Ignore":      func(s *Spec) { s.Scan.Ignore = s.Scan.Ignore[1:] },
		"Single6":          func(s *Spec) { s.Single6 = []netip.Prefix{netip.MustParsePrefix("2001:db8::/48")} },
		"Subnet4":          func(s *Spec) { s.Subnet4 = 8 },
		"Subnet6":          func(s *Spec) { s.Subnet6++ },
		"NoReversePath4":   func(s *Spec) { s.NoReversePath4 = true },
		"NoReversePath6":   func(s *Spec) { s.NoReversePath6 = true },
		"LocalPorts":       func(s *Spec) { s.LocalPorts.To++ },
		"Prefix6":          func(s *Spec) { s.Prefix6-- },
		"Size":             func(s *Spec) { s.Size++ },
		"Fleet":            func(s *Spec) { s.Fleet++ },
		"LogGroup":         func(s *Spec) { s.LogGroup++ },
		"LogThreshold":     func(s *Spec) { s.LogThreshold++ },
	} {
		s := base
		change(&s)
		check(name, Compile(s))
	}
	for i := range reflect.TypeFor[Spec]().NumField() {
		if field := reflect.TypeFor[Spec]().Field(i).Name; field != "Own6" && field != "KeepObserved" && field != "Stays" && !slices.ContainsFunc(slices.Collect(mapValues(seen)), func(s string) bool { return strings.Contains(s, field) }) {
			t.Errorf("no change of %s was tried", field)
		}
	}
	// Neither which sets hold something is part of the configuration, nor in
	// which networks the host is.
	own := base
	own.Own6 = []netip.Prefix{netip.MustParsePrefix("2001:db8::/64")}
	if got := Compile(own).Digest; seen[got] != "no change" {
		t.Errorf("Own6 gives another digest")
	}
	if got := compile(base, askedNets{true, true}).Digest; seen[got] != "no change" {
		t.Errorf("to ask the sets of prefixes gives another digest")
	}
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

func TestWhitelistAlwaysHoldsNobodyLoopbackAndLinkLocal(t *testing.T) {
	for name, spec := range specs() {
		table := Compile(spec)
		for _, a := range []string{"0.0.0.0", "0.255.255.255", "::", "127.0.0.1", "127.255.255.255", "169.254.1.1", "::1", "fe80::1", "febf::1"} {
			key := nftset.AddrKey(addr(a))
			if _, ok := nftset.Find(table.set(familyOf(key.Type()).whitelist()).Elements, key); !ok {
				t.Errorf("%s: %s is not whitelisted", name, a)
			}
		}
	}
}
