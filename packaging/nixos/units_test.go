package nixos

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// service is one of systemd.services, as NixOS has them.
type service map[string]any

// lists are directives that hold words, which may stand in one line or in several.
const lists = " After Before Conflicts Documentation PartOf WantedBy Wants "

// line returns what a line of a unit says, one by one.
func line(name, value string) (lines []string) {
	if !strings.Contains(lists, " "+name+" ") {
		return []string{name + "=" + value}
	}
	for word := range strings.FieldsSeq(value) {
		lines = append(lines, name+"="+word)
	}
	return lines
}

// directives returns a service as NixOS would write it, in lines, sorted and without sections.
func (s service) directives(t *testing.T) []string {
	t.Helper()
	var lines []string
	add := func(name string, v any) {
		values, ok := v.([]any)
		if !ok {
			values = []any{v}
		}
		for _, v := range values {
			text := fmt.Sprint(v)
			if b, ok := v.(bool); ok {
				text = map[bool]string{true: "yes", false: "no"}[b]
			}
			lines = append(lines, line(name, text)...)
		}
	}
	for name, v := range s {
		switch name {
		case "unitConfig", "serviceConfig":
			for name, v := range v.(map[string]any) {
				add(name, v)
			}
		case "triggers":
		default:
			add(strings.ToUpper(name[:1])+name[1:], v)
		}
	}
	slices.Sort(lines)
	return lines
}

// unit returns what the lines of a unit say, sorted and without sections.
func unit(t *testing.T, path string) (lines []string) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for text := range strings.Lines(string(data)) {
		if name, value, ok := strings.Cut(strings.TrimSpace(text), "="); ok && !strings.HasPrefix(name, "#") {
			lines = append(lines, line(name, value)...)
		}
	}
	slices.Sort(lines)
	return lines
}

// The services are the units of packaging/systemd, line by line.
func TestUnits(t *testing.T) {
	m := evaluate(t, `{ enable = true; watch.enable = true; }`)
	maps.DeleteFunc(m.Services, func(_ string, s service) bool { return len(s) == 0 }) // what is not asked for
	files, err := filepath.Glob("../systemd/*.service")
	if err != nil || len(files) != len(m.Services) {
		t.Errorf("%d services and %d units: %v", len(m.Services), len(files), err)
	}
	for _, file := range files {
		got := m.Services[strings.TrimSuffix(filepath.Base(file), ".service")].directives(t)
		if d := cmp.Diff(unit(t, file), got); d != "" {
			t.Errorf("%s (-unit +module)\n%s", file, d)
		}
	}
}

// A new configuration is put in force, and told to the watcher, without a restart of either.
func TestReload(t *testing.T) {
	m := evaluate(t, `{ enable = true; watch.enable = true; }`)
	for _, name := range []string{"portmon", "portmon-watch"} {
		if triggers := m.Services[name]["triggers"].([]any); len(triggers) != 1 || triggers[0] != m.File {
			t.Errorf("%s is reloaded for %q", name, triggers)
		}
	}
}
