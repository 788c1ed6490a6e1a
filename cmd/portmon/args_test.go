package main

import (
	"strings"
	"testing"
	"time"

	"github.com/portmon/portmon/ruleset"
)

func TestParseTarget(t *testing.T) {
	for s, want := range map[string]string{
		"192.0.2.7":            "192.0.2.7/32 address",
		"192.0.2.7/32":         "192.0.2.7/32",
		"192.0.2.7/24":         "192.0.2.0/24 masked",
		"2001:DB8::7":          "2001:db8::7/128 address",
		"2001:db8::/48":        "2001:db8::/48",
		"::ffff:192.0.2.7":     "192.0.2.7/32 address",
		"::ffff:192.0.2.0/120": "192.0.2.0/24",
		"0.0.0.0/0":            "0.0.0.0/0",
		"::/0":                 "::/0",
	} {
		got, err := parseTarget(s)
		text := got.prefix.String()
		if got.address {
			text += " address"
		}
		if got.masked() {
			text += " masked"
		}
		if err != nil || text != want || got.text != s {
			t.Errorf("%s: got %s, %v; want %s", s, text, err, want)
		}
	}
	for _, s := range []string{
		"", " ", "localhost", "192.0.2", "192.0.2.256", "192.0.2.7/", "192.0.2.7/33", "192.0.2.7/-1", "192.0.2.7/024", "/24", "2001:db8::/129",
		"fe80::1%eth0", "fe80::1%eth0/64", "192.0.2.1-192.0.2.9", "192.0.2.7:23", "::ffff:0:0/95", "192.0.2.7 ",
	} {
		if got, err := parseTarget(s); err == nil {
			t.Errorf("%q: got %v, want an error", s, got.prefix)
		} else if len(s) > 1 && !strings.Contains(err.Error(), `"`+s+`"`) {
			t.Errorf("%q: the error does not name it: %v", s, err)
		}
	}
}

func TestParseBanTime(t *testing.T) {
	for s, want := range map[string]time.Duration{"90s": 90 * time.Second, "1d12h": 36 * time.Hour, "forever": ruleset.Forever} {
		if got, err := parseBanTime(s); err != nil || got != want {
			t.Errorf("%s: got %v, %v; want %v", s, got, err, want)
		}
	}
	for _, s := range []string{"", "0", "0s", "8", "8 h", "-1h", "3651d", "1y", "ever"} {
		if got, err := parseBanTime(s); err == nil {
			t.Errorf("%q: got %v, want an error", s, got)
		}
	}
}

func TestCheckReason(t *testing.T) {
	for _, s := range []string{"", "spam", "guesses 'passwords' (again)", "Größe", strings.Repeat("x", 128)} {
		if err := checkReason(s, false); err != nil {
			t.Errorf("%q: %v", s, err)
		}
	}
	for _, s := range []string{`a "b"`, "a\nb", "a\tb", "\x1b[31m", "\xff", strings.Repeat("x", 129)} {
		if err := checkReason(s, false); err == nil {
			t.Errorf("%q: no error", s)
		}
	}
}

func TestSuggest(t *testing.T) {
	words := []string{"apply", "ban", "list", "status", "unban"}
	for s, want := range map[string]string{"lst": "list", "stauts": "status", "sta": "status", "aply": "apply", "bann": "ban", "xyzzy": ""} {
		if got := strings.Join(suggest(s, words), " "); got != want {
			t.Errorf("%s: got %q, want %q", s, got, want)
		}
	}
}
