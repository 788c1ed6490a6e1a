package config

import (
	"errors"
	"slices"
	"strings"
	"testing"
)

// seeds returns configurations, good and bad: the reference and what the other
// tests use.
func seeds() []string {
	all := []string{string(Reference)}
	for _, tt := range goodConfigs {
		all = append(all, tt.text)
	}
	for _, tt := range badConfigs {
		all = append(all, tt.text)
	}
	return all
}

// whitelistSeeds returns whitelist files.
func whitelistSeeds() []string {
	return []string{
		"# office\n192.0.2.7\n2001:db8::/32 # trailing\n\n",
		"\uFEFF192.0.2.0/24\r\n192.0.2.10-192.0.2.20\r\n",
		"127.0.0.1/24\n::ffff:192.0.2.7\n::ffff:0:0/96\n0.0.0.0/0\n::/0",
		"example.org\nfe80::1%eth0\n192.0.2.1/33\n192.0.2.1 192.0.2.2\n192.0.2.9-192.0.2.3\n",
		strings.Repeat("x\n", 25),
		"::-ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe\n",
	}
}

// checkParse fails the test if what Parse returns breaks its promises, and
// reports whether the configuration is good.
func checkParse(t *testing.T, text, whitelist string) bool {
	t.Helper()
	open := files(map[string]string{"w.txt": whitelist})
	c, err := parsed("p.toml", []byte(text), open)
	if err == nil {
		if err := c.Spec.Validate(); err != nil {
			t.Errorf("accepted, but not valid: %v", err)
		}
		if c.Watch.State == "" {
			t.Errorf("accepted, but %+v", c)
		}
		for _, w := range c.Warnings {
			checkPlace(t, w, text, whitelist)
		}
		return true
	}
	var faults Errors
	ok := errors.As(err, &faults)
	if !ok || len(faults) == 0 || c != nil {
		t.Fatalf("Parse returned %v, %v", c, err)
	}
	for _, fault := range faults {
		if fault.Err == nil {
			t.Fatal("a fault without an error")
		}
		checkPlace(t, fault, text, whitelist)
	}
	if !slices.IsSortedFunc(faults, func(a, b *Error) int {
		if a.File != b.File {
			return strings.Compare(a.File, b.File) // p.toml, w.txt
		}
		return a.Line - b.Line
	}) {
		t.Errorf("not in order:\n%v", err)
	}
	return false
}

// checkPlace wants a place that exists, and a message that stays on one line.
func checkPlace(t *testing.T, at *Error, text, whitelist string) {
	t.Helper()
	message := at.Error()
	if at.File == "w.txt" {
		text = whitelist
	}
	if many := strings.Count(text, "=")+strings.Count(text, "[") > maxKeys; at.Line < 1 && !many || at.Line > 1+strings.Count(text, "\n") {
		t.Errorf("line %d of %d: %s", at.Line, 1+strings.Count(text, "\n"), message)
	}
	if strings.ContainsAny(message, "\n\r\x1b\x00") {
		t.Errorf("a message with control characters: %q", message)
	}
}

func FuzzParse(f *testing.F) {
	for _, seed := range seeds() {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) { checkParse(t, text, "") })
}

func FuzzWhitelistFile(f *testing.F) {
	for _, seed := range whitelistSeeds() {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, whitelist string) { checkParse(t, `whitelist_files = ["w.txt"]`, whitelist) })
}

// The seeds are there, and both ends of Parse are among them.
func TestFuzzSeeds(t *testing.T) {
	var good, bad int
	count := func(ok bool) {
		if ok {
			good++
		} else {
			bad++
		}
	}
	for _, seed := range seeds() {
		count(checkParse(t, seed, ""))
	}
	if wantGood, wantBad := 1+len(goodConfigs), len(badConfigs); good != wantGood || bad != wantBad || good < 10 || bad < 10 {
		t.Errorf("%d good and %d bad seeds of configurations: want %d and %d", good, bad, wantGood, wantBad)
	}
	good, bad = 0, 0
	for _, seed := range whitelistSeeds() {
		count(checkParse(t, `whitelist_files = ["w.txt"]`, seed))
	}
	if good < 3 || bad < 2 {
		t.Errorf("%d good and %d bad seeds of whitelist files", good, bad)
	}
}
