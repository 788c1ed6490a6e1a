package ruleset

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/portmon/portmon/nftset"
)

// kernelState returns the state and the contents of a kernel that holds a
// table.
func kernelState(t *testing.T, table *Table) (*State, Contents) {
	t.Helper()
	s := &State{Table: table.Table, Exists: true, Counters: map[string]Counter{}, Digest: table.Digest, Prefix6: table.Prefix6}
	c := Contents{Static: map[string][]nftset.Interval{}}
	for _, name := range table.Counters {
		s.Counters[name] = Counter{}
	}
	for i := range table.Sets {
		set := &table.Sets[i]
		s.Sets = append(s.Sets, set.Set)
		if set.Static {
			c.Static[set.Name] = set.Elements
		}
	}
	for _, ch := range table.Chains {
		have := ChainState{Name: ch.Name, Plain: ch.Hook != nil}
		if ch.Hook != nil {
			have.Hook = &Hook{Number: ch.Hook.Number, Priority: ch.Hook.Priority}
		}
		for _, r := range ch.Rules {
			have.Rules = append(have.Rules, RuleState{Exprs: encodeRule(t, r), Comment: r.comment})
		}
		s.Chains = append(s.Chains, have)
	}
	return s, c
}

func TestDiffOfEqualsIsEmpty(t *testing.T) {
	for name, spec := range specs() {
		table := Compile(spec, allFeatures, Asked{})
		s, c := kernelState(t, table)
		c.Own = spec.own()
		// The kernel lists in another order than we do.
		slices.Reverse(s.Sets)
		slices.Reverse(s.Chains)
		p, err := Diff(spec, allFeatures, s, c)
		if err != nil {
			t.Fatal(err)
		}
		if !p.Empty() || p.String() != "" || len(p.Summary()) != 0 || p.Created || len(p.Lifted) != 0 || len(p.Stuck) != 0 {
			t.Errorf("%s: there is something to do:\n%s%v", name, p, p.Stuck)
		}
	}
}

// TestDiffSaysWhatItChanges has the plan for one difference at a time: its
// commands, all of them, and its summary.
func TestDiffSaysWhatItChanges(t *testing.T) {
	set := func(s *State, name string) *nftset.Set { return s.Set(name) }
	for name, tt := range map[string]struct {
		change  func(s *State, c *Contents)
		want    string
		summary string
	}{
		"counter": {func(s *State, _ *Contents) { delete(s.Counters, "full") }, "add counter inet portmon full\n", "counter full"},
		"set": {func(s *State, _ *Contents) {
			s.Sets = slices.DeleteFunc(s.Sets, func(s nftset.Set) bool { return s.Name == "tier6_3" })
		},
			"add set inet portmon tier6_3 { type ipv6_addr; flags dynamic,timeout; timeout 60d; size 131072; }\n", "set tier6_3"},
		"timeout": {func(s *State, _ *Contents) { s.Digest = ""; set(s, "ban4").Timeout = 0 },
			"add set inet portmon ban4 { type ipv4_addr; flags dynamic,timeout; timeout 10m; size 65536; }\n", "timeout of ban4"},
		"size": {func(s *State, _ *Contents) { s.Digest = ""; set(s, "tier4_2").Size = 7 },
			"add set inet portmon tier4_2 { type ipv4_addr; flags dynamic,timeout; timeout 30d8h; size 131072; }\n", "size of tier4_2"},
		"timeout within the ticks": {func(s *State, _ *Contents) { s.Digest = ""; set(s, "ban4").Timeout += 9 * time.Millisecond }, "", ""},
		"static set": {func(_ *State, c *Contents) { c.Static["trap_udp"] = []nftset.Interval{nftset.Ports(1, 2).Interval} },
			"delete element inet portmon trap_udp { 1-2 }\n", "trap_udp"},
		"part of a static set": {func(_ *State, c *Contents) {
			w := slices.Clone(c.Static["whitelist4"])
			w[1] = nftset.Prefix(prefix("10.0.0.0/9")).Interval
			c.Static["whitelist4"] = slices.Delete(append(w, nftset.Prefix(prefix("203.0.113.9/32")).Interval), 3, 4)
		},
			"delete element inet portmon whitelist4 { 10.0.0.0/9, 203.0.113.9 }\n" +
				"add element inet portmon whitelist4 { 10.0.0.0/8, 127.0.0.0/8 }\n", "whitelist4"},
		"set of hits": {func(s *State, _ *Contents) {
			s.Sets = append(s.Sets, nftset.Set{Table: s.Table, Name: "hits6", Type: nftset.IPv6Addr})
		},
			"delete set inet portmon hits6\n", "set hits6"},
		"a step": {func(s *State, _ *Contents) {
			s.Sets = append(s.Sets, nftset.Set{Table: s.Table, Name: "tier4_7", Type: nftset.IPv4Addr})
		},
			"delete set inet portmon tier4_7\n", "set tier4_7"},
		"another's set": {func(s *State, _ *Contents) {
			s.Sets = append(s.Sets, nftset.Set{Table: s.Table, Name: "tier4_9", Type: nftset.IPv4Addr})
		}, "", ""},
		"rule": {func(s *State, _ *Contents) { s.chain(chainEarly).Rules = nil },
			"add rule inet portmon early tcp flags & (rst | ack) == 0 goto early_opening\n", "rules"},
		"chain": {func(s *State, _ *Contents) {
			s.Chains = slices.DeleteFunc(s.Chains, func(c ChainState) bool { return c.Name == chainEarly })
		},
			"add chain inet portmon early { type filter hook prerouting priority -300; policy accept; }\n" +
				"add rule inet portmon early tcp flags & (rst | ack) == 0 goto early_opening\n", "chain early, rules"},
		"priority": {func(s *State, _ *Contents) { s.chain(chainEarly).Hook.Priority++ },
			"flush chain inet portmon early\ndelete chain inet portmon early\n" +
				"add chain inet portmon early { type filter hook prerouting priority -300; policy accept; }\n" +
				"add rule inet portmon early tcp flags & (rst | ack) == 0 goto early_opening\n", "rules, chain early"},
		"another's chain": {func(s *State, _ *Contents) {
			s.Chains = append(s.Chains, ChainState{Name: "x", Rules: []RuleState{{}}})
		},
			"flush chain inet portmon x\ndelete chain inet portmon x\n", "rules, chain x"},
		"dormant": {func(s *State, _ *Contents) { s.Dormant = true }, "add table inet portmon\n", "table"},
	} {
		spec := Default()
		s, c := kernelState(t, Compile(spec, allFeatures, Asked{}))
		tt.change(s, &c)
		p, err := Diff(spec, allFeatures, s, c)
		if err != nil {
			t.Fatal(err)
		}
		if got := p.String(); got != tt.want {
			t.Errorf("%s: %s", name, difference(got, tt.want))
		}
		if got := strings.Join(p.Summary(), ", "); got != tt.summary {
			t.Errorf("%s: the summary is %q, want %q", name, got, tt.summary)
		}
		if p.Empty() != (tt.want == "") {
			t.Errorf("%s: Empty is %v", name, p.Empty())
		}
	}
}

// TestPlanIsOneCommandALine has every kind of command.
func TestPlanIsOneCommandALine(t *testing.T) {
	for name, spec := range specs() {
		p, err := Diff(spec, allFeatures, &State{}, Contents{})
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(p.String()) {
			if !strings.HasPrefix(line, "add ") || !strings.Contains(line, " inet portmon") {
				t.Errorf("%s: %q is not a command", name, line)
			}
		}
	}
}

func TestDiffTellsConflicts(t *testing.T) {
	spec := Default()
	s, c := kernelState(t, Compile(spec, allFeatures, Asked{}))
	s.Set("ban4").Type = nftset.IPv6Addr
	s.Set("trap_tcp").Type = nftset.IPv4Addr
	s.Set("net6").Flags |= nftset.FlagDynamic
	p, err := Diff(spec, allFeatures, s, c)
	if p != nil || err == nil {
		t.Fatalf("got %v, %v, want an error and no plan", p, err)
	}
	var got []string
	for _, e := range err.(interface{ Unwrap() []error }).Unwrap() {
		var conflict *ConflictError
		if !errors.As(e, &conflict) {
			t.Fatalf("%v is not a *ConflictError", e)
		}
		got = append(got, fmt.Sprintf("%s|%s|%s", conflict.Object, conflict.Have, conflict.Want))
	}
	want := []string{
		"set inet portmon ban4|type ipv6_addr, flags dynamic,timeout|type ipv4_addr, flags dynamic,timeout",
		"set inet portmon net6|type ipv6_addr, flags dynamic,interval,timeout|type ipv6_addr, flags interval,timeout",
		"set inet portmon trap_tcp|type ipv4_addr, flags |type inet_service, flags ",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// TestDiffLiftsWhitelisted names whom it pardons.
func TestDiffLiftsWhitelisted(t *testing.T) {
	spec := Default()
	spec.Whitelist = []netip.Prefix{prefix("198.51.100.0/24"), prefix("2001:db8::/48")}
	s, c := kernelState(t, Compile(spec, allFeatures, Asked{}))
	ban := func(set, p string) Entry {
		role, step := RoleOf(set)
		return Entry{Interval: nftset.Prefix(prefix(p)).Interval, Set: set, Role: role, Step: step, Timeout: time.Hour, Remaining: time.Hour}
	}
	lifted := []Entry{
		ban("ban4", "198.51.100.255/32"),
		ban("net4", "198.51.100.0/25"),
		ban("net4", "198.51.100.128/25"),
		ban("ban6", "2001:db8:0:7::/64"),
		ban("ban6", "2001:db8::7:0:0:7/128"),
		ban("subnet6", "2001:db8::/48"),
	}
	c.Bans = append(slices.Clone(lifted),
		ban("ban4", "198.51.101.0/32"),
		ban("net4", "198.51.100.0/23"), // only half of it is whitelisted
		ban("net6", "2001:db8::/47"),
		ban("subnet6", "2001:db8:1::/48"),
	)
	p, err := Diff(spec, allFeatures, s, c)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(p.Lifted, lifted) {
		t.Errorf("lifted are %v, want %v", p.Lifted, lifted)
	}
	want := `add element inet portmon ban4 { 198.51.100.255 }
delete element inet portmon ban4 { 198.51.100.255 }
add element inet portmon net4 { 198.51.100.0/25, 198.51.100.128/25 }
delete element inet portmon net4 { 198.51.100.0/25, 198.51.100.128/25 }
add element inet portmon ban6 { 2001:db8:0:7::, 2001:db8::7:0:0:7 }
delete element inet portmon ban6 { 2001:db8:0:7::, 2001:db8::7:0:0:7 }
add element inet portmon subnet6 { 2001:db8:: }
delete element inet portmon subnet6 { 2001:db8:: }
`
	if d := difference(p.String(), want); d != "" {
		t.Error(d)
	}
}
