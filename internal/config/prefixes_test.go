package config

import (
	"net/netip"
	"testing"

	"github.com/portmon/portmon/internal/addrlist"
)

func TestSingle6(t *testing.T) {
	for value, want := range map[string][]netip.Prefix{
		`[]`:                                   nil,
		`["2001:db8::/32", '2001:DB8:1::/48']`: prefixes("2001:db8::/32", "2001:db8:1::/48"),
		`["2001:db8::7", "::/1", "::/128"]`:    prefixes("2001:db8::7/128", "::/1", "::/128"),
		`["2001:db8::2-2001:db8::7"]`:          prefixes("2001:db8::2/127", "2001:db8::4/126"),
	} {
		if diff := diffPrefixes(want, mustParse(t, "[ban]\nsingle6 = "+value).Spec.Single6); diff != "" {
			t.Errorf("single6 = %s (-want +got)\n%s", value, diff)
		}
	}
}

func TestSingle6Warnings(t *testing.T) {
	const text = "[ban]\nsingle6 = [\"2001:db8::7/64\", \"::/0\"]"
	wantWarnings(t, text, `2:1: ban.single6: "2001:db8::7/64": taken as 2001:db8::/64: the address has bits set beyond the prefix length
2:1: ban.single6: "::/0": this is every address of its family`)
	c, err := parsed("p.toml", []byte(text), noFiles)
	if err != nil {
		t.Fatal(err)
	}
	if diff := diffPrefixes(prefixes("2001:db8::/64", "::/0"), c.Spec.Single6); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestSingle6Faults(t *testing.T) {
	const (
		syntax = `want an address, a prefix such as 192.0.2.0/24 or 2001:db8::/32, ` +
			`or a range such as 192.0.2.10-192.0.2.20; names are not resolved`
		zone   = "zones are not supported: leave out the percent sign and what follows"
		length = "want a prefix length from 0 to 128 after the slash"
	)
	for value, want := range map[string]string{
		`""`:                 syntax,
		`"example.org"`:      syntax,
		`"fe80::1%eth0"`:     zone,
		`"fe80::%eth0/64"`:   zone,
		`"2001:db8::/"`:      length,
		`"2001:db8::/129"`:   length,
		`"2001:db8::/-1"`:    syntax,
		`"2001:db8::/064"`:   length,
		`"2001:db8::/64/64"`: length,
		`"::ffff:0:0/90"`:    "want a prefix length from 96 to 128 for IPv4 written as ::ffff:0:0/96",
	} {
		wantFaults(t, "[ban]\nsingle6 = ["+value+"]", "2:1: ban.single6: "+value+": "+want)
	}
	wantFaults(t, "[ban]\nsingle6 = [\"192.0.2.0/24\", \"::ffff:192.0.2.7\"]",
		"2:1: ban.single6: 192.0.2.0/24 is not an IPv6 network address\n"+
			"2:1: ban.single6: 192.0.2.7/32 is not an IPv6 network address")
	wantFaults(t, "[ban]\nsingle6 = [64]", `2:1: ban.single6: 64: `+syntax)
	wantFaults(t, "[ban]\nsingle6 = \"2001:db8::/32\"", `2:1: ban.single6: "2001:db8::/32": want a list in brackets`)
}

func TestDoubtful(t *testing.T) {
	for s, want := range map[string]string{
		"192.0.2.7":                       "",
		"192.0.2.0/24":                    "",
		"192.0.2.7/32":                    "",
		"2001:db8::7":                     "",
		"2001:DB8::/32":                   "",
		"0.0.0.0":                         "",
		"128.0.0.0/1":                     "",
		"127.0.0.1/24":                    "taken as 127.0.0.0/24: the address has bits set beyond the prefix length",
		"2001:db8::1/64":                  "taken as 2001:db8::/64: the address has bits set beyond the prefix length",
		"::ffff:192.0.2.7":                "taken as 192.0.2.7: packets carry it as IPv4",
		"::ffff:c000:207":                 "taken as 192.0.2.7: packets carry it as IPv4",
		"::ffff:192.0.2.0/120":            "taken as 192.0.2.0/24: packets carry it as IPv4",
		"::ffff:192.0.2.7/120":            "taken as 192.0.2.0/24: packets carry it as IPv4",
		"0.0.0.0/0":                       "this is every address of its family",
		"::/0":                            "this is every address of its family",
		"1.2.3.4/0":                       "this is every address of its family",
		"::ffff:0:0/96":                   "this is every address of its family",
		"192.0.2.10-192.0.2.20":           "",
		"192.0.2.0-192.0.2.255":           "",
		"192.0.2.7-192.0.2.7":             "",
		"192.0.2.255-192.0.3.0":           "",
		"255.255.255.254-255.255.255.255": "",
		"2001:db8::-2001:db8::ffff":       "",
		"0.0.0.0-255.255.255.255":         "this is every address of its family",
		"::-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff": "this is every address of its family",
		"::ffff:192.0.2.0-::ffff:192.0.2.1":          "taken as 192.0.2.0/31: packets carry it as IPv4",
	} {
		all, err := addrlist.Parse(s)
		if err != nil {
			t.Errorf("%s: %v", s, err)
		} else if got := doubtful(s, all); got != want {
			t.Errorf("%s: got %q: want %q", s, got, want)
		}
	}
}
