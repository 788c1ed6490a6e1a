package packaging

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

var units = []string{"portmon.service", "portmon-watch.service", "portmon-save.service"}

// directives returns the lines of a unit that say something: neither comments nor empty.
func directives(t *testing.T, path string) []string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return slices.DeleteFunc(strings.Split(string(data), "\n"), func(line string) bool {
		return line == "" || strings.HasPrefix(line, "#")
	})
}

// installed makes a folder of units as they are on a host that has enabled them and uses the drop-in, with a program that is there
// in the place of portmon.
func installed(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	link := func(target string, unit string) {
		wants := filepath.Join(dir, target+".wants")
		if err := os.MkdirAll(wants, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(filepath.Join(dir, unit), filepath.Join(wants, unit)); err != nil {
			t.Fatal(err)
		}
	}
	for _, unit := range append(units, "nftables.service.d/portmon.conf", "portmon-watch.service.d/ntfy-token.conf", "portmon-watch.service.d/fleet-key.conf") {
		data, err := os.ReadFile(filepath.Join("systemd", unit))
		if err != nil {
			t.Fatal(err)
		}
		target := filepath.Join(dir, unit)
		if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
			t.Fatal(err)
		}
		text := strings.ReplaceAll(string(data), "/usr/bin/portmon", "/bin/true")
		if err := os.WriteFile(target, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(text) {
			if targets, ok := strings.CutPrefix(strings.TrimSpace(line), "WantedBy="); ok {
				for target := range strings.FieldsSeq(targets) {
					link(target, unit)
				}
			}
		}
	}
	return dir
}

// Systemd understands every line, and finds no circle in the order of a host with all of it enabled.
func TestUnitsVerify(t *testing.T) {
	t.Setenv("SYSTEMD_UNIT_PATH", installed(t)+":") // the colon adds the usual folders
	for _, unit := range append(slices.Clone(units), "nftables.service") {
		if out, err := tool(t, "systemd-analyze", "verify", "--man=no", unit); err != nil || out != "" {
			t.Errorf("%s: %v\n%s", unit, err, out)
		}
	}
	out, _ := tool(t, "systemd-analyze", "verify", "--man=no", "multi-user.target") // what others get wrong is theirs
	for line := range strings.Lines(out) {
		if strings.Contains(line, "portmon") || strings.Contains(line, "ordering cycle") {
			t.Errorf("multi-user.target: %s", line)
		}
	}
}

// What is left to the units by systemd's own count, in tenths; 100 is everything.
func TestUnitsExposure(t *testing.T) {
	for unit, most := range map[string]string{"portmon.service": "15", "portmon-watch.service": "15", "portmon-save.service": "25"} {
		out, err := tool(t, "systemd-analyze", "security", "--offline=true", "--threshold="+most, filepath.Join("systemd", unit))
		if err != nil {
			lines := strings.Split(strings.TrimSpace(out), "\n")
			t.Errorf("%s: want at most %s: %v: %s", unit, most, err, lines[len(lines)-1])
		}
	}
}

// Both units are one user, so that they can share the state, and live in the same sandbox, but for the internet.
func TestUnitsSameSandbox(t *testing.T) {
	sandbox := func(unit string) []string {
		lines := directives(t, filepath.Join("systemd", unit))
		lines = lines[slices.Index(lines, "DynamicUser=yes"):slices.Index(lines, "[Install]")]
		return slices.DeleteFunc(lines, func(line string) bool { return strings.HasPrefix(line, "RestrictAddressFamilies=") })
	}
	if a, b := sandbox("portmon.service"), sandbox("portmon-watch.service"); !slices.Equal(a, b) {
		t.Errorf("%q\n%q", a, b)
	}
}

// The drop-in does what nftables.service does, and around it calls portmon in a way that cannot fail.
func TestDropIn(t *testing.T) {
	distribution, err := filepath.EvalSymlinks("/lib/systemd/system/nftables.service")
	if err != nil {
		t.Fatalf("%v: install Debian's nftables", err)
	}
	theirs := map[string][]string{}
	for _, line := range directives(t, distribution) {
		if key, value, ok := strings.Cut(line, "="); ok {
			theirs[key] = append(theirs[key], value)
		}
	}
	ours, order := map[string][]string{}, map[string][]string{}
	for _, line := range directives(t, "systemd/nftables.service.d/portmon.conf") {
		key, value, ok := strings.Cut(line, "=")
		switch {
		case !ok || value == "":
		case !strings.Contains(value, "portmon"):
			ours[key] = append(ours[key], value)
			order[key] = append(order[key], "nft")
		case !strings.HasPrefix(value, "-/usr/bin/portmon "):
			t.Errorf("%s: want a minus and the path of portmon", line)
		default:
			order[key] = append(order[key], strings.TrimPrefix(value, "-/usr/bin/portmon "))
		}
	}
	for _, key := range []string{"ExecReload", "ExecStop"} {
		if !slices.Equal(ours[key], theirs[key]) {
			t.Errorf("%s is %q, and nftables.service has %q", key, ours[key], theirs[key])
		}
	}
	for key, want := range map[string][]string{
		"ExecStartPost": {"apply --boot"}, "ExecReload": {"save", "nft", "apply --boot"}, "ExecStop": {"save", "nft"},
	} {
		if !slices.Equal(order[key], want) {
			t.Errorf("%s is %q: want %q", key, order[key], want)
		}
	}
}

// A reload of a faulty file fails, though its exit code counts as success at the start, and leaves the table alone; if nftables has
// flushed that, it is made by the last good configuration first.
func TestReloadOfFaultyFile(t *testing.T) {
	var command string
	for _, line := range directives(t, "systemd/portmon.service") {
		if value, ok := strings.CutPrefix(line, "ExecReload=/bin/sh -c '"); ok {
			command = strings.TrimSuffix(value, "'")
		}
	}
	for name, test := range map[string]struct {
		apply, list string // what these do
		fails       bool
		called      string
	}{
		"without faults":            {"exit 0", "exit 0", false, "apply\n"},
		"with a fault":              {"exit 2", "exit 0", true, "apply\nlist --count\n"},
		"with a fault, and flushed": {"exit 2", "exit 3", true, "apply\nlist --count\napply --boot\n"},
	} {
		dir := t.TempDir()
		program := filepath.Join(dir, "portmon")
		script := "#!/bin/sh\necho \"$*\" >>" + dir + "/called\ncase $1 in apply) " + test.apply + ";; list) " + test.list + ";; esac\n"
		if err := os.WriteFile(program, []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
		_, err := tool(t, "sh", "-c", strings.ReplaceAll(command, "/usr/bin/portmon", program))
		called, readErr := os.ReadFile(filepath.Join(dir, "called"))
		var exit *exec.ExitError
		if errors.As(err, &exit); (err != nil) != test.fails || test.fails && exit.ExitCode() != 1 || readErr != nil || string(called) != test.called {
			t.Errorf("%s: %v; it calls %q, want %q (%v)", name, err, called, test.called, readErr)
		}
	}
}
