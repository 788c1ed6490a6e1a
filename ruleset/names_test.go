package ruleset

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/portmon/portmon/nftset"
)

func TestRoleOf(t *testing.T) {
	type role struct {
		role Role
		step int
	}
	for name, want := range map[string]role{
		"ban4": {RoleBan, 0}, "ban6": {RoleBan, 0}, "net4": {RoleNet, 0}, "net6": {RoleNet, 0},
		"subnet4": {RoleSubnet, 0}, "subnet6": {RoleSubnet, 0}, "scanner4": {RoleScanner, 0}, "scanner6": {RoleScanner, 0},
		"tier4_1": {RoleStep, 1}, "tier4_8": {RoleStep, 8}, "tier6_3": {RoleStep, 3},
		"tier4_0": {}, "tier4_9": {}, "tier4_02": {}, "tier4_+2": {}, "tier4_": {}, "tier4_2x": {}, "tier4_-2": {}, "tier5_2": {}, "tier4": {},
		"tier4_99999999999999999999": {}, "ban4_2": {}, "ban": {}, "ban5": {}, "ban44": {}, "xban4": {}, "net": {}, "": {}, "tier4_2 ": {},
		"whitelist4": {}, "trap_tcp": {}, "hits4": {}, "probed4": {}, "score4": {}, "crowd6": {}, "own6": {}, "single6": {}, "served_tcp4": {}, "grace_tcp4": {},
	} {
		got, step := RoleOf(name)
		if (role{got, step}) != want {
			t.Errorf("RoleOf(%q) = %v, %d, want %v", name, got, step, want)
		}
		if got == RoleNone {
			continue
		}
		a := addr("198.51.100.1")
		if strings.Contains(name, "6") {
			a = addr("2001:db8::1")
		}
		if back := got.Set(a, step); back != name {
			t.Errorf("%q comes back as %q", name, back)
		}
		if bans := slices.Contains([]string{"ban", "net", "subnet"}, strings.TrimRight(name, "46")); got.Bans() != bans {
			t.Errorf("does %s ban? Role.Bans() = %v", name, !bans)
		}
	}
	if name := RoleNone.Set(addr("198.51.100.1"), 1); name != "" {
		t.Errorf("no role has the set %q", name)
	}
}

// TestEverySetOfATableIsOurs keeps a set from staying behind when another
// configuration has no use for it.
func TestEverySetOfATableIsOurs(t *testing.T) {
	for name, spec := range specs() {
		for _, set := range Compile(spec).Sets {
			if !isOurs(set.Name) {
				t.Errorf("%s: set %s is not ours", name, set.Name)
			}
		}
	}
	for _, theirs := range []string{"mine", "ban4_2", "tier4_9", "trap", "whitelist", ""} {
		if isOurs(theirs) {
			t.Errorf("set %q is ours", theirs)
		}
	}
}

func TestParseCause(t *testing.T) {
	for c, name := range causes {
		if got, ok := ParseCause(name); !ok || got != Cause(c) || got.String() != name {
			t.Errorf("ParseCause(%q) = %v, %v", name, got, ok)
		}
	}
	for _, name := range []string{"Trap", "scan ", "traps", "0"} {
		if got, ok := ParseCause(name); ok || got != CauseUnknown {
			t.Errorf("ParseCause(%q) = %v, %v", name, got, ok)
		}
	}
}

// TestParseLogPrefix reads every prefix that a table has, and none besides.
func TestParseLogPrefix(t *testing.T) {
	spec := Default()
	spec.BanTime = specs()["8 steps"].BanTime
	seen := 0
	for _, c := range Compile(spec).Chains {
		for _, r := range c.Rules {
			_, text, ok := strings.Cut(r.String(), `log prefix "`)
			if !ok {
				continue
			}
			seen++
			prefix, _, _ := strings.Cut(text, `"`)
			cause, step, ok := ParseLogPrefix(prefix)
			if !ok || prefix != logPrefix(cause, step) {
				t.Errorf("ParseLogPrefix(%q) = %v, %d, %v", prefix, cause, step, ok)
			}
			if c.Name != chainSubnet && c.Name != chainBan(step) {
				t.Errorf("chain %s logs %q", c.Name, prefix)
			}
		}
	}
	if want := 2*MaxSteps + 1; seen != want {
		t.Errorf("the table has %d log statements, want %d", seen, want)
	}
	for _, prefix := range []string{
		"", "portmon", "portmon trap", "portmon trap 0", "portmon trap 9", "portmon trap 1 ", "portmon scan 01", "portmon hand 1", "portmon subnet 1", "portmon ban", "Portmon trap 1",
	} {
		if cause, step, ok := ParseLogPrefix(prefix); ok {
			t.Errorf("ParseLogPrefix(%q) = %v, %d", prefix, cause, step)
		}
	}
}

// TestPortSet lists single ports as long as the kernel makes a bitmap of them.
func TestPortSet(t *testing.T) {
	for _, tt := range []struct {
		ports []Ports
		flags nftset.Flags
		want  string
	}{
		{nil, 0, "[]"},
		{[]Ports{{23, 23}}, 0, "[23]"},
		{[]Ports{{24, 25}, {23, 23}, {9, 9}}, 0, "[9 23 24 25]"},
		{[]Ports{{65534, 65535}}, 0, "[65534 65535]"},
		{[]Ports{{1, 4097}}, nftset.FlagInterval, "[1-4097]"},
		{[]Ports{{1, 65535}}, nftset.FlagInterval, "[1-65535]"},
		{[]Ports{{4001, 9000}, {2, 4000}, {1, 1}, {60000, 60000}}, nftset.FlagInterval, "[1-9000 60000]"},
	} {
		ivs, flags := portSet(tt.ports)
		if got := fmt.Sprint(ivs); got != tt.want || flags != tt.flags {
			t.Errorf("%v: got %s with flags %v, want %s with %v", tt.ports, got, flags, tt.want, tt.flags)
		}
	}
	ivs, flags := portSet([]Ports{{1, 2048}, {60000, 62047}})
	if len(ivs) != maxSinglePorts || flags != 0 || ivs[2048] != nftset.Single(nftset.PortKey(60000)).Interval {
		t.Errorf("of 4,096 ports it made %d elements, with flags %v", len(ivs), flags)
	}
}
