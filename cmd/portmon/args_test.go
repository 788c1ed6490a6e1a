package main

import (
	"strings"
	"testing"
	"time"

	"github.com/portmon/portmon/ruleset"
)

func TestParseTarget(t *testing.T) {
	for s, want := range map[string]string{
		"192.0.2.7":               "192.0.2.7 address",
		"192.0.2.7/32":            "192.0.2.7",
		"192.0.2.7/24":            "192.0.2.0/24, the network of 192.0.2.7/24,",
		"2001:DB8::7":             "2001:db8::7 address",
		"2001:db8::/48":           "2001:db8::/48",
		"::ffff:192.0.2.7":        "192.0.2.7 address",
		"::ffff:192.0.2.0/120":    "192.0.2.0/24",
		"0.0.0.0/0":               "0.0.0.0/0",
		"::/0":                    "::/0",
		"192.0.2.0/255.255.255.0": "192.0.2.0/24",
		"192.0.2.1-192.0.2.3":     "192.0.2.1 192.0.2.2/31",
		"192.0.2.0 - 192.0.2.7":   "192.0.2.0/29",
		"2001:db8::-2001:db8::1":  "2001:db8::/127",
	} {
		got, err := parseTarget(s)
		var texts []string
		for _, one := range got {
			one.source = one.prefix
			text := one.name()
			if one.address {
				text += " address"
			}
			if one.text != s {
				t.Errorf("%s: written as %q", s, one.text)
			}
			texts = append(texts, text)
		}
		if text := strings.Join(texts, " "); err != nil || text != want {
			t.Errorf("%s: got %s, %v; want %s", s, text, err, want)
		}
	}
	for _, s := range []string{
		"", " ", "localhost", "192.0.2", "192.0.2.256", "192.0.2.7/", "192.0.2.7/33", "192.0.2.7/-1", "192.0.2.7/024", "/24", "2001:db8::/129",
		"fe80::1%eth0", "fe80::1%eth0/64", "192.0.2.9-192.0.2.1", "192.0.2.1-", "192.0.2.7:23", "::ffff:0:0/95", "192.0.2.7 ", "my-host",
		"192.0.2.0/255.0.255.0", "2001:db8::/255.255.0.0", "192.0.2.1-2001:db8::",
	} {
		if got, err := parseTarget(s); err == nil {
			t.Errorf("%q: got %v, want an error", s, got)
		} else if len(s) > 1 && !strings.Contains(err.Error(), `"`+s+`"`) {
			t.Errorf("%q: the error does not name it: %v", s, err)
		} else if strings.Contains(err.Error(), "whitelist") {
			t.Errorf("%q: the error is about something else: %v", s, err)
		}
	}
}

func TestParseBanTime(t *testing.T) {
	for s, want := range map[string]time.Duration{"90s": 90 * time.Second, "90": 90 * time.Second, "1d12h": 36 * time.Hour, "forever": ruleset.Forever} {
		if got, err := parseBanTime(s); err != nil || got != want {
			t.Errorf("%s: got %v, %v; want %v", s, got, err, want)
		}
	}
	for _, s := range []string{"", "0", "0s", "8 h", "-1h", "3651d", "1y", "ever"} {
		if got, err := parseBanTime(s); err == nil {
			t.Errorf("%q: got %v, want an error", s, got)
		}
	}
}

func TestCheckReason(t *testing.T) {
	for _, s := range []string{"", "spam", "guesses 'passwords' (again)", "Größe", strings.Repeat("x", 128)} {
		if err := checkReason(s, ""); err != nil {
			t.Errorf("%q: %v", s, err)
		}
	}
	for _, s := range []string{`a "b"`, "a\nb", "a\tb", "\x1b[31m", "\xff", strings.Repeat("x", 129)} {
		if err := checkReason(s, ""); err == nil {
			t.Errorf("%q: no error", s)
		}
	}
}
