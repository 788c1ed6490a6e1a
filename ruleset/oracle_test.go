package ruleset

import (
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/portmon/portmon/nftset"
)

// TestNftLoadsWhatTablesSay compares, for each Spec, what Apply makes with what nft makes of the table's text, and of the plan's.
func TestNftLoadsWhatTablesSay(t *testing.T) {
	for name, spec := range specs() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			applied, loaded, planned := newBareLab(t), newBareLab(t), newBareLab(t)
			plan := planned.prepare(spec)
			if plan.Empty() || !plan.Created {
				t.Error("the plan for an empty kernel does not create the table")
			}
			r := applied.apply(spec)
			if plan.String() != r.String() {
				t.Errorf("Prepare made another plan than Apply:\n%s", difference(plan.String(), r.String()))
			}
			loaded.nft(r.Table.String())
			planned.nft(plan.String())
			want := applied.nft("", "list", "ruleset")
			for how, l := range map[string]*lab{"table": loaded, "plan": planned} {
				if d := difference(l.nft("", "list", "ruleset"), want); d != "" {
					t.Errorf("nft makes something else of the %s than Apply does:\n%s", how, d)
				}
				// nft loads the source for each set that it asks; that is all that is left to do.
				if r := l.apply(spec); slices.ContainsFunc(r.Summary(), func(s string) bool { return s != "rules" }) {
					t.Errorf("after nft has loaded the %s, Apply has this to do:\n%s", how, r)
				}
				if d := difference(l.nft("", "list", "ruleset"), want); d != "" {
					t.Errorf("after Apply to what nft made of the %s, it is another:\n%s", how, d)
				}
				if p := l.prepare(spec); !p.Empty() {
					t.Errorf("after Apply to what nft made of the %s, there is more to do:\n%s", how, p)
				}
			}
		})
	}
}

// TestNftRunsPlans has nft make the changes that Apply makes, from the default to each Spec and back.
func TestNftRunsPlans(t *testing.T) {
	for name, spec := range specs() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			applied, planned := newBareLab(t), newBareLab(t)
			for _, l := range []*lab{applied, planned} {
				l.apply(Default())
			}
			for _, to := range []Spec{spec, Default()} {
				plan := applied.prepare(to)
				planned.nft(plan.String())
				applied.apply(to)
				if got, want := planned.nft("", "list", "ruleset"), applied.nft("", "list", "ruleset"); got != want {
					t.Fatalf("nft makes something else of the plan\n%s\nthan Apply does:\n%s", plan, difference(got, want))
				}
			}
		})
	}
}

// TestNftRunsPlansThatMoveBans has plans that edit elements: bans that are lifted, and others that move to the set of prefixes.
func TestNftRunsPlansThatMoveBans(t *testing.T) {
	spec := Default()
	applied, planned := newBareLab(t), newBareLab(t)
	for _, l := range []*lab{applied, planned} {
		l.apply(spec)
		l.nft(`
add element inet portmon ban4 { 198.51.100.7, 203.0.113.7 timeout 10m }
add element inet portmon net4 { 198.51.100.128/25 timeout 10m, 203.0.113.128/25 }
add element inet portmon ban6_3 { 2001:db8:1:1:: timeout 10m comment "one", 2001:db8:2:2:: }
add element inet portmon net6 { 2001:db8:2::/48 timeout 10m }`)
	}
	spec.Whitelist = append(spec.Whitelist, prefix("198.51.100.0/24"))
	spec.Prefix6 = 56
	plan := applied.prepare(spec)
	planned.nft(plan.String())
	applied.apply(spec)
	want := applied.bans()
	if len(want) != 4 {
		t.Errorf("Apply leaves %d bans, want 4: %v", len(want), want)
	}
	got := planned.bans()
	for what, b := range want {
		g := got[what]
		if g.Set != b.Set || g.Comment != b.Comment || (g.Expires-b.Expires).Abs() > patience {
			t.Errorf("the ban of %s is in %q, %v left, %q; Apply has it in %q, %v left, %q", what, g.Set, g.Expires, g.Comment, b.Set, b.Expires, b.Comment)
		}
		delete(got, what)
	}
	if len(got) > 0 {
		t.Errorf("nft leaves these bans as well: %v", got)
	}
	if d := difference(planned.list("-t"), applied.list("-t")); d != "" {
		t.Errorf("nft makes something else of the plan:\n%s", d)
	}
}

// TestNftAgreesOnBans lists 10,000 bans, of every kind, as nft does.
func TestNftAgreesOnBans(t *testing.T) {
	l := newBareLab(t)
	l.apply(Default())
	seed := uint64(time.Now().UnixNano())
	random := rand.New(rand.NewPCG(seed, 0))
	t.Logf("seed %d", seed)

	// Each address is used once, so that none is in two sets.
	sets := []string{"ban4", "ban4_2", "ban4_3", "net4", "ban6", "ban6_2", "ban6_3", "net6"}
	elements := make(map[string][]nftset.Element)
	for i := range 10_000 {
		set := sets[i%len(sets)]
		v4 := netip.AddrFrom4([4]byte{20, byte(i >> 12), byte(i >> 4), byte(i << 4)})
		v6 := netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, byte(i >> 8), byte(i)})
		el := nftset.Element{
			Timeout: []time.Duration{0, time.Minute, 90 * time.Minute, 300 * 24 * time.Hour}[random.IntN(4)],
			Comment: []string{"", "a comment", `with "quotes"`}[random.IntN(3)],
		}
		if el.Timeout > 0 && random.IntN(2) == 0 {
			el.Expires = el.Timeout/2 + 10*time.Second
		}
		switch set[:4] {
		case "ban4":
			el.Interval = nftset.Single(nftset.AddrKey(v4))
		case "ban6":
			el.Interval = nftset.Single(nftset.AddrKey(v6))
		case "net4":
			el.Interval = nftset.FromPrefix(netip.PrefixFrom(v4, 28+random.IntN(5)))
			if random.IntN(4) == 0 {
				el.From, _ = el.From.Next()
				el.To = max2(el.From, el.To)
			}
		case "net6":
			el.Interval = nftset.FromPrefix(netip.PrefixFrom(v6, 48+random.IntN(81)))
		}
		elements[set] = append(elements[set], el)
	}
	for set, els := range elements {
		l.addMany(set, els)
	}
	// And some in two: only the longest counts.
	for tier, set := range map[int]string{1: "ban4", 2: "ban4_2"} {
		l.addMany(set, elements["ban4_3"][:100*tier])
	}

	start := time.Now()
	bans := l.bans()
	listed := make(map[string]map[string]listedByNft)
	for _, set := range sets {
		listed[set] = parseNftSet(t, l.nft("", "-j", "list", "set", "inet", "portmon", set))
	}
	tolerance := 2*time.Second + time.Since(start)
	if len(bans) != 10_000 {
		t.Errorf("%d bans, want 10,000", len(bans))
	}
	wrong := 0
	for what, b := range bans {
		key := what
		if b.Tier > 0 && b.From.Addr().Is6() {
			key = b.From.String()
		}
		nft, ok := listed[b.Set][key]
		expires := nft.Expires * time.Second
		if ok && (b.Expires-expires).Abs() <= tolerance && (b.Expires == 0) == (nft.Expires == 0) && nft.Comment == b.Comment &&
			(nft.Timeout == 0 || nft.Timeout*time.Second == b.Timeout) {
			delete(listed[b.Set], key)
			continue
		}
		if wrong++; wrong <= 5 {
			t.Errorf("%s in %s: Bans says for %v, %v left, %q; nft says %+v", what, b.Set, b.Timeout, b.Expires, b.Comment, nft)
		}
	}
	if wrong > 5 {
		t.Errorf("%d more are wrong", wrong-5)
	}
	for set, left := range map[string]int{"ban4": 100, "ban4_2": 200} { // those that are in ban4_3 as well
		if n := len(listed[set]); n != left {
			t.Errorf("nft lists %d elements in %s that Bans does not have, want %d", n, set, left)
		}
		delete(listed, set)
	}
	for set, els := range listed {
		if len(els) > 0 {
			t.Errorf("nft lists %d elements in %s that Bans does not have: %v", len(els), set, slices.Collect(maps.Keys(els))[:1])
		}
	}
}

func max2(a, b nftset.Key) nftset.Key {
	if a.Compare(b) > 0 {
		return a
	}
	return b
}
