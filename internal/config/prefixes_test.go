package config

import (
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/portmon/portmon/nftset"
)

func TestSingle6(t *testing.T) {
	for value, want := range map[string][]netip.Prefix{
		`[]`:                                   nil,
		`["2001:db8::/32", '2001:DB8:1::/48']`: prefixes("2001:db8::/32", "2001:db8:1::/48"),
		`["2001:db8::7", "::/1", "::/128"]`:    prefixes("2001:db8::7/128", "::/1", "::/128"),
	} {
		if diff := diffPrefixes(want, mustParse(t, "[ban]\nsingle6 = "+value).Spec.Single6); diff != "" {
			t.Errorf("single6 = %s (-want +got)\n%s", value, diff)
		}
	}
}

func TestSingle6Warnings(t *testing.T) {
	const text = "[ban]\nsingle6 = [\"2001:db8::7/64\", \"::/0\"]"
	wantWarnings(t, text, `2:12: ban.single6: "2001:db8::7/64": taken as 2001:db8::/64: the address has bits set beyond the prefix length
2:30: ban.single6: "::/0": this is all of IPv6: every source evades its ban with another address`)
	c, err := Parse("p.toml", []byte(text), noFiles)
	if err != nil {
		t.Fatal(err)
	}
	if diff := diffPrefixes(prefixes("2001:db8::/64", "::/0"), c.Spec.Single6); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestSingle6Faults(t *testing.T) {
	const (
		prefix = "want an IPv6 prefix such as 2001:db8::/32"
		ipv4   = "IPv4 addresses are banned one by one anyway: " + prefix
		length = "want a prefix length from 0 to 128 after the slash"
	)
	for value, want := range map[string]string{
		`""`:                        prefix,
		`"example.org"`:             prefix,
		`"fe80::1%eth0"`:            prefix,
		`"fe80::%eth0/64"`:          prefix,
		`"2001:db8::1-2001:db8::9"`: prefix,
		`"2001:db8::/"`:             length,
		`"2001:db8::/129"`:          length,
		`"2001:db8::/-1"`:           length,
		`"2001:db8::/064"`:          length,
		`"2001:db8::/64/64"`:        length,
		`"192.0.2.0/24"`:            ipv4,
		`"192.0.2.7"`:               ipv4,
		`"::ffff:192.0.2.0/120"`:    ipv4,
		`"::ffff:0:0/90"`:           ipv4,
	} {
		wantFaults(t, "[ban]\nsingle6 = ["+value+"]", "2:12: ban.single6: "+value+": "+want)
	}
	wantFaults(t, "[ban]\nsingle6 = [64]", `2:12: ban.single6: 64: want an IPv6 prefix in quotes, not an integer`)
	wantFaults(t, "[ban]\nsingle6 = \"2001:db8::/32\"", `2:11: ban.single6: "2001:db8::/32": want a list of IPv6 prefixes in brackets, not a string`)
}

func TestAppendEntry(t *testing.T) {
	tests := []struct{ text, want, notes string }{
		{"192.0.2.7", "192.0.2.7/32", ""},
		{"192.0.2.0/24", "192.0.2.0/24", ""},
		{"192.0.2.7/32", "192.0.2.7/32", ""},
		{"2001:db8::7", "2001:db8::7/128", ""},
		{"2001:DB8::/32", "2001:db8::/32", ""},
		{"0.0.0.0", "0.0.0.0/32", ""},
		{"128.0.0.0/1", "128.0.0.0/1", ""},

		{"127.0.0.1/24", "127.0.0.0/24", "taken as 127.0.0.0/24: the address has bits set beyond the prefix length"},
		{"2001:db8::1/64", "2001:db8::/64", "taken as 2001:db8::/64: the address has bits set beyond the prefix length"},
		{"::ffff:192.0.2.7", "192.0.2.7/32", "taken as 192.0.2.7: packets carry it as IPv4"},
		{"::ffff:c000:207", "192.0.2.7/32", "taken as 192.0.2.7: packets carry it as IPv4"},
		{"::ffff:192.0.2.0/120", "192.0.2.0/24", "taken as 192.0.2.0/24: packets carry it as IPv4"},
		{"::ffff:192.0.2.7/120", "192.0.2.0/24", `taken as 192.0.2.7/24: packets carry it as IPv4
taken as 192.0.2.0/24: the address has bits set beyond the prefix length`},
		{"0.0.0.0/0", "0.0.0.0/0", "this is all of IPv4: no source of that family will ever be banned"},
		{"::/0", "::/0", "this is all of IPv6: no source of that family will ever be banned"},
		{"1.2.3.4/0", "0.0.0.0/0", `taken as 0.0.0.0/0: the address has bits set beyond the prefix length
this is all of IPv4: no source of that family will ever be banned`},
		{"::ffff:0:0/96", "0.0.0.0/0", `taken as 0.0.0.0/0: packets carry it as IPv4
this is all of IPv4: no source of that family will ever be banned`},

		{"192.0.2.10-192.0.2.20", "192.0.2.10/31 192.0.2.12/30 192.0.2.16/30 192.0.2.20/32", ""},
		{"192.0.2.0-192.0.2.255", "192.0.2.0/24", ""},
		{"192.0.2.7-192.0.2.7", "192.0.2.7/32", ""},
		{"192.0.2.255-192.0.3.0", "192.0.2.255/32 192.0.3.0/32", ""},
		{"255.255.255.254-255.255.255.255", "255.255.255.254/31", ""},
		{"2001:db8::-2001:db8::ffff", "2001:db8::/112", ""},
		{"0.0.0.0-255.255.255.255", "0.0.0.0/0", "this is all of IPv4: no source of that family will ever be banned"},
		{"::-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "::/0", "this is all of IPv6: no source of that family will ever be banned"},
		{"::ffff:192.0.2.0-::ffff:192.0.2.1", "192.0.2.0/31", "taken as 192.0.2.0-192.0.2.1: packets carry it as IPv4"},
	}
	for _, tt := range tests {
		// The entries before stay, and get no notes of their own.
		before := prefixes("0.0.0.0/0")
		got, notes, err := appendEntry(before, tt.text)
		if err != nil {
			t.Errorf("%s: %v", tt.text, err)
			continue
		}
		want := append(before, prefixes(strings.Fields(tt.want)...)...)
		if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Prefix{})); diff != "" {
			t.Errorf("%s (-want +got)\n%s", tt.text, diff)
		}
		if diff := cmp.Diff(tt.notes, strings.Join(notes, "\n")); diff != "" {
			t.Errorf("notes of %s (-want +got)\n%s", tt.text, diff)
		}
	}
}

func TestAppendEntryFaults(t *testing.T) {
	const want = "want an address, a prefix such as 192.0.2.0/24 or 2001:db8::/32, or a range such as 192.0.2.10-192.0.2.20"
	const name = "names are not resolved: there is no DNS when the table is loaded at boot, and whoever runs the name could whitelist anybody; want an address, a prefix or a range"
	const zone = "zones are not possible, as a whitelist holds on every interface; want the address without the percent sign and what follows"
	tests := []struct{ text, want string }{
		{"", want},
		{" ", want},
		{" 192.0.2.1", want},
		{"192.0.2", want},
		{"192.0.2.256", want},
		{"192.0.2.01", want},
		{"192.0.2.0/24/24", "want a prefix length from 0 to 32 after the slash"},
		{"192.0.2.0/", "want a prefix length from 0 to 32 after the slash"},
		{"192.0.2.0/33", "want a prefix length from 0 to 32 after the slash"},
		{"192.0.2.0/-1", want},
		{"192.0.2.0/08", "want a prefix length from 0 to 32 after the slash"},
		{"192.0.2.0/255.255.255.0", "want a prefix length from 0 to 32 after the slash"},
		{"2001:db8::/129", "want a prefix length from 0 to 128 after the slash"},
		{"::ffff:192.0.2.0/95", "want a prefix length from 96 to 128 for IPv4 written as ::ffff:0:0/96"},
		{"/24", want},
		{"1:2:3", want},
		{"[2001:db8::1]", want},
		{"192.0.2.1:80", want},
		{"192.0.2.1,192.0.2.2", want},
		{"\x1b[31m", want},

		{"example.org", name},
		{"localhost", name},
		{"my-host.example.org", name},
		{"host_1", name},
		{"10.0.0.x", name},

		{"fe80::1%eth0", zone},
		{"fe80::%eth0/64", zone},
		{"fe80::1%eth0-fe80::2%eth0", zone},

		{"192.0.2.9-192.0.2.3", "the range is reversed: want 192.0.2.3-192.0.2.9"},
		{"192.0.2.1-2001:db8::1", "want two addresses of the same family"},
		{"::1-::ffff:192.0.2.1", "want two addresses of the same family"},
		{"192.0.2.1-::ffff:192.0.2.1", "want two addresses of the same family"},
		{"192.0.2.1-9", want},
		{"192.0.2.0/24-192.0.3.0/24", want},
		{"-", want},
		{"192.0.2.1-", want},
		{"192.0.2.1-192.0.2.2-192.0.2.3", want},
	}
	for _, tt := range tests {
		got, notes, err := appendEntry(nil, tt.text)
		if err == nil || err.Error() != tt.want {
			t.Errorf("%q: %v\nwant the error: %s", tt.text, err, tt.want)
		}
		if got != nil || notes != nil {
			t.Errorf("%q gave %v with the notes %q, beside the error", tt.text, got, notes)
		}
	}
}

// A range becomes prefixes which follow one another from its first address to
// its last, no two of which could be one.
func TestAppendRangeIsExact(t *testing.T) {
	random := rand.New(rand.NewPCG(5, 6))
	for range 2000 {
		from, to := randomAddr(random), randomAddr(random)
		if from.Is4() != to.Is4() {
			continue
		}
		if to.Less(from) {
			from, to = to, from
		}
		got, _, err := appendEntry(nil, from.String()+"-"+to.String())
		if err != nil {
			t.Fatal(err)
		}
		next := from
		for i, p := range got {
			if p.Addr() != next || p != p.Masked() {
				t.Fatalf("%v-%v: %v does not begin at %v", from, to, p, next)
			}
			if i > 0 && got[i-1].Bits() == p.Bits() {
				wider := netip.PrefixFrom(p.Addr(), p.Bits()-1).Masked()
				if wider.Addr() == got[i-1].Addr() {
					t.Fatalf("%v-%v: %v and %v could be %v", from, to, got[i-1], p, wider)
				}
			}
			next = nftset.Prefix(p).Interval.To.Addr().Next()
		}
		if end := nftset.Prefix(got[len(got)-1]).Interval.To.Addr(); end != to {
			t.Fatalf("%v-%v ends at %v", from, to, end)
		}
	}
}

// randomAddr returns an address out of a few bits, so that ranges are short,
// empty and long.
func randomAddr(random *rand.Rand) netip.Addr {
	if random.IntN(2) == 0 {
		return netip.AddrFrom4([4]byte{192, 0, byte(random.IntN(2)), byte(random.IntN(256))})
	}
	a := [16]byte{0: 0x20, 1: 0x01}
	a[random.IntN(14)+2] = byte(random.IntN(256))
	return netip.AddrFrom16(a)
}
