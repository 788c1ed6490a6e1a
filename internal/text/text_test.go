package text

import (
	"net/netip"
	"testing"
	"time"
)

func TestDuration(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0:                       "0s",
		1:                       "1ms",
		time.Millisecond:        "1ms",
		999 * time.Millisecond:  "999ms",
		time.Second:             "1s",
		1500 * time.Millisecond: "1s500ms",
		90 * time.Second:        "1m30s",
		time.Hour:               "1h",
		8 * time.Hour:           "8h",
		36 * time.Hour:          "1d12h",
		day:                     "1d",
		day + time.Second:       "1d1s",
		25*time.Hour + 61*time.Second + 5*time.Millisecond: "1d1h1m1s5ms",
		3650 * day: "3650d",
	} {
		if got := Duration(d); got != want {
			t.Errorf("%v: got %q, want %q", d, got, want)
		}
	}
}

func TestShortDuration(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0:                                     "0s",
		400 * time.Millisecond:                "0s",
		500 * time.Millisecond:                "1s",
		59 * time.Second:                      "59s",
		59*time.Second + 600*time.Millisecond: "1m",
		61 * time.Second:                      "1m1s",
		time.Hour - time.Second:               "59m59s",
		time.Hour - time.Millisecond:          "1h",
		time.Hour + 29*time.Second:            "1h",
		time.Hour + 31*time.Second:            "1h1m",
		8*time.Hour - 20*time.Millisecond:     "8h",
		day - 29*time.Second:                  "1d",
		day - 31*time.Second:                  "23h59m",
		day + 29*time.Minute:                  "1d",
		3*day - 40*time.Minute:                "2d23h",
		3*day - 20*time.Minute:                "3d",
		3649*day + 23*time.Hour:               "3649d23h",
	} {
		if got := ShortDuration(d); got != want {
			t.Errorf("%v: got %q, want %q", d, got, want)
		}
	}
}

func TestSize(t *testing.T) {
	for n, want := range map[int64]string{
		0: "0 bytes", 1000: "1000 bytes", 1024: "1 KiB", 64 << 10: "64 KiB", 1 << 20: "1 MiB",
		1<<20 + 1024: "1025 KiB", 256 << 20: "256 MiB", 256<<20 + 1: "268435457 bytes",
	} {
		if got := Size(n); got != want {
			t.Errorf("%d is written %q, want %q", n, got, want)
		}
	}
}

func TestLists(t *testing.T) {
	for _, tt := range []struct{ got, want string }{
		{Plural(0, "ban"), "0 bans"},
		{Plural(1, "ban"), "1 ban"},
		{Plural(2, "closed port"), "2 closed ports"},
		{Enumerate(nil, "or"), ""},
		{Enumerate([]string{"a"}, "or"), "a"},
		{Enumerate([]string{"a", "b"}, "and"), "a and b"},
		{Enumerate([]string{"a", "b", "c"}, "or"), "a, b or c"},
	} {
		if tt.got != tt.want {
			t.Errorf("got %q, want %q", tt.got, tt.want)
		}
	}
}

func TestAddressesAndPorts(t *testing.T) {
	for _, tt := range []struct{ got, want string }{
		{Prefix(netip.Prefix{}), ""},
		{Prefix(netip.MustParsePrefix("192.0.2.7/32")), "192.0.2.7"},
		{Prefix(netip.MustParsePrefix("2001:db8::7/128")), "2001:db8::7"},
		{Prefix(netip.MustParsePrefix("2001:db8::/64")), "2001:db8::/64"},
		{Protocol(132), "132"},
		{Port(6, 23), "tcp/23"},
		{Port(17, 53), "udp/53"},
		{Port(132, 7), "132/7"},
		{Port(6, 0), "tcp"},
		{Port(0, 23), ""},
		{Port(0, 0), ""},
	} {
		if tt.got != tt.want {
			t.Errorf("got %q, want %q", tt.got, tt.want)
		}
	}
}

func TestPrintable(t *testing.T) {
	for s, want := range map[string]string{
		"":                          "",
		"fail2ban: sshd":            "fail2ban: sshd",
		"ünknown & <others>\n":      "ünknown & <others> ",
		"a\r\nX-Priority: 5\tb":     "a  X-Priority: 5 b",
		"\x1b[31mred\x00\x7f\u202e": "�[31mred���",
		"\xff\u2028":                "� ",
		"\u0085":                    " ",
	} {
		if got := Printable(s); got != want {
			t.Errorf("%q: got %q, want %q", s, got, want)
		}
	}
}

func TestShorten(t *testing.T) {
	for s, want := range map[string]string{"": "", "üüüü": "üüüü", "üüüüü": "üüüü…", "\xff\xff\xff\xff\xff": "\xff\xff\xff\xff…"} {
		if got := Shorten(s, 4); got != want {
			t.Errorf("%q: got %q, want %q", s, got, want)
		}
	}
}
