package config

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/portmon/portmon/ruleset"
)

const day = 24 * time.Hour

// noFiles is an opener for configurations that list no whitelist files, or only
// ones that are missing.
func noFiles(name string) (fs.File, error) {
	return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
}

// files returns an opener for files kept in memory.
func files(contents map[string]string) func(string) (fs.File, error) {
	return func(name string) (fs.File, error) {
		text, ok := contents[name]
		if !ok {
			return noFiles(name)
		}
		return fstest.MapFS{"file": {Data: []byte(text)}}.Open("file")
	}
}

// parsed returns a configuration without faults, or the faults.
func parsed(name string, data []byte, open func(string) (fs.File, error)) (*Config, error) {
	c, faults := parse(name, data, open, (*reader).read)
	if len(faults) > 0 {
		return nil, faults
	}
	return c, nil
}

// mustParse parses a configuration that has neither faults nor warnings.
func mustParse(t *testing.T, text string) *Config {
	t.Helper()
	c, err := parsed("p.toml", []byte(text), noFiles)
	if err != nil {
		t.Fatalf("parse:\n%s\n%v", text, err)
	}
	for _, w := range c.Warnings {
		t.Errorf("unexpected warning: %v", w)
	}
	return c
}

// wantFaults checks the faults of a configuration. Each line of want is one of
// them, without "p.toml:".
func wantFaults(t *testing.T, text, want string) {
	t.Helper()
	c, err := parsed("p.toml", []byte(text), noFiles)
	if err == nil || c != nil {
		t.Fatalf("parse returned %v, %v: want nil and an error for\n%s", c, err, text)
	}
	if ok := errors.As(err, new(Errors)); !ok {
		t.Errorf("the error is a %T, not Errors", err)
	}
	if diff := cmp.Diff(lines("p.toml:", want), err.Error()); diff != "" {
		t.Errorf("faults of:\n%s\n(-want +got)\n%s", text, diff)
	}
}

// wantWarnings checks the warnings of a configuration without faults, in the
// form of wantFaults.
func wantWarnings(t *testing.T, text, want string) {
	t.Helper()
	c, err := parsed("p.toml", []byte(text), noFiles)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(lines("p.toml:", want), warnings(c)); diff != "" {
		t.Errorf("warnings of:\n%s\n(-want +got)\n%s", text, diff)
	}
}

func warnings(c *Config) string {
	var all []string
	for _, w := range c.Warnings {
		all = append(all, w.Error())
	}
	return strings.Join(all, "\n")
}

// lines puts the prefix before each line of text.
func lines(prefix, text string) string {
	text = strings.TrimSpace(text)
	if text == "" {
		return ""
	}
	return prefix + strings.ReplaceAll(text, "\n", "\n"+prefix)
}

func diffConfig(want, got *Config) string {
	return cmp.Diff(want, got, cmpopts.EquateComparable(netip.Prefix{}))
}

// goodConfigs are accepted; the function turns the default into what is
// expected.
var goodConfigs = []struct {
	name, text string
	want       func(*Config)
}{
	{"empty", "", func(*Config) {}},
	{"only a comment", "# portmon", func(*Config) {}},
	{"empty tables", "[trap]\n[scan]\n[ban]\n[geo]\n[watch]\n", func(*Config) {}},
	{"byte order mark and CRLF", "\uFEFF[trap]\r\nmaxretry = 3\r\n", func(c *Config) { c.Spec.MaxRetry = 3 }},
	{"no whitelist", "whitelist = []", func(c *Config) { c.Spec.Whitelist = nil }},
	{
		"everything",
		`
		whitelist = [
			"192.0.2.7",       # an address
			"2001:db8::/32",
			"192.0.2.0-192.0.2.5",
		]

		[trap]
		tcp      = [22, "23", "5900-5910", 0x1bd, 1_433]
		udp      = [5060, '69', """161""", "9-10"]
		grace    = "1m30s"
		maxretry = 1000
		findtime = 90

		[scan]
		ports    = 1_000
		findtime = "12h"
		ignore   = [21, "40000-40100", '80']

		[ban]
		bantime = [600, "1h", "1d12h"]
		forget  = "1w1s"
		prefix6 = 56
		single6 = ["2001:db8:64::/96", "2001:db8::7"]
		subnet4 = 3
		subnet6 = 0x10
		size    = 1_000_000

		[watch]
		state           = "/srv/state"
		metrics         = "[::1]:9713"
		ntfy            = "https://ntfy.sh/my-topic?priority=high"
		ntfy_token_file = "/etc/portmon/token"
		command         = ["/bin/logger", "-t", "", "portmon ban"]
		`,
		func(c *Config) {
			c.Spec.Whitelist = prefixes("192.0.2.7/32", "2001:db8::/32", "192.0.2.0/30", "192.0.2.4/31")
			c.Spec.TrapTCP = []ruleset.Ports{{From: 22, To: 22}, {From: 23, To: 23}, {From: 5900, To: 5910}, {From: 445, To: 445}, {From: 1433, To: 1433}}
			c.Spec.TrapUDP = []ruleset.Ports{{From: 5060, To: 5060}, {From: 69, To: 69}, {From: 161, To: 161}, {From: 9, To: 10}}
			c.Spec.MaxRetry = 1000
			c.Spec.FindTime = 90 * time.Second
			c.Spec.BanTime = []time.Duration{10 * time.Minute, time.Hour, 36 * time.Hour}
			c.Spec.Grace = 90 * time.Second
			c.Spec.Scan = ruleset.Scan{
				Ports:    1000,
				FindTime: 12 * time.Hour,
				Ignore:   []ruleset.Ports{{From: 21, To: 21}, {From: 40000, To: 40100}, {From: 80, To: 80}},
			}
			c.Spec.Forget = 7*day + time.Second
			c.Spec.Prefix6 = 56
			c.Spec.Single6 = prefixes("2001:db8:64::/96", "2001:db8::7/128")
			c.Spec.Subnet4, c.Spec.Subnet6 = 3, 16
			c.Spec.Size = 1000000
			c.Watch = Watch{
				State:         "/srv/state",
				Metrics:       "[::1]:9713",
				Ntfy:          "https://ntfy.sh/my-topic?priority=high",
				NtfyTokenFile: "/etc/portmon/token",
				Command:       []string{"/bin/logger", "-t", "", "portmon ban"},
			}
		},
	},
	{"dotted keys", "trap.maxretry = 2\ntrap . \"findtime\" = '1m'", func(c *Config) {
		c.Spec.MaxRetry = 2
		c.Spec.FindTime = time.Minute
	}},
	{"inline table", "trap = { maxretry = 2, findtime = \"1m\" }", func(c *Config) {
		c.Spec.MaxRetry = 2
		c.Spec.FindTime = time.Minute
	}},
	{"a ladder of one", "[ban]\nbantime = \"8h\"", func(c *Config) { c.Spec.BanTime = []time.Duration{8 * time.Hour} }},
	{"a ladder of one in seconds", "[ban]\nbantime = 600", func(c *Config) { c.Spec.BanTime = []time.Duration{10 * time.Minute} }},
	{"traps for UDP alone", "[trap]\ntcp = []\nudp = [69]", func(c *Config) {
		c.Spec.TrapTCP = nil
		c.Spec.TrapUDP = []ruleset.Ports{{From: 69, To: 69}}
	}},
	{"the whole of the ports", "[trap]\ntcp = [\"1-65535\"]", func(c *Config) { c.Spec.TrapTCP = []ruleset.Ports{{From: 1, To: 65535}} }},
	{"the narrowest and the widest prefix without a warning", "[ban]\nprefix6 = 48", func(c *Config) { c.Spec.Prefix6 = 48 }},
	{"no grace", "[trap]\ngrace = \"0s\"", func(c *Config) { c.Spec.Grace = 0 }},
	{"no grace, in seconds", "[trap]\ngrace = 0", func(c *Config) { c.Spec.Grace = 0 }},
	{"the longest grace", "[trap]\ngrace = 3600", func(c *Config) { c.Spec.Grace = time.Hour }},
	{"scans are no offence", "[scan]\nports = 0", func(c *Config) { c.Spec.Scan.Ports = 0 }},
	{"strict", "scan = { ports = 1, ignore = [] }", func(c *Config) {
		c.Spec.Scan.Ports = 1
		c.Spec.Scan.Ignore = nil
	}},
	{"scans without traps", "[trap]\ntcp = []", func(c *Config) { c.Spec.TrapTCP = nil }},
	{"traps and scans have their own findtime", "trap.findtime = \"1m\"\nscan.findtime = \"1w\"", func(c *Config) {
		c.Spec.FindTime = time.Minute
		c.Spec.Scan.FindTime = 7 * day
	}},
	{"no subnets", "[ban]\nsubnet4 = 0\nsubnet6 = 0", func(c *Config) { c.Spec.Subnet4, c.Spec.Subnet6 = 0, 0 }},
	{"the most subnets", "[ban]\nsubnet4 = 1000\nsubnet6 = 1000", func(c *Config) { c.Spec.Subnet4, c.Spec.Subnet6 = 1000, 1000 }},
	{"the watcher's defaults, given", "[watch]\nmetrics = \"\"\nntfy = \"\"\nntfy_token_file = \"\"\ncommand = []", func(*Config) {}},
}

func TestParse(t *testing.T) {
	for _, tt := range goodConfigs {
		t.Run(tt.name, func(t *testing.T) {
			want := Default()
			want.Source = "p.toml"
			tt.want(want)
			if diff := diffConfig(want, mustParse(t, tt.text)); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

const quotes = "; are quotes missing? Durations, addresses, ranges, paths and URLs need them"

// badConfigs have faults, one per line of want.
var badConfigs = []struct{ name, text, want string }{
	// Keys.
	{"unknown key, nearly a known one", "[ban]\nbantimes = \"8h\"", `2:1: ban.bantimes: unknown key: want bantime, forget, prefix6, single6, subnet4, subnet6 or size`},
	{"unknown key", "[ban]\nfoo = 1", `2:1: ban.foo: unknown key: want bantime, forget, prefix6, single6, subnet4, subnet6 or size`},
	{"unknown key above the tables", "foo = 1", `1:1: foo: unknown key: want mode, whitelist, whitelist_files, whitelist_interfaces, whitelist_names, trap, scan, ban, allow, knock, geo, report, fleet or watch`},
	{"a key of another table", "[watch]\nbantime = \"8h\"", `2:1: watch.bantime: unknown key: want state, metrics, ntfy, ntfy_token_file or command`},
	{"a key of no table", "[watch]\nwhitelist = []", `2:1: watch.whitelist: unknown key: want state, metrics, ntfy, ntfy_token_file or command`},
	{"upper case", "[trap]\nTCP = [1]", `2:1: trap.TCP: unknown key: want tcp, udp, grace, maxretry or findtime`},
	{"a table in upper case", "[Trap]\ntcp = [1]", `1:2: Trap: unknown key: want mode, whitelist, whitelist_files, whitelist_interfaces, whitelist_names, trap, scan, ban, allow, knock, geo, report, fleet or watch`},
	{"a fault in an inline table", "trap = {\n tcp = [ ],\n maxretry = 0, x = 1 }",
		"1:1: trap.maxretry: 0: want an integer from 1 to 1000\n" +
			"1:1: trap.x: unknown key: want tcp, udp, grace, maxretry or findtime"},
	{"a key with a dot in its name", "\"trap.tcp\" = [1]", `1:1: "trap.tcp": unknown key: want mode, whitelist, whitelist_files, whitelist_interfaces, whitelist_names, trap, scan, ban, allow, knock, geo, report, fleet or watch`},
	{"a dotted key below a key", "trap.tcp.x = 1", `1:1: trap.tcp: want a list in brackets`},
	{"unknown tables, and nothing of their keys", "[trapp]\na = 1\nb = 2\n[other.c]\nd = { e = 1 }\n[trap]\n[other.c.f]\n",
		`1:2: trapp: unknown key: want mode, whitelist, whitelist_files, whitelist_interfaces, whitelist_names, trap, scan, ban, allow, knock, geo, report, fleet or watch
4:2: other: unknown key: want mode, whitelist, whitelist_files, whitelist_interfaces, whitelist_names, trap, scan, ban, allow, knock, geo, report, fleet or watch`},
	{"a key twice", "[trap]\nmaxretry = 1\nmaxretry = 1", `3:1: toml: key maxretry is already defined`},
	{"a key twice that does not belong on a terminal", "\"\\u001b[31m\" = 1\n\"\\u001b[31m\" = 2", "2:1: toml: key \uFFFD[31m is already defined" + quotes},
	{"a table twice", "[trap]\n[ban]\n[trap]", `3:2: toml: table trap already exists: [trap] stands in line 1: put the keys below this line there`},
	{"a table twice, with blanks and comments", "\n [ trap ]# a\n[trap] # b\n", `3:2: toml: table trap already exists: [trap] stands in line 2: put the keys below this line there`},
	{"a table that is a key already", "trap = 1\n[trap]", `2:2: toml: key trap should be a table, not a value`},
	{"a value for a table", "trap = 3", `1:1: trap: 3: want a table, a line [trap] with its keys below`},
	{"a list of tables", "[[trap]]\nmaxretry = 0",
		`1:3: trap: want a table, a line [trap] with its keys below`},
	{"a table for a value", "[trap.tcp]\nx = 1", `1:2: trap.tcp: want a list in brackets`},

	// Types.
	{"a string for an integer", "[trap]\nmaxretry = \"3\"", `2:1: trap.maxretry: "3": want an integer from 1 to 1000`},
	{"a float for an integer", "[ban]\nsize = 1e3", `2:1: ban.size: 1000.0: want an integer from 1 to 16777216`},
	{"a boolean for an integer", "[ban]\nprefix6 = true", `2:1: ban.prefix6: true: want an integer from 1 to 128`},
	{"an integer for a list", "[trap]\ntcp = 23", `2:1: trap.tcp: 23: want a list in brackets`},
	{"a string for a list", "whitelist = \"10.0.0.0/8\"", `1:1: whitelist: "10.0.0.0/8": want a list in brackets`},
	{"a string for a list of files", "whitelist_files = \"a.txt\"", `1:1: whitelist_files: "a.txt": want a list in brackets`},
	{"an integer in a list of strings", "whitelist = [\"10.0.0.1\", 10]", `1:1: whitelist: 10: want an address, a prefix such as 192.0.2.0/24 or 2001:db8::/32, or a range such as 192.0.2.10-192.0.2.20; names are not resolved`},
	{"a list for a string", "[watch]\nstate = [\"/a\", \"/b\"]", `2:1: watch.state: ['/a', '/b']: want the absolute path of a file, such as "/var/lib/portmon/state.jsonl"`},
	{"a time for a duration", "[trap]\nfindtime = 00:10:00",
		`2:1: trap.findtime: 00:10:00: want a duration from 1s to 7d, such as 90 (seconds), "10m", "8h", "3d", "1w" or "1d12h"`},

	// Ranges.
	{"maxretry", "[trap]\nmaxretry = 1001", `2:1: trap.maxretry: 1001: want an integer from 1 to 1000`},
	{"prefix6", "[ban]\nprefix6 = 129", `2:1: ban.prefix6: 129: want an integer from 1 to 128`},
	{"prefix6 of nothing", "[ban]\nprefix6 = 0", `2:1: ban.prefix6: 0: want an integer from 1 to 128`},
	{"size", "[ban]\nsize = 16777217", `2:1: ban.size: 16777217: want an integer from 1 to 16777216`},
	{"ports", "[scan]\nports = 1001", `2:1: scan.ports: 1001: want an integer from 0 to 1000`},
	{"ports below none", "[scan]\nports = -1", `2:1: scan.ports: -1: want an integer from 0 to 1000`},
	{"ports as a list", "[scan]\nports = [22]", `2:1: scan.ports: [22]: want an integer from 0 to 1000`},
	{"ports as a word", "[scan]\nports = \"strict\"", `2:1: scan.ports: "strict": want an integer from 0 to 1000`},
	{"subnet4", "[ban]\nsubnet4 = 1001", `2:1: ban.subnet4: 1001: want an integer from 0 to 1000`},
	{"subnet6", "[ban]\nsubnet6 = -1", `2:1: ban.subnet6: -1: want an integer from 0 to 1000`},
	{"subnet6 as a prefix", "[ban]\nsubnet6 = \"/48\"", `2:1: ban.subnet6: "/48": want an integer from 0 to 1000`},
	{"a boolean for a grace", "[trap]\ngrace = false", `2:1: trap.grace: false: want a duration from 0s to 1h, such as 90 (seconds) or "10m"`},
	{"a key of scans among the traps", "[trap]\nignore = [80]", `2:1: trap.ignore: unknown key: want tcp, udp, grace, maxretry or findtime`},
	{"more than 64 bits", "[ban]\nsize = 99999999999999999999", `2:8: toml: decimal number is too large to fit in a 64-bit signed integer`},
	{"a value of many lines", "[watch]\nmetrics = \"\"\"\n" + strings.Repeat("long ", 100) + "\"\"\"",
		`2:1: watch.metrics: "long long long long long long long long long long long long …": want an address and a port, such as "127.0.0.1:9713", or "" for none`},

	// Syntax: the one kind of fault that hides the others.
	{"no value", "foo = 1\n[trap]\nmaxretry =\n", `3:11: toml: unexpected character U+000A at start of value`},
	{"no end", "[trap]\ntcp = [1,\n2", `3:1: toml: array is incomplete`},
	{"not TOML", "\x00", `1:1: toml: invalid character at start of key: U+0000`},
}

func TestParseFaults(t *testing.T) {
	for _, tt := range badConfigs {
		t.Run(tt.name, func(t *testing.T) { wantFaults(t, tt.text, tt.want) })
	}
}

// All faults come at once, in the order of the file, each with the line of its
// key.
func TestParseReportsEverything(t *testing.T) {
	wantFaults(t, `
whitelist = [
    "10.0.0.0/8",
    "10.0.0.0/33",
    "example.org",
]
whitelist_files = [ "missing.txt" ]
colour = "blue"

[trap]
tcp = [
    23,     # fine
    70000,
    [
        25,
    ],
    "5900-5910", 5905,
]
maxretry = "3"

[ban]
bantime = [
    "8h",
    "3h",
    "8 h",
]

[watch]
state = "state.jsonl"
`, `2:1: whitelist: "10.0.0.0/33": want a prefix length from 0 to 32 after the slash
2:1: whitelist: "example.org": want an address, a prefix such as 192.0.2.0/24 or 2001:db8::/32, or a range such as 192.0.2.10-192.0.2.20; names are not resolved
7:1: whitelist_files: "missing.txt": open missing.txt: file does not exist
8:1: colour: unknown key: want mode, whitelist, whitelist_files, whitelist_interfaces, whitelist_names, trap, scan, ban, allow, knock, geo, report, fleet or watch
11:1: trap.tcp: 70000: want a port from 1 to 65535, or a range of ports in quotes such as "5900-5910"
11:1: trap.tcp: [25]: want a port from 1 to 65535, or a range of ports in quotes such as "5900-5910"
11:1: trap.tcp: 5905 overlaps 5900-5910
19:1: trap.maxretry: "3": want an integer from 1 to 1000
22:1: ban.bantime: "8 h": want a duration from 1s to 3650d, such as 90 (seconds), "10m", "8h", "3d", "1w" or "1d12h"
22:1: ban.bantime: 3h after 8h: each step must be longer than the one before
29:1: watch.state: "state.jsonl": want the absolute path of a file, such as "/var/lib/portmon/state.jsonl"`)
}

func TestParseWarnings(t *testing.T) {
	tests := []struct{ name, text, want string }{
		{"no offence", "[trap]\ntcp = []\n[scan]\nports = 0", `2:1: trap.tcp: there are no traps and scan detection is off: nothing is banned except by hand`},
		{"no offence, all keys given", "[scan]\nports = 0\n[trap]\nudp = []\ntcp = []", `5:1: trap.tcp: there are no traps and scan detection is off: nothing is banned except by hand`},
		{"scans are still an offence", "[trap]\ntcp = []\n[scan]\nports = 1", ""},
		{"UDP traps are still an offence", "[trap]\ntcp = []\nudp = [69]\n[scan]\nports = 0", ""},
		{"one offence for a /24", "[ban]\nsubnet4 = 1", `2:1: ban.subnet4: one offence bans the whole /24`},
		{"one offence for a /48", "[ban]\nsubnet6 = 1", `2:1: ban.subnet6: one offence bans the whole /48`},
		{"two offences for a /48", "[ban]\nsubnet6 = 2", ""},
		{"sources as large as a subnet", "[ban]\nsubnet6 = 2\nprefix6 = 48", ""},
		{"sources as large as a subnet, by default", "[ban]\nprefix6 = 48", ""},
		{"sources as large as a subnet, which is off", "[ban]\nprefix6 = 48\nsubnet6 = 0", ""},
		{"sources almost as large as a subnet", "[ban]\nprefix6 = 49\nsubnet6 = 2", ""},
		{"a narrow prefix", "[ban]\nprefix6 = 65", `2:1: ban.prefix6: a host usually has a /64 to itself: it evades the ban with another address from it`},
		{"a wide prefix", "[ban]\nprefix6 = 47", `2:1: ban.prefix6: a customer has at most a /48: one offence bans many customers`},
		{"a memory just long enough", "[ban]\nforget = \"80h1s\"", ""},
		{"a single tier needs no memory", "[ban]\nbantime = \"8h\"\nforget = \"1h\"", ""},
		{"in the order of the file", "[ban]\nprefix6 = 128\nsubnet4 = 1",
			`2:1: ban.prefix6: a host usually has a /64 to itself: it evades the ban with another address from it
3:1: ban.subnet4: one offence bans the whole /24`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) { wantWarnings(t, tt.text, tt.want) })
	}
}

// A large file of something else is refused without locating each of its keys:
// that would take a minute.
func TestParseManyKeys(t *testing.T) {
	var text strings.Builder
	for i := range 5000 {
		fmt.Fprintf(&text, "key%d = 1\n", i)
	}
	_, err := parsed("p.toml", []byte(text.String()), noFiles)
	var faults Errors
	errors.As(err, &faults)
	if len(faults) != maxReports+1 || !strings.HasPrefix(faults[0].Error(), "p.toml: key0: unknown key: want ") {
		t.Errorf("%d faults, the first of them %v", len(faults), faults[0])
	}
}

// Nothing of what is returned belongs to somebody else.
func TestParseOwnsNothingShared(t *testing.T) {
	data := []byte("[watch]\nstate = \"/a/b\"\n")
	c, err := parsed("p.toml", data, noFiles)
	if err != nil {
		t.Fatal(err)
	}
	clear(data)
	if c.Watch.State != "/a/b" {
		t.Errorf("State is %q after the input was cleared", c.Watch.State)
	}
	c.Spec.Whitelist[0] = netip.Prefix{}
	c.Spec.TrapTCP[0] = ruleset.Ports{}
	if err := Default().Spec.Validate(); err != nil {
		t.Errorf("the default changed with a Config made from it: %v", err)
	}
}

func prefixes(texts ...string) []netip.Prefix {
	var all []netip.Prefix
	for _, s := range texts {
		all = append(all, netip.MustParsePrefix(s))
	}
	return all
}
