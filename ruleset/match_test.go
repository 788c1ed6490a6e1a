package ruleset

import (
	"bytes"
	"encoding/binary"
	"slices"
	"testing"
	"time"

	"github.com/google/nftables/userdata"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/portmon/portmon/nftset"
)

// everyRule returns all rules that specs compile to, each once, by their text.
func everyRule() map[string]Rule {
	out := make(map[string]Rule)
	for _, spec := range specs() {
		for _, c := range Compile(spec, allFeatures, Asked{}).Chains {
			for _, r := range c.Rules {
				out[r.String()] = r
			}
		}
	}
	return out
}

func encodeRule(t *testing.T, r Rule) [][]byte {
	t.Helper()
	b, err := r.encode(nftset.FamilyINet)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestRulesMatchOnlyThemselves compares every rule with every other.
func TestRulesMatchOnlyThemselves(t *testing.T) {
	rules := everyRule()
	if len(rules) < 40 {
		t.Fatalf("there are only %d rules to compare", len(rules))
	}
	for text, r := range rules {
		for other, o := range rules {
			chain := Chain{Rules: []Rule{r}}
			if got := chain.matches(nftset.FamilyINet, []RuleState{{Exprs: encodeRule(t, o), Comment: o.comment}}); got != (text == other) {
				t.Errorf("does %q match %q? got %v", text, other, got)
			}
		}
		chain := Chain{Rules: []Rule{r}}
		exprs := encodeRule(t, r)
		for name, have := range map[string][]RuleState{
			"no rule":          {},
			"the rule twice":   {{Exprs: exprs, Comment: r.comment}, {Exprs: exprs, Comment: r.comment}},
			"another comment":  {{Exprs: exprs, Comment: r.comment + "x"}},
			"no expressions":   {{Exprs: nil, Comment: r.comment}},
			"one less":         {{Exprs: exprs[1:], Comment: r.comment}},
			"one more":         {{Exprs: append(slices.Clone(exprs), exprs[0]), Comment: r.comment}},
			"empty expression": {{Exprs: append(slices.Clone(exprs[1:]), []byte{}), Comment: r.comment}},
			"no attributes":    {{Exprs: append(slices.Clone(exprs[1:]), []byte{1, 2, 3}), Comment: r.comment}},
		} {
			if chain.matches(nftset.FamilyINet, have) {
				t.Errorf("%q matches %s", text, name)
			}
		}
	}
}

func find(attrs []netlink.Attribute, typ uint16) []byte {
	for _, a := range attrs {
		if a.Type&^(unix.NLA_F_NESTED|unix.NLA_F_NET_BYTEORDER) == typ {
			return a.Data
		}
	}
	return nil
}

func attrs(t *testing.T, b []byte) []netlink.Attribute {
	t.Helper()
	as, err := netlink.UnmarshalAttributes(b)
	if err != nil {
		t.Fatal(err)
	}
	return as
}

func marshal(t *testing.T, as []netlink.Attribute) []byte {
	t.Helper()
	as = slices.Clone(as)
	for i := range as {
		as[i].Length = 0 // whatever it was when it was read
	}
	b, err := netlink.MarshalAttributes(as)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// withData returns an expression with other data.
func withData(t *testing.T, expr []byte, data []netlink.Attribute) []byte {
	t.Helper()
	as := attrs(t, expr)
	for i := range as {
		if as[i].Type&^unix.NLA_F_NESTED == unix.NFTA_EXPR_DATA {
			as[i].Data = marshal(t, data)
		}
	}
	return marshal(t, as)
}

// flipped calls f with the attributes as often as their values have bytes, one
// of which is another then. Attributes in attributes are gone through one by
// one, because between them there is padding.
func flipped(t *testing.T, as []netlink.Attribute, except []uint16, f func([]netlink.Attribute)) {
	t.Helper()
	for i, a := range as {
		if slices.Contains(except, a.Type&^unix.NLA_F_NESTED) {
			continue
		}
		with := func(data []byte) {
			other := slices.Clone(as)
			other[i].Data = data
			f(other)
		}
		if nested(a.Data) {
			flipped(t, attrs(t, a.Data), nil, func(inner []netlink.Attribute) { with(marshal(t, inner)) })
			continue
		}
		for j := range a.Data {
			data := slices.Clone(a.Data)
			data[j] ^= 1
			with(data)
		}
	}
}

// TestExpressionsMatchToTheByte changes each byte of each value of each
// expression, takes attributes away and adds some.
func TestExpressionsMatchToTheByte(t *testing.T) {
	changed := 0
	for text, r := range everyRule() {
		for _, want := range encodeRule(t, r) {
			name := string(bytes.TrimRight(find(attrs(t, want), unix.NFTA_EXPR_NAME), "\x00"))
			data := attrs(t, find(attrs(t, want), unix.NFTA_EXPR_DATA))
			same := func(data []netlink.Attribute) bool { return sameExpr(want, withData(t, want, data)) }

			reversed := slices.Clone(data)
			slices.Reverse(reversed)
			if !same(data) || !same(reversed) {
				t.Errorf("%q: %s does not match itself", text, name)
			}
			if !same(append(slices.Clone(data), netlink.Attribute{Type: 60, Data: make([]byte, 4)})) {
				t.Errorf("%q: %s does not match itself with an option that is off", text, name)
			}
			if same(append(slices.Clone(data), netlink.Attribute{Type: 60, Data: []byte{0, 0, 0, 1}})) {
				t.Errorf("%q: %s matches itself with an option more", text, name)
			}
			for i, a := range data {
				if slices.Contains(sent[name], a.Type&^unix.NLA_F_NESTED) {
					continue
				}
				if len(bytes.Trim(a.Data, "\x00")) > 0 && same(slices.Delete(slices.Clone(data), i, i+1)) {
					t.Errorf("%q: %s matches without attribute %d", text, name, a.Type)
				}
			}
			flipped(t, data, sent[name], func(other []netlink.Attribute) {
				changed++
				if same(other) {
					t.Errorf("%q: %s matches with a byte changed: %v, for %v", text, name, other, data)
				}
			})
		}
	}
	if changed < 1000 {
		t.Errorf("only %d bytes were changed", changed)
	}
}

// TestDynsetTimeoutAllowsForTicks compares the timeout in the rule that bans as
// the kernel may give it back.
func TestDynsetTimeoutAllowsForTicks(t *testing.T) {
	rule := func(d time.Duration) []byte {
		exprs := encodeRule(t, Rule{statements: []statement{families[0].whole().add(element{set: "ban4", timeout: d})}})
		return exprs[len(exprs)-1]
	}
	for _, tt := range []struct {
		want, have time.Duration
		same       bool
	}{
		{time.Hour, time.Hour, true},
		{time.Hour, time.Hour + 10*time.Millisecond, true},
		{time.Hour, time.Hour - 4*time.Millisecond, true},
		{time.Hour, time.Hour + 11*time.Millisecond, false},
		{time.Hour, time.Minute, false},
		{time.Hour, 0, false},
	} {
		if got := sameExpr(rule(tt.want), rule(tt.have)); got != tt.same {
			t.Errorf("is %v the same as %v? got %v", tt.have, tt.want, got)
		}
	}
}

// TestStringsMatchWithTheirNUL allows for the kernel's way to end strings, and
// for nothing else.
func TestStringsMatchWithTheirNUL(t *testing.T) {
	for _, tt := range []struct {
		want, have string
		same       bool
	}{
		{"full", "full\x00", true}, {"full", "full", true}, {"full\x00", "full\x00", true},
		{"full", "full\x01", false}, {"full", "fullx\x00", false}, {"full", "ful\x00", false}, {"full", "full\x00\x00", false}, {"full\x00", "full", false},
	} {
		if got := sameValue([]byte(tt.want), []byte(tt.have)); got != tt.same {
			t.Errorf("is %q the same as %q? got %v", tt.have, tt.want, got)
		}
	}
}

var sealSeeds = []string{
	"portmon 0123456789abcdef /64", "portmon 0123456789abcdef /1", "portmon 0123456789abcdef /128",
	"portmon 0123456789abcdef /0", "portmon 0123456789abcdef /129", "portmon 0123456789abcdef /-1", "portmon 0123456789abcdef",
	"portmon 0123456789abcde /64", "portmon 0123456789abcdef0 /64", "portmon  /64", "", "portmon", "Portmon 0123456789abcdef /64",
	"portmon 0123456789abcdef /99999999999999999999", "portmon öööööööö /64", "portmon 0123456789abcdef /64 and more", "portmon 0123456789abcdef /+64", "portmon 0123456789abcdef /064", "x portmon 0123456789abcdef /64",
}

func TestParseSeal(t *testing.T) {
	ok := map[string]int{sealSeeds[0]: 64, sealSeeds[1]: 1, sealSeeds[2]: 128}
	for _, s := range sealSeeds {
		digest, prefix6, got := parseSeal(s)
		want, valid := ok[s]
		if valid && (!got || digest != "0123456789abcdef" || prefix6 != want || sealComment(digest, prefix6) != s) {
			t.Errorf("parseSeal(%q) = %q, %d, %v", s, digest, prefix6, got)
		}
		if !valid && got && s != "portmon öööööööö /64" { // 16 bytes that no digest has are no harm
			t.Errorf("parseSeal(%q) = %q, %d: is it a seal?", s, digest, prefix6)
		}
	}
}

func FuzzParseSeal(f *testing.F) {
	if len(sealSeeds) < 10 {
		f.Fatal("no seeds")
	}
	for _, s := range sealSeeds {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		digest, prefix6, ok := parseSeal(s)
		if !ok {
			return
		}
		if len(digest) != 16 || prefix6 < 1 || prefix6 > 128 {
			t.Errorf("parseSeal(%q) = %q, %d", s, digest, prefix6)
		}
		if d, p, ok := parseSeal(sealComment(digest, prefix6)); !ok || d != digest || p != prefix6 {
			t.Errorf("%q, %d does not come back: %q, %d, %v", digest, prefix6, d, p, ok)
		}
	})
}

var commentSeeds = [][]byte{
	nil, {}, {0}, {0, 0}, {0, 1}, {0, 1, 0}, {0, 255, 1}, {255, 255}, {0, 2, 'a', 0}, {0, 2, 'a', 'b'},
	{200, 3, 1, 2, 3, 0, 2, 'a', 0}, {200, 0, 0, 2, 'a', 0}, {200, 9, 0, 2, 'a', 0},
	userdata.AppendString(nil, userdata.TypeComment, "portmon 0123456789abcdef /64"),
	userdata.AppendString([]byte{1, 4, 0, 0, 0, 1}, userdata.TypeComment, string(bytes.Repeat([]byte("x"), 200))),
}

func TestRuleComment(t *testing.T) {
	for i, want := range map[int]string{0: "", 4: "", 6: "", 8: "a", 9: "a", 10: "a", 11: "a", 12: "", 13: "portmon 0123456789abcdef /64", 14: string(bytes.Repeat([]byte("x"), 200))} {
		if got := ruleComment(commentSeeds[i]); got != want {
			t.Errorf("ruleComment(%v) = %q, want %q", commentSeeds[i], got, want)
		}
	}
}

func FuzzRuleComment(f *testing.F) {
	if len(commentSeeds) < 10 {
		f.Fatal("no seeds")
	}
	for _, b := range commentSeeds {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		comment := ruleComment(b)
		if !bytes.Contains(b, []byte(comment)) {
			t.Errorf("ruleComment(%v) = %q, which is not in there", b, comment)
		}
		// Behind something else it is found as well.
		if n := len(b); n < 200 && comment != "" {
			other := append(binary.BigEndian.AppendUint32([]byte{7, 4}, 99), b...)
			if got := ruleComment(other); got != comment {
				t.Errorf("ruleComment(%v) = %q, want %q", other, got, comment)
			}
		}
	})
}
