package nixos

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/pelletier/go-toml/v2"

	"github.com/portmon/portmon/internal/config"
)

// reference returns the built-in default, as it is written in the reference file.
func reference(t *testing.T) map[string]any {
	t.Helper()
	var all map[string]any
	if err := toml.Unmarshal(config.Reference, &all); err != nil {
		t.Fatal(err)
	}
	return sameNumbers(t, all)
}

// sameNumbers returns values as JSON has them.
func sameNumbers(t *testing.T, v map[string]any) (same map[string]any) {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, &same); err != nil {
		t.Fatal(err)
	}
	return same
}

// leaves returns the values in tables by their path, such as trap.tcp.
func leaves(table map[string]any) map[string]any {
	all := map[string]any{}
	for name, v := range table {
		if inner, ok := v.(map[string]any); ok {
			for below, v := range leaves(inner) {
				all[name+"."+below] = v
			}
		} else {
			all[name] = v
		}
	}
	return all
}

// What is not set is what the reference file says, and each of its keys is an option with a description.
func TestDefaults(t *testing.T) {
	m := evaluate(t, "{ enable = true; }")
	if d := cmp.Diff(reference(t), m.Settings); d != "" {
		t.Errorf("(-reference +module)\n%s", d)
	}
	options := leaves(m.Options)
	for key := range leaves(reference(t)) {
		if text, _ := options["settings."+key+".description"].(string); text == "" {
			t.Errorf("%s has no description, or is no option", key)
		}
	}
	for name, text := range options {
		if strings.HasSuffix(name, ".description") && !strings.HasSuffix(strings.TrimSpace(text.(string)), ".") {
			t.Errorf("%s: %s", name, text)
		}
	}
}

// others are values of every key that differ from the default.
var others = map[string]string{
	"mode": `"observe"`, "whitelist_interfaces": `["wg0", "br-*"]`,
	"knock.tcp": `[9003, 7001, 8002]`, "knock.within": `"1m"`, "knock.allow": `"1h"`,
	"whitelist": `["198.51.100.0/24"]`, "whitelist_files": `["/var/lib/list.txt"]`, "whitelist_names": `["home.example.org"]`,
	"trap.tcp": `[22, "100-200"]`, "trap.udp": `[53]`, "trap.grace": `0`, "trap.maxretry": `3`, "trap.findtime": `60`,
	"scan.ports": `1`, "scan.findtime": `3600`, "scan.ignore": `[80, "40000-40100"]`,
	"ban.bantime": `["1h"]`, "ban.forget": `"60d"`, "ban.prefix6": `56`, "ban.single6": `["2001:db8:64::/96"]`,
	"ban.subnet4": `3`, "ban.subnet6": `0`, "ban.size": `1000`,
	"allow.login": `"30d"`, "geo.databases": `["/var/lib/GeoIP/GeoLite2-ASN.mmdb"]`, "report.abuseipdb_key_file": `"/run/key"`, "fleet.max_bantime": `"1d"`,
	"watch.state": `"/var/lib/portmon/other.jsonl"`, "watch.metrics": `"127.0.0.1:9713"`, "watch.ntfy": `"https://ntfy.example/topic"`,
	"watch.ntfy_token_file": `"/run/token"`, "watch.command": `["/bin/true", "x"]`,
}

// Every key of the configuration can be set, and what is set is in the file, which portmon takes.
func TestEveryKey(t *testing.T) {
	want := leaves(reference(t))
	if d := cmp.Diff(slices.Sorted(maps.Keys(want)), slices.Sorted(maps.Keys(others))); d != "" {
		t.Fatalf("(-reference +here)\n%s", d)
	}
	var sets strings.Builder
	for key, text := range others {
		var v any
		if err := json.Unmarshal([]byte(text), &v); err != nil {
			t.Fatal(err)
		}
		if cmp.Equal(v, want[key]) {
			t.Errorf("%s: %s is the default", key, text)
		}
		want[key] = v
		fmt.Fprintf(&sets, "settings.%s = builtins.fromJSON ''%s'';\n", key, text)
	}
	m := evaluate(t, "{ enable = true; "+sets.String()+"}")
	b := m.build(t)
	if d := cmp.Diff(want, leaves(b.written)); d != "" {
		t.Errorf("(-want +written)\n%s", d)
	}
	// The file of the host cannot be checked where the system is built.
	want["whitelist_files"] = []any{}
	if d := cmp.Diff(want, leaves(b.checked)); d != "" {
		t.Errorf("(-want +checked)\n%s", d)
	}
	if _, err := config.Load(b.checkedFile); err != nil {
		t.Error(err)
	}
}

var marked = regexp.MustCompile(`<<([^|>]+)\|(.*?)>>`)

// built is what the build of the configuration file does.
type built struct {
	checkedFile      string // which it has portmon check
	checked, written map[string]any
}

// build takes the script apart that makes the configuration file: it has portmon check one, and puts out another.
func (m *module) build(t *testing.T) built {
	t.Helper()
	dir := t.TempDir()
	contents := map[string]map[string]any{}
	script := marked.ReplaceAllStringFunc(m.File, func(mark string) string {
		parts := marked.FindStringSubmatch(mark)
		var content map[string]any
		if err := json.Unmarshal([]byte(parts[2]), &content); err != nil {
			t.Fatalf("%s: %v", mark, err)
		}
		contents[parts[1]] = content
		// A number of JSON is a float, which TOML tells from an integer.
		dec := json.NewDecoder(strings.NewReader(parts[2]))
		dec.UseNumber()
		var exact map[string]any
		if err := dec.Decode(&exact); err != nil {
			t.Fatal(err)
		}
		data, err := toml.Marshal(integers(t, exact))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, parts[1]), data, 0o644); err != nil {
			t.Fatal(err)
		}
		return parts[1]
	})
	want := "<<run portmon.toml>>/usr/bin/portmon config check portmon-check.toml\ncp portmon.toml $out\n<<end>>"
	if script != want {
		t.Fatalf("the build runs\n%s\nwant\n%s", script, want)
	}
	return built{filepath.Join(dir, "portmon-check.toml"), contents["portmon-check.toml"], contents["portmon.toml"]}
}

func integers(t *testing.T, v any) any {
	switch v := v.(type) {
	case map[string]any:
		for name, inner := range v {
			v[name] = integers(t, inner)
		}
	case []any:
		for i, inner := range v {
			v[i] = integers(t, inner)
		}
	case json.Number:
		n, err := v.Int64()
		if err != nil {
			t.Error(err)
		}
		return n
	}
	return v
}

// A fault that only portmon can see ends the build. Files of the store are part of that, and those of the host are not.
func TestBuildChecks(t *testing.T) {
	b := evaluate(t, `{ enable = true; settings.trap.tcp = [ 23 "20-30" ]; }`).build(t)
	if _, err := config.Load(b.checkedFile); err == nil || !strings.Contains(err.Error(), "tcp") {
		t.Errorf("overlapping traps: %v", err)
	}
	b = evaluate(t, `{ enable = true; settings.whitelist_files = [ ./portmon.nix "/var/lib/list.txt" ]; }`).build(t)
	checked, written := b.checked["whitelist_files"].([]any), b.written["whitelist_files"].([]any)
	if len(checked) != 1 || len(written) != 2 || !strings.HasPrefix(checked[0].(string), "/nix/store/") || written[0] != checked[0] || written[1] != "/var/lib/list.txt" {
		t.Errorf("checked %q, written %q", checked, written)
	}
	m := evaluate(t, `{ enable = true; checkConfig = false; }`)
	if !strings.HasPrefix(m.File, "<<portmon.toml|") {
		t.Errorf("not to be checked: %s", m.File)
	}
}

// What Nix can see, it says before.
func TestRefused(t *testing.T) {
	for user, want := range map[string]string{
		`{ settings.trap.maxretry = 0; }`:           "services.portmon.settings.trap.maxretry: want from 1 to 1000, not 0",
		`{ settings.trap.grace = 3601; }`:           "services.portmon.settings.trap.grace: want str or from 0 to 3600, not 3601",
		`{ settings.scan.ports = 1001; }`:           "services.portmon.settings.scan.ports: want from 0 to 1000, not 1001",
		`{ settings.scan.ignore = [ 70000 ]; }`:     "services.portmon.settings.scan.ignore: want list of",
		`{ settings.ban.single6 = "::/0"; }`:        "services.portmon.settings.ban.single6: want list of str",
		`{ settings.mode = "off"; }`:                `services.portmon.settings.mode: want one of ["enforce","observe"], not "off"`,
		`{ settings.ban.subnet6 = -1; }`:            "services.portmon.settings.ban.subnet6: want from 0 to 1000, not -1",
		`{ settings.trap.tcp = [ 70000 ]; }`:        "services.portmon.settings.trap.tcp: want list of",
		`{ settings.ban.bantime = [ 1.5 ]; }`:       "services.portmon.settings.ban.bantime: want",
		`{ watch.ntfyTokenFile = ./portmon.nix; }`:  "services.portmon.watch.ntfyTokenFile: want null or str",
		`{ watcher.enable = true; }`:                "services.portmon.watcher: there is no such option",
		`{ settings.whitelist_files = ["a.txt"]; }`: "services.portmon.settings.whitelist_files: want list of path",
	} {
		if _, err := try(t, user); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %s", user, err, want)
		}
	}
	for user, want := range map[string][]string{
		`{ enable = true; }`: nil,
		`{ enable = true; settings.watch.state = "/srv/state.jsonl"; }`: {"services.portmon.settings.watch.state: the units may write in /var/lib/portmon only"},
		`{ enable = true; watch.ntfyTokenFile = "/run/secrets/x"; }`:    {"services.portmon.watch.ntfyTokenFile: there is no watcher to use it; set services.portmon.watch.enable"},
	} {
		if m := evaluate(t, user); !slices.Equal(m.Failed, want) {
			t.Errorf("%s: assertions %q failed, want %q", user, m.Failed, want)
		}
	}
	// A key that this version of the module does not know is for portmon to judge.
	m := evaluate(t, `{ enable = true; settings.trap.sctp = [ 9 ]; }`)
	if got := leaves(m.Settings)["trap.sctp"]; !cmp.Equal(got, []any{9.0}) {
		t.Errorf("a key of another version is %v", got)
	}
}

// The token goes from the host's file to the watcher alone, and portmon.toml
// names the place where the watcher finds it.
func TestToken(t *testing.T) {
	m := evaluate(t, `{ enable = true; watch.enable = true; watch.ntfyTokenFile = "/run/secrets/ntfy"; settings.watch.ntfy = "https://ntfy.example/x"; }`)
	watch := leaves(m.Settings)
	if watch["watch.ntfy_token_file"] != "/run/credentials/portmon-watch.service/ntfy.token" || watch["watch.ntfy"] != "https://ntfy.example/x" {
		t.Errorf("settings are %v", watch)
	}
	for name, s := range m.Services {
		lines := s.directives(t)
		if has := slices.Contains(lines, "LoadCredential=ntfy.token:/run/secrets/ntfy"); has != (name == "portmon-watch") {
			t.Errorf("%s: %q", name, lines)
		}
	}
}

func TestEnable(t *testing.T) {
	if evaluate(t, `{ }`).Enabled {
		t.Error("enabled without being asked")
	}
	m := evaluate(t, `{ enable = true; }`)
	if !m.Enabled || len(m.Services["portmon-watch"]) > 0 {
		t.Errorf("enabled is %v, the watcher is %v", m.Enabled, m.Services["portmon-watch"])
	}
	if !slices.Equal(m.Programs, []string{"/usr"}) {
		t.Errorf("programs are %q", m.Programs)
	}
}
