package addrlist

import (
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/portmon/portmon/nftset"
)

func prefixes(texts ...string) []netip.Prefix {
	var all []netip.Prefix
	for _, s := range texts {
		all = append(all, netip.MustParsePrefix(s))
	}
	return all
}

func TestParse(t *testing.T) {
	for s, want := range map[string]string{
		"192.0.2.7":                       "192.0.2.7/32",
		"192.0.2.0/24":                    "192.0.2.0/24",
		"192.0.2.7/32":                    "192.0.2.7/32",
		"2001:db8::7":                     "2001:db8::7/128",
		"2001:DB8::/32":                   "2001:db8::/32",
		"0.0.0.0":                         "0.0.0.0/32",
		"128.0.0.0/1":                     "128.0.0.0/1",
		"127.0.0.1/24":                    "127.0.0.0/24",
		"2001:db8::1/64":                  "2001:db8::/64",
		"::ffff:192.0.2.7":                "192.0.2.7/32",
		"::ffff:c000:207":                 "192.0.2.7/32",
		"::ffff:192.0.2.0/120":            "192.0.2.0/24",
		"::ffff:192.0.2.7/120":            "192.0.2.0/24",
		"0.0.0.0/0":                       "0.0.0.0/0",
		"::/0":                            "::/0",
		"1.2.3.4/0":                       "0.0.0.0/0",
		"::ffff:0:0/96":                   "0.0.0.0/0",
		"192.0.2.10-192.0.2.20":           "192.0.2.10/31 192.0.2.12/30 192.0.2.16/30 192.0.2.20/32",
		"192.0.2.0-192.0.2.255":           "192.0.2.0/24",
		"192.0.2.7-192.0.2.7":             "192.0.2.7/32",
		"192.0.2.255-192.0.3.0":           "192.0.2.255/32 192.0.3.0/32",
		"255.255.255.254-255.255.255.255": "255.255.255.254/31",
		"2001:db8::-2001:db8::ffff":       "2001:db8::/112",
		"0.0.0.0-255.255.255.255":         "0.0.0.0/0",
		"::-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff": "::/0",
		"::ffff:192.0.2.0-::ffff:192.0.2.1":          "192.0.2.0/31",
		"192.0.2.0/255.255.255.0":                    "192.0.2.0/24",
		"192.0.2.7/255.255.255.0":                    "192.0.2.0/24",
		"192.0.2.7/0.0.0.0":                          "0.0.0.0/0",
		"192.0.2.0 - 192.0.2.1":                      "192.0.2.0/31",
	} {
		got, err := Parse(s)
		if err != nil {
			t.Errorf("%s: %v", s, err)
		}
		if diff := cmp.Diff(prefixes(strings.Fields(want)...), got, cmpopts.EquateComparable(netip.Prefix{})); diff != "" {
			t.Errorf("%s (-want +got)\n%s", s, diff)
		}
	}
}

func TestParseFaults(t *testing.T) {
	const want = "want an address, a prefix such as 192.0.2.0/24 or 2001:db8::/32, or a range such as 192.0.2.10-192.0.2.20; names are not resolved"
	const zone = "zones are not supported: leave out the percent sign and what follows"
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
		{"192.0.2.0/255.0.255.0", "want a netmask such as 255.255.255.0 after the slash"},
		{"192.0.2.0/1.2", "want a netmask such as 255.255.255.0 after the slash"},
		{"192.0.2.0/::1.2.3.4", "want a netmask such as 255.255.255.0 after the slash"},
		{"2001:db8::/255.255.0.0", "want a prefix length from 0 to 128 after the slash"},
		{"2001:db8::/129", "want a prefix length from 0 to 128 after the slash"},
		{"::ffff:192.0.2.0/95", "want a prefix length from 96 to 128 for IPv4 written as ::ffff:0:0/96"},
		{"/24", want},
		{"1:2:3", want},
		{"[2001:db8::1]", want},
		{"192.0.2.1:80", want},
		{"192.0.2.1,192.0.2.2", want},
		{"\x1b[31m", want},

		{"example.org", want},
		{"localhost", want},
		{"my-host.example.org", want},
		{"host_1", want},
		{"10.0.0.x", want},

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
		got, err := Parse(tt.text)
		if err == nil || err.Error() != tt.want {
			t.Errorf("%q: %v\nwant the error: %s", tt.text, err, tt.want)
		}
		if got != nil {
			t.Errorf("%q gave %v, beside the error", tt.text, got)
		}
	}
}

// A range becomes prefixes which follow one another from its first address to
// its last, no two of which could be one.
func TestRangeIsExact(t *testing.T) {
	random := rand.New(rand.NewPCG(5, 6))
	for range 2000 {
		from, to := randomAddr(random), randomAddr(random)
		if from.Is4() != to.Is4() {
			continue
		}
		if to.Less(from) {
			from, to = to, from
		}
		got, err := Parse(from.String() + "-" + to.String())
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
