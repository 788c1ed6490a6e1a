package config

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

func TestNames(t *testing.T) {
	label := strings.Repeat("a", 63)
	long := strings.Join([]string{label, label, label, label[:61]}, ".")
	for value, want := range map[string][]string{
		`[]`: nil,
		`["office.example.org", "Home.Example.Org.", "home.example.org"]`: {"home.example.org", "office.example.org"},
		`["nas", "xn--bcher-kva.example", "1-2.3com"]`:                    {"1-2.3com", "nas", "xn--bcher-kva.example"},
		`["` + long + `."]`: {long},
	} {
		if got := mustParse(t, "whitelist_names = "+value).Names; !slices.Equal(got, want) {
			t.Errorf("whitelist_names = %s: got %q, want %q", value, got, want)
		}
	}
}

func TestNamesFaults(t *testing.T) {
	const want = `want the name of a host, such as "home.example.org"; letters beyond ASCII as "xn--…"`
	const address = "that is no name: want it in whitelist"
	label := strings.Repeat("a", 64)
	for value, what := range map[string]string{
		`"203.0.113.7"`:         address,
		`"2001:db8::/32"`:       address,
		`"203.0.113.7/33"`:      want,
		`"203.0.113.256"`:       want,
		`""`:                    want,
		`"."`:                   want,
		`".example.org"`:        want,
		`"home..example.org"`:   want,
		`"home.example.org.."`:  want,
		`"*.example.org"`:       want,
		`"_sip.example.org"`:    want,
		`"-home.example.org"`:   want,
		`"home-.example.org"`:   want,
		`"home.example.org:22"`: want,
		`"home.example.org "`:   want,
		`"bücher.example"`:      want,
		`7`:                     want,
		`"` + label + `"`:       want,
	} {
		shown := value
		if len(value) > maxQuoted {
			shown = quote(strings.Trim(value, `"`))
		}
		wantFaults(t, "whitelist_names = ["+value+"]", fmt.Sprintf(`1:1: whitelist_names: %s: %s`, shown, what))
	}
	wantFaults(t, `whitelist_names = "home.example.org"`, `1:1: whitelist_names: "home.example.org": want a list in brackets`)
	var all []string
	for i := range 65 {
		all = append(all, fmt.Sprintf(`"host%d.example.org"`, i))
	}
	list := func(n int) string { return "whitelist_names = [" + strings.Join(all[:n], ", ") + "]" }
	wantFaults(t, list(65), "1:1: whitelist_names: 65 names: want at most 64")
	if n := len(mustParse(t, list(64)).Names); n != 64 {
		t.Errorf("%d names of 64", n)
	}
}
