package ruleset

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/portmon/portmon/internal/text"
	"github.com/portmon/portmon/nftset"
)

// rules returns the ruleset of the host as nft prints it, but for the time that
// elements have left.
func (l *fixture) rules(options ...string) string {
	l.T.Helper()
	return mustReplace(` expires [0-9a-z]+`, l.list(options...), "")
}

// TestNftLoadsWhatTablesSay compares, for each Spec, what Apply makes with what
// nft makes of the table's text.
func TestNftLoadsWhatTablesSay(t *testing.T) {
	t.Parallel()
	for name, spec := range specs() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			applied, loaded := newBareLab(t), newBareLab(t)
			plan := loaded.prepare(spec)
			if plan.Empty() || !plan.Created {
				t.Error("the plan for an empty kernel does not create the table")
			}
			r := applied.apply(spec)
			if plan.String() != r.String() {
				t.Errorf("Prepare made another plan than Apply:\n%s", difference(plan.String(), r.String()))
			}
			loaded.NFT(r.Table.String())
			if spec.Grace > 0 { // which is no part of the table, but of its creation
				loaded.NFT(fmt.Sprintf("add element inet portmon starting { tcp timeout %v, udp timeout %[1]v }", text.Duration(spec.Grace)))
			}
			if own := spec.own(); len(own) > 0 {
				loaded.NFT(fmt.Sprintf("add element inet portmon own6 { %v, %v }", own[0], own[1]))
			}
			want := applied.rules()
			if d := difference(loaded.rules(), want); d != "" {
				t.Errorf("nft makes something else of the table than Apply does:\n%s", d)
			}
			// nft loads the source for each set that it asks; that is all that is
			// left to do.
			if r := loaded.apply(spec); slices.ContainsFunc(r.Summary(), func(s string) bool { return s != "rules" }) {
				t.Errorf("after nft has loaded the table, Apply has this to do:\n%s", r)
			}
			if d := difference(loaded.rules(), want); d != "" {
				t.Errorf("after Apply to what nft made of the table, it is another:\n%s", d)
			}
			if p := loaded.prepare(spec); !p.Empty() {
				t.Errorf("after Apply to what nft made of the table, there is more to do:\n%s", p)
			}
		})
	}
}

// TestChangesLeadToTheSameTable goes from the default to each Spec and back,
// and compares with what is made anew.
func TestChangesLeadToTheSameTable(t *testing.T) {
	t.Parallel()
	for name, spec := range specs() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			changed := newBareLab(t)
			changed.apply(Default())
			for _, to := range []Spec{spec, Default()} {
				to.Grace = 0 // its clock runs from when a table is made
				stuck := changed.apply(to).Stuck
				fresh := newBareLab(t)
				fresh.apply(to)
				was, is := withoutStuck(changed.rules("-t"), stuck), withoutStuck(fresh.rules("-t"), stuck)
				if d := difference(canonical(was), canonical(is)); d != "" {
					t.Errorf("a table that was changed is another than a new one:\n%s", d)
				}
			}
		})
	}
}

// withoutStuck takes out of what nft prints what Apply says that this kernel does
// not change of a live set.
func withoutStuck(list string, stuck []Stuck) string {
	for _, k := range stuck {
		list = mustReplace(`(set `+k.Set+` \{[^}]*?)\n\t*`+k.Property+` \w+`, list, "$1")
	}
	return list
}

// entries returns all elements that Handle.Entries gives, by set and interval.
func (l *fixture) entries() map[string]Entry {
	l.T.Helper()
	out := make(map[string]Entry)
	for e, err := range l.open().Entries() {
		if err != nil {
			l.T.Fatal(err)
		}
		key := e.Set + " " + e.key().String()
		if _, twice := out[key]; twice {
			l.T.Errorf("Handle.Entries gives %s twice", key)
		}
		out[key] = e
	}
	return out
}

// TestNftAgreesOnEntries lists 10,000 elements, of every kind, as nft does.
func TestNftAgreesOnEntries(t *testing.T) {
	t.Parallel()
	l := newBareLab(t)
	spec := Default()
	spec.Subnet4 = 8
	l.apply(spec)
	seed := uint64(time.Now().UnixNano())
	random := rand.New(rand.NewPCG(seed, 0))
	t.Logf("seed %d", seed)

	var sets []string
	for _, f := range families {
		sets = append(sets, f.ban(), f.net(), f.subnet(), f.scanner(), f.tier(1), f.tier(3))
	}
	elements := make(map[string][]nftset.Element)
	const n = 10_000
	for i := range n {
		set := sets[i%len(sets)]
		v4 := netip.AddrFrom4([4]byte{20, byte(i >> 12), byte(i >> 4), byte(i << 4)})
		if set == "subnet4" {
			v4 = netip.AddrFrom4([4]byte{21, byte(i >> 8), byte(i), 0})
		}
		v6 := netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, byte(i >> 8), byte(i)})
		el := nftset.Element{
			Timeout: []time.Duration{0, time.Minute, 90 * time.Minute, 300 * 24 * time.Hour}[random.IntN(4)],
			Comment: []string{"", "a comment", `with "quotes"`}[random.IntN(3)],
		}
		if el.Timeout > 0 && random.IntN(2) == 0 {
			el.Remaining = el.Timeout/2 + 10*time.Second
		}
		switch set {
		case "net4":
			el.Interval = nftset.Prefix(netip.PrefixFrom(v4, 28+random.IntN(5))).Interval
			if random.IntN(4) == 0 {
				el.From, _ = el.From.Next()
				if el.To.Compare(el.From) < 0 {
					el.To = el.From
				}
			}
		case "net6":
			el.Interval = nftset.Prefix(netip.PrefixFrom(v6, 48+random.IntN(81))).Interval
		default:
			el.Interval = nftset.Addr(v4).Interval
			if strings.Contains(set, "6") {
				el.Interval = nftset.Addr(v6).Interval
			}
		}
		elements[set] = append(elements[set], el)
	}
	for set, els := range elements {
		l.addMany(set, els)
	}

	start := time.Now()
	entries := l.entries()
	listed := make(map[string]listedByNft)
	for _, set := range sets {
		for key, el := range parseNftSet(t, l.NFT("", "-j", "list", "set", "inet", "portmon", set)) {
			listed[set+" "+key] = el
		}
	}
	tolerance := 2*time.Second + time.Since(start)
	if len(entries) != n {
		t.Errorf("%d elements, want %d", len(entries), n)
	}
	wrong := 0
	for what, e := range entries {
		nft, ok := listed[what]
		remaining := nft.Expires * time.Second
		if ok && (e.Remaining-remaining).Abs() <= tolerance && (e.Remaining == 0) == (nft.Expires == 0) && nft.Comment == e.Comment &&
			(nft.Timeout == 0 || nft.Timeout*time.Second == e.Timeout) {
			delete(listed, what)
			continue
		}
		if wrong++; wrong <= 5 {
			t.Errorf("%s: Entries says for %v, %v left, %q; nft says %+v", what, e.Timeout, e.Remaining, e.Comment, nft)
		}
	}
	if wrong > 5 {
		t.Errorf("%d more are wrong", wrong-5)
	}
	if len(listed) > 0 {
		t.Errorf("nft lists %d elements that Entries does not have: %v", len(listed), slices.Collect(maps.Keys(listed))[:1])
	}
}
