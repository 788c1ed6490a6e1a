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
	s := &State{Table: table.Table, Exists: true, Counters: map[string]Counter{}, Digest: table.Digest, Prefix6: table.Prefix6, Observe: table.Observe}
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
	s.Chains = slices.Clone(table.Chains)
	return s, c
}

func TestDiffOfEqualsIsEmpty(t *testing.T) {
	for name, spec := range specs() {
		table := Compile(spec)
		s, c := kernelState(t, table)
		c.Own = spec.own()
		// The kernel lists in another order than we do.
		slices.Reverse(s.Sets)
		slices.Reverse(s.Chains)
		p, err := Diff(spec, s, c)
		if err != nil {
			t.Fatal(err)
		}
		if !p.Empty() || p.String() != "" || len(p.Summary()) != 0 || p.Created || len(p.Lifted) != 0 || len(p.Stuck) != 0 {
			t.Errorf("%s: there is something to do: %s", name, p)
		}
	}
}

// TestDiffSaysWhatItChanges has the summary of the plan for one difference at a
// time.
func TestDiffSaysWhatItChanges(t *testing.T) {
	set := func(s *State, name string) *nftset.Set { return s.Set(name) }
	add := func(s *State, name string) {
		s.Sets = append(s.Sets, nftset.Set{Table: s.Table, Name: name, Type: nftset.IPv4Addr})
	}
	for name, tt := range map[string]struct {
		change func(s *State, c *Contents)
		want   string
	}{
		"counter": {func(s *State, _ *Contents) { delete(s.Counters, "full") }, "counter full"},
		"set": {func(s *State, _ *Contents) {
			s.Sets = slices.DeleteFunc(s.Sets, func(s nftset.Set) bool { return s.Name == "tier6_3" })
		}, "set tier6_3"},
		"timeout":                  {func(s *State, _ *Contents) { s.Digest = ""; set(s, "ban4").Timeout = 0 }, "timeout of ban4"},
		"size":                     {func(s *State, _ *Contents) { s.Digest = ""; set(s, "tier4_2").Size = 7 }, "size of tier4_2"},
		"timeout within the ticks": {func(s *State, _ *Contents) { s.Digest = ""; set(s, "ban4").Timeout += 9 * time.Millisecond }, ""},
		"static set": {func(_ *State, c *Contents) {
			c.Static["trap_udp"] = []nftset.Interval{nftset.Ports(1, 1).Interval}
		}, "trap_udp"},
		"set of hits":   {func(s *State, _ *Contents) { add(s, "hits6") }, "set hits6"},
		"a step":        {func(s *State, _ *Contents) { add(s, "tier4_7") }, "set tier4_7"},
		"another's set": {func(s *State, _ *Contents) { add(s, "tier4_9") }, ""},
		"rule":          {func(s *State, _ *Contents) { s.chain(chainEarly).Rules = nil }, "rules"},
		"chain": {func(s *State, _ *Contents) {
			s.Chains = slices.DeleteFunc(s.Chains, func(c Chain) bool { return c.Name == chainEarly })
		}, "chain early, rules"},
		"priority": {func(s *State, _ *Contents) {
			hook := *s.chain(chainEarly).Hook
			hook.Priority++
			s.chain(chainEarly).Hook = &hook
		}, "rules, chain early"},
		"another's chain": {func(s *State, _ *Contents) {
			s.Chains = append(s.Chains, Chain{Name: "x", Rules: []Rule{{}}})
		}, "rules, chain x"},
		"dormant": {func(s *State, _ *Contents) { s.Dormant = true }, "table"},
	} {
		spec := Default()
		s, c := kernelState(t, Compile(spec))
		tt.change(s, &c)
		p, err := Diff(spec, s, c)
		if err != nil {
			t.Fatal(err)
		}
		if got := p.String(); got != tt.want {
			t.Errorf("%s: the summary is %q, want %q", name, got, tt.want)
		}
		if p.Empty() != (tt.want == "") || (p.ahead.Len()+p.rest.Len() == 0) != p.Empty() {
			t.Errorf("%s: Empty is %v, with %d and %d messages", name, p.Empty(), p.ahead.Len(), p.rest.Len())
		}
	}
}

// TestStuckSets has a kernel that ignores the new size and timeout of a live set.
func TestStuckSets(t *testing.T) {
	old, spec := Default(), Default()
	spec.Size, spec.BanTime = 200_000, []time.Duration{20 * time.Minute}
	s, c := kernelState(t, Compile(old))
	p, err := Diff(spec, s, c)
	if err != nil {
		t.Fatal(err)
	}
	for _, change := range []string{"size of ban4", "timeout of ban4", "rules"} {
		if !slices.Contains(p.Summary(), change) {
			t.Fatalf("there is no %q in %v", change, p.Summary())
		}
	}
	if len(p.Stuck) > 0 {
		t.Errorf("before it is tried, these are stuck: %v", p.Stuck)
	}
	after, c := kernelState(t, Compile(spec))
	for i := range after.Sets {
		if had := s.Set(after.Sets[i].Name); had != nil {
			after.Sets[i].Size, after.Sets[i].Timeout = had.Size, had.Timeout
		}
	}
	p.confirm(after)
	again, err := Diff(spec, after, c)
	if err != nil || !again.Empty() || !again.Current() {
		t.Errorf("there is something to do: %s, error %v", again, err)
	}
	for when, p := range map[string]*Plan{"after the change": p, "later": again} {
		if text := p.String(); strings.Contains(text, "size") || strings.Contains(text, "timeout") {
			t.Errorf("%s: what the kernel ignored is said to change: %s", when, text)
		}
		for _, want := range []Stuck{{"ban4", "size", "65536", "200000"}, {"ban4", "timeout", "10m", "20m"}, {"probed4", "size", "262144", "800000"}} {
			if !slices.Contains(p.Stuck, want) {
				t.Errorf("%s: there is no %v in %v", when, want, p.Stuck)
			}
		}
	}
}

func TestDiffTellsConflicts(t *testing.T) {
	spec := Default()
	s, c := kernelState(t, Compile(spec))
	s.Set("ban4").Type = nftset.IPv6Addr
	s.Set("trap_tcp").Type = nftset.IPv4Addr
	s.Set("net6").Flags |= nftset.FlagDynamic
	p, err := Diff(spec, s, c)
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
	s, c := kernelState(t, Compile(spec))
	ban := func(set, p string) Entry {
		role, step := RoleOf(set)
		el := nftset.Prefix(prefix(p)).For(time.Hour)
		el.Remaining = time.Hour
		return Entry{Element: el, Set: set, Role: role, Step: step}
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
	p, err := Diff(spec, s, c)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(p.Lifted, lifted) {
		t.Errorf("lifted are %v, want %v", p.Lifted, lifted)
	}
	if want := []string{liftedBans}; !slices.Equal(p.Summary(), want) {
		t.Errorf("the summary is %v, want %v", p.Summary(), want)
	}
}
