package config

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/portmon/portmon/ruleset"
)

func TestPorts(t *testing.T) {
	tests := []struct {
		text string
		want ruleset.Ports
	}{
		{"1", ruleset.Ports{From: 1, To: 1}},
		{"65535", ruleset.Ports{From: 65535, To: 65535}},
		{"5900-5910", ruleset.Ports{From: 5900, To: 5910}},
		{"22-22", ruleset.Ports{From: 22, To: 22}},
		{"1-65535", ruleset.Ports{From: 1, To: 65535}},
	}
	for _, tt := range tests {
		if got, err := ports(setting{value: tt.text}); got != tt.want || err != nil {
			t.Errorf("ports(%q) = %v, %v: want %v", tt.text, got, err, tt.want)
		}
	}
}

func TestPortFaults(t *testing.T) {
	const want = `want a port from 1 to 65535, or a range of ports in quotes such as "5900-5910"`
	for _, text := range []string{
		"", "0", "65536", "-1", "+1", "022", "0x16", "1.5", "ssh", " 22", "22 ", "-", "1-", "-2", "1-2-3", "0-22", "1-65536",
		"5900 - 5910", "5900:5910", "٢٢", "99999999999999999999",
	} {
		if got, err := ports(setting{value: text}); err == nil || err.Error() != want {
			t.Errorf("ports(%q) = %v, %v: want the error %q", text, got, err, want)
		}
	}
	if _, err := ports(setting{value: "5910-5900"}); err == nil || err.Error() != `the range is reversed: want "5900-5910"` {
		t.Errorf("ports of a reversed range: %v", err)
	}
}

func TestPortsFaults(t *testing.T) {
	const want = `want a port from 1 to 65535, or a range of ports in quotes such as "5900-5910"`
	tests := []struct{ value, want string }{
		{`[0]`, `2:1: trap.udp: 0: ` + want},
		{`[65536]`, `2:1: trap.udp: 65536: ` + want},
		{`[-22]`, `2:1: trap.udp: -22: ` + want},
		{`[22.0]`, `2:1: trap.udp: 22.0: ` + want},
		{`[true, { a = 1 }]`, "2:1: trap.udp: true: " + want + "\n2:1: trap.udp: " + want},
		{`[9999999999999999999999]`, `2:8: toml: decimal number is too large to fit in a 64-bit signed integer`},
		{`[5900-5910]`, `2:8: toml: dates are expected to have the format YYYY-MM-DD` + quotes},
		{`[2000-01-01]`, `2:1: trap.udp: 2000-01-01: ` + want},
		{`["5910-5900"]`, `2:1: trap.udp: "5910-5900": the range is reversed: want "5900-5910"`},

		{`[22, 22]`, `2:1: trap.udp: 22 overlaps 22`},
		{`[22, "22", "22-22"]`, "2:1: trap.udp: 22 overlaps 22\n2:1: trap.udp: 22 overlaps 22"},
		{`[22, 22, 0]`, "2:1: trap.udp: 0: " + want + "\n2:1: trap.udp: 22 overlaps 22"},
		{`["10-20", 15]`, `2:1: trap.udp: 15 overlaps 10-20`},
		{`[15, "10-20"]`, `2:1: trap.udp: 15 overlaps 10-20`},
		{`["10-20", "20-30"]`, `2:1: trap.udp: 20-30 overlaps 10-20`},
		{`["10-20", "21-30", 9]`, ``},
		{"[\n\"10-90\",\n11,\n12,\n]", "2:1: trap.udp: 11 overlaps 10-90\n2:1: trap.udp: 12 overlaps 10-90"},
	}
	for _, tt := range tests {
		text := "[trap]\nudp = " + tt.value
		if tt.want == "" {
			mustParse(t, text)
		} else {
			wantFaults(t, text, tt.want)
		}
	}
}

// The ports that scans may ask for are written like traps.
func TestPortsToIgnore(t *testing.T) {
	for value, want := range map[string][]ruleset.Ports{
		`[]`:                              nil,
		`[21, "40000-40100", '69']`:       {{From: 21, To: 21}, {From: 40000, To: 40100}, {From: 69, To: 69}},
		`["1-65535"]`:                     {{From: 1, To: 65535}},
		"[\n  1,\n  65535, # the last\n]": {{From: 1, To: 1}, {From: 65535, To: 65535}},
	} {
		got := mustParse(t, "[scan]\nignore = "+value).Spec.Scan.Ignore
		if !slices.Equal(got, want) {
			t.Errorf("ignore = %s gives %v: want %v", value, got, want)
		}
	}
	const want = `want a port from 1 to 65535, or a range of ports in quotes such as "5900-5910"`
	for value, want := range map[string]string{
		`[0]`:           `2:1: scan.ignore: 0: ` + want,
		`[65536]`:       `2:1: scan.ignore: 65536: ` + want,
		`["http"]`:      `2:1: scan.ignore: "http": ` + want,
		`[80, "79-81"]`: `2:1: scan.ignore: 80 overlaps 79-81`,
		`[80, 80]`:      `2:1: scan.ignore: 80 overlaps 80`,
		`["81-80"]`:     `2:1: scan.ignore: "81-80": the range is reversed: want "80-81"`,
		`[4000-4001]`:   `2:11: toml: dates are expected to have the format YYYY-MM-DD` + quotes,
		`80`:            `2:1: scan.ignore: 80: want a list in brackets`,
		`"40000-40100"`: `2:1: scan.ignore: "40000-40100": want a list in brackets`,
	} {
		wantFaults(t, "[scan]\nignore = "+value, want)
	}
	// A port may be a trap and be ignored in scans.
	mustParse(t, "[trap]\ntcp = [80]\n[scan]\nignore = [80]")
}

// A port may be a trap in both protocols.
func TestPortsOfTwoProtocols(t *testing.T) {
	mustParse(t, "[trap]\ntcp = [53]\nudp = [53]")
}

// The overlaps found are those of a search that compares every element with
// every other.
func TestPortsOverlapsAgree(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	overlapping := 0
	for range 2000 {
		var ports []ruleset.Ports
		var items []string
		for range 1 + random.IntN(6) {
			from := uint16(1 + random.IntN(100))
			p := ruleset.Ports{From: from, To: from + uint16(random.IntN(20))}
			ports = append(ports, p)
			items = append(items, fmt.Sprintf("%q", p.String()))
		}
		want := false
		for i, p := range ports {
			for _, q := range ports[:i] {
				want = want || p.From <= q.To && q.From <= p.To
			}
		}
		text := "[trap]\nudp = [" + strings.Join(items, ", ") + "]"
		_, err := parsed("p.toml", []byte(text), noFiles)
		if (err != nil) != want {
			t.Fatalf("overlaps are %v, but Parse returned %v for\n%s", want, err, text)
		}
		if want {
			overlapping++
		}
	}
	if overlapping < 200 || overlapping > 1800 {
		t.Errorf("%d of 2000 lists overlap: they prove little", overlapping)
	}
}
