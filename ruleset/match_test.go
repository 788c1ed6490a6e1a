package ruleset

import (
	"bytes"
	"encoding/binary"
	"slices"
	"testing"
	"time"

	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"

	"github.com/portmon/portmon/nftset"
)

// everyRule returns all rules that specs compile to, each once, by their text.
func everyRule() map[string]Rule {
	out := make(map[string]Rule)
	for _, spec := range specs() {
		for _, c := range Compile(spec).Chains {
			for _, r := range c.Rules {
				out[r.String()] = r
			}
		}
	}
	return out
}

// fromKernel returns a rule as it is read back.
func fromKernel(t *testing.T, r Rule) Rule {
	t.Helper()
	have := Rule{Comment: r.Comment}
	for _, e := range r.Exprs {
		b, err := expr.Marshal(byte(nftset.FamilyINet), e)
		if err != nil {
			t.Fatal(err)
		}
		have.Exprs = append(have.Exprs, decodeExpr(nftset.FamilyINet, b))
	}
	return have
}

// TestRulesMatchOnlyThemselves compares every rule with every other.
func TestRulesMatchOnlyThemselves(t *testing.T) {
	rules := everyRule()
	if len(rules) < 40 {
		t.Fatalf("there are only %d rules to compare", len(rules))
	}
	for text, r := range rules {
		for other, o := range rules {
			if got := r.same(fromKernel(t, o)); got != (text == other) {
				t.Errorf("does %q match %q? got %v", text, other, got)
			}
		}
		have, chain := fromKernel(t, r), Chain{Rules: []Rule{r}}
		with := func(exprs ...expr.Any) []Rule { return []Rule{{Exprs: exprs, Comment: r.Comment}} }
		for name, have := range map[string][]Rule{
			"no rule":               {},
			"the rule twice":        {have, have},
			"another comment":       {{Exprs: have.Exprs, Comment: r.Comment + "x"}},
			"no expressions":        with(),
			"one less":              with(have.Exprs[1:]...),
			"one more":              with(append(slices.Clone(have.Exprs), have.Exprs[0])...),
			"one that is not known": with(append(slices.Clone(have.Exprs[1:]), nil)...),
		} {
			if chain.same(&Chain{Rules: have}) {
				t.Errorf("%q matches %s", text, name)
			}
		}
	}
}

// TestDynsetTimeoutAllowsForTicks compares the timeout in the rule that bans as
// the kernel may give it back.
func TestDynsetTimeoutAllowsForTicks(t *testing.T) {
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
		if got := sameExpr(&expr.Dynset{Timeout: tt.want}, &expr.Dynset{Timeout: tt.have, SetID: 7}); got != tt.same {
			t.Errorf("is %v the same as %v? got %v", tt.have, tt.want, got)
		}
	}
}

var sealSeeds = []string{
	"portmon 0123456789abcdef /64", "portmon 0123456789abcdef /1", "portmon 0123456789abcdef /128",
	"portmon 0123456789abcdef /64 observe", "portmon 0123456789abcdef /64 observe observe", "portmon 0123456789abcdef /64 ", " observe",
	"portmon 0123456789abcdef /0", "portmon 0123456789abcdef /129", "portmon 0123456789abcdef /-1", "portmon 0123456789abcdef",
	"portmon 0123456789abcde /64", "portmon 0123456789abcdef0 /64", "portmon  /64", "", "portmon", "Portmon 0123456789abcdef /64",
	"portmon 0123456789abcdef /99999999999999999999", "portmon öööööööö /64", "portmon 0123456789abcdef /64 and more", "portmon 0123456789abcdef /+64", "portmon 0123456789abcdef /064", "x portmon 0123456789abcdef /64",
}

func TestParseSeal(t *testing.T) {
	ok := map[string]int{sealSeeds[0]: 64, sealSeeds[1]: 1, sealSeeds[2]: 128, sealSeeds[3]: 64}
	for _, s := range sealSeeds {
		digest, prefix6, observe, got := parseSeal(s)
		want, valid := ok[s]
		if valid && (!got || digest != "0123456789abcdef" || prefix6 != want || observe != (s == sealSeeds[3]) ||
			sealComment(digest, prefix6, observe) != s) {
			t.Errorf("parseSeal(%q) = %q, %d, %v, %v", s, digest, prefix6, observe, got)
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
		digest, prefix6, observe, ok := parseSeal(s)
		if !ok {
			return
		}
		if len(digest) != 16 || prefix6 < 1 || prefix6 > 128 {
			t.Errorf("parseSeal(%q) = %q, %d", s, digest, prefix6)
		}
		if d, p, o, ok := parseSeal(sealComment(digest, prefix6, observe)); !ok || d != digest || p != prefix6 || o != observe {
			t.Errorf("%q, %d, %v does not come back: %q, %d, %v, %v", digest, prefix6, observe, d, p, o, ok)
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
