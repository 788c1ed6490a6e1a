package nixos

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// The hub is the unit of packaging/fleet, line by line, but that its first start makes the keys.
func TestHubUnit(t *testing.T) {
	const user = `{ enable = true; urls = [ "tls://hub.example.net:4222" "tls://[2001:db8::1]:4222" ]; openFirewall = true; }`
	m, err := tryModule(t, "portmon-hub", user)
	if err != nil {
		t.Fatal(err)
	}
	want := slices.DeleteFunc(unit(t, "../fleet/portmon-hub.service"), func(l string) bool { return strings.HasPrefix(l, "ConditionPathExists=") })
	want = append(want, "ExecStartPre=/bin/sh -c 'test -e /var/lib/portmon-hub/hub.toml || /usr/bin/portmon-hub init "+
		"--url tls://hub.example.net:4222 --url tls://[2001:db8::1]:4222'")
	slices.Sort(want)
	if d := cmp.Diff(want, m.Services["portmon-hub"].directives(t)); d != "" {
		t.Errorf("(-unit +module)\n%s", d)
	}
	if len(m.Failed) > 0 || !cmp.Equal(m.Ports, []any{4222.0}) {
		t.Errorf("assertions %q failed; ports are %v", m.Failed, m.Ports)
	}
	for name, text := range leaves(m.Options) {
		if strings.HasSuffix(name, ".description") && !strings.HasSuffix(text.(string), ".") && name != "enable.description" {
			t.Errorf("%s: %s", name, text)
		}
	}
	if _, err := tryModule(t, "portmon-hub", `{ enable = true; urls = [ "tls://x:1' rm" ]; }`); err == nil {
		t.Error("a URL can end the command")
	}
	if m, err := tryModule(t, "portmon-hub", `{ enable = true; urls = [ ]; }`); err != nil || len(m.Failed) != 1 {
		t.Errorf("no URL: %v, %v", m, err)
	}
}

// A host joins with a token that only the unit which does so can read, unless
// it belongs to a fleet.
func TestJoin(t *testing.T) {
	m := evaluate(t, `{ enable = true; watch.enable = true; fleet.tokenFile = "/run/secrets/fleet"; }`)
	lines := m.Services["portmon-fleet"].directives(t)
	for _, want := range []string{
		"LoadCredential=fleet.token:/run/secrets/fleet", "ConditionPathExists=!/var/lib/portmon/fleet.json", "User=portmon",
		`ExecStart=/bin/sh -c '/usr/bin/portmon fleet join - <"$CREDENTIALS_DIRECTORY/fleet.token"'`, "After=portmon-watch.service",
	} {
		if !slices.Contains(lines, want) {
			t.Errorf("no %s in %q", want, lines)
		}
	}
	for _, name := range []string{"portmon", "portmon-watch"} {
		if lines := m.Services[name].directives(t); slices.Contains(lines, "LoadCredential=fleet.token:/run/secrets/fleet") {
			t.Errorf("%s reads the token", name)
		}
	}
	if m := evaluate(t, `{ enable = true; fleet.tokenFile = "/run/secrets/fleet"; }`); len(m.Failed) != 1 {
		t.Errorf("without a watcher, assertions %q failed", m.Failed)
	}
}
